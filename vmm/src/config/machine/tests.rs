use std::path::PathBuf;

use super::{Machine, SerialConfig, parse_cpu, parse_machine, parse_smp};

#[test]
fn machine_is_q35_with_an_optional_backend() {
    assert_eq!(parse_machine("q35").unwrap(), (Machine::Q35, None));
    assert_eq!(
        parse_machine("type=q35,accel=kvm").unwrap(),
        (Machine::Q35, None)
    );
    assert_eq!(
        parse_machine("q35,memory-backend=m0").unwrap(),
        (Machine::Q35, Some("m0".to_owned()))
    );
    for (text, reason) in [
        ("pc", "q35"),
        ("q35,accel=tcg", "kvm"),
        ("q35,usb=on", "unknown property \"usb\""),
    ] {
        assert!(
            parse_machine(text)
                .unwrap_err()
                .to_string()
                .contains(reason),
            "{text}"
        );
    }
}

#[test]
fn smp_is_1_to_32() {
    for (text, cpus) in [("1", 1), ("cpus=4", 4), ("32", 32)] {
        assert_eq!(parse_smp(text).unwrap(), cpus);
    }
    for text in ["0", "33", "-1", "+2", "two", "2,sockets=1", "256"] {
        assert!(parse_smp(text).is_err(), "{text}");
    }
}

#[test]
fn cpu_is_host() {
    parse_cpu("host").unwrap();
    assert!(
        parse_cpu("EPYC")
            .unwrap_err()
            .to_string()
            .contains("is host")
    );
}

#[test]
fn serial_takes_its_four_forms() {
    assert_eq!(SerialConfig::parse("stdio").unwrap(), SerialConfig::Stdio);
    assert_eq!(SerialConfig::parse("none").unwrap(), SerialConfig::None);
    assert_eq!(
        SerialConfig::parse("file:/tmp/a:b").unwrap(),
        SerialConfig::File(PathBuf::from("/tmp/a:b"))
    );
    let unix = |server| SerialConfig::Unix {
        path: PathBuf::from("/run/s"),
        server,
    };
    assert_eq!(SerialConfig::parse("unix:/run/s").unwrap(), unix(true));
    assert_eq!(
        SerialConfig::parse("unix:/run/s,server=on,wait=off").unwrap(),
        unix(true)
    );
    assert_eq!(
        SerialConfig::parse("unix:/run/s,server=off").unwrap(),
        unix(false)
    );
}

#[test]
fn serial_of_another_form_is_refused() {
    let long = format!("unix:/{}", "x".repeat(107));
    for text in [
        "",
        "pty",
        "file:",
        "unix:",
        "tcp:1",
        "unix:/s,wait=on",
        "unix:/s,x=1",
        &long,
    ] {
        assert!(
            SerialConfig::parse(text)
                .unwrap_err()
                .to_string()
                .starts_with("-serial "),
            "{text}"
        );
    }
}
