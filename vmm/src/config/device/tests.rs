use std::path::Path;

use super::{BarMmap, DeviceConfig, HostOptions};

fn refused(text: &str) -> String {
    DeviceConfig::parse(text).unwrap_err().to_string()
}

#[test]
fn manual_line_makes_a_host_device() {
    let text = "vfio-pci,host=0000:1a:00.3,id=net,bus=pcie.0,addr=0x03.0x0,multifunction=on";
    let DeviceConfig::VfioPci(device) = DeviceConfig::parse(text).unwrap() else {
        panic!("not a vfio-pci")
    };
    assert_eq!(device.host.to_string(), "0000:1a:00.3");
    assert_eq!(device.common.id, "net");
    assert_eq!(device.common.options.bar_mmap, BarMmap::On);
    assert!(device.common.place.multifunction && !device.common.options.allow_no_reset);
}

#[test]
fn qemu_json_makes_the_same_device_as_the_plain_form() {
    let json = r#"{"driver":"vfio-user-pci","socket":{"path":"/run/x.sock","type":"unix"},"id":"net","bus":"pcie.0","addr":"0x3"}"#;
    let plain = "vfio-user-pci,socket=/run/x.sock,id=net,bus=pcie.0,addr=0x3";
    assert_eq!(DeviceConfig::parse(json), DeviceConfig::parse(plain));
    let DeviceConfig::VfioUserPci(device) = DeviceConfig::parse(plain).unwrap() else {
        panic!("not a vfio-user-pci")
    };
    assert_eq!(device.socket, Path::new("/run/x.sock"));
}

#[test]
fn root_port_has_a_number_and_takes_a_chassis() {
    let text = "pcie-root-port,id=pcie.1,port=0x1,chassis=7,bus=pcie.0,addr=0x1";
    let DeviceConfig::RootPort(port) = DeviceConfig::parse(text).unwrap() else {
        panic!("not a root port")
    };
    assert_eq!((port.id.as_str(), port.port), ("pcie.1", 1));
    assert!(
        refused("pcie-root-port,id=p,chassis=x,bus=pcie.0,addr=0x1")
            .contains("write a number from 0 to 65535")
    );
}

#[test]
fn host_is_an_address_and_never_a_path() {
    for host in [
        "../../../etc",
        "1a:00",
        "0000:1a:00.3/..",
        "zz:00.0",
        "0000:1a:00.9",
    ] {
        let text = refused(&format!("vfio-pci,host={host},id=net,bus=pcie.0,addr=3"));
        assert!(
            text.contains("host: ") && text.contains("0000:1a:00.3"),
            "{text}"
        );
    }
}

#[test]
fn missing_host_and_missing_socket_say_what_to_give() {
    assert!(
        refused("vfio-pci,id=net,bus=pcie.0,addr=3")
            .contains("host is missing; say which host device")
    );
    assert!(
        refused("vfio-user-pci,id=net,bus=pcie.0,addr=3").contains("socket is missing; say where")
    );
}

#[test]
fn socket_path_that_the_supervisor_would_not_take_is_refused() {
    let of = |socket: &str| {
        refused(&format!(
            "vfio-user-pci,socket={socket},id=net,bus=pcie.0,addr=3"
        ))
    };
    assert!(of("x.sock").contains("socket=x.sock: write the whole path, from /"));
    assert!(of("./x.sock").contains("write the whole path, from /"));
    assert!(of("/run/x\n.sock").contains("control character"));
    assert!(of(&format!("/{}", "x".repeat(107))).contains("at most 107 bytes"));
}

#[test]
fn id_is_required_not_empty_and_at_most_255_bytes() {
    assert!(refused("vfio-pci,host=1a:00.3,bus=pcie.0,addr=3").contains("id is missing or empty"));
    assert!(
        refused("vfio-pci,host=1a:00.3,id=,bus=pcie.0,addr=3").contains("id is missing or empty")
    );
    let long = "x".repeat(256);
    assert!(
        refused(&format!(
            "vfio-pci,host=1a:00.3,id={long},bus=pcie.0,addr=3"
        ))
        .contains("id has 256 bytes")
    );
    let longest = "x".repeat(255);
    DeviceConfig::parse(&format!(
        "vfio-pci,host=1a:00.3,id={longest},bus=pcie.0,addr=3"
    ))
    .unwrap();
}

#[test]
fn unknown_driver_and_unknown_key_name_what_there_is() {
    assert!(refused("e1000e,id=net").contains("there are pcie-root-port, vfio-pci, vfio-user-pci"));
    let text = refused("vfio-pci,hots=1a:00.3,id=net,bus=pcie.0,addr=3");
    assert!(
        text.contains("unknown property \"hots\"")
            && text.contains("known: addr, allow-no-reset, allow-noncoherent, bar-mmap"),
        "{text}"
    );
}

#[test]
fn bar_mmap_force_and_allow_noncoherent_are_taken() {
    let device = |options: &str| {
        let text = format!("vfio-pci,host=1a:00.3,id=net,bus=pcie.0,addr=3{options}");
        DeviceConfig::parse(&text).unwrap().vfio().unwrap().options
    };
    let options = device(",bar-mmap=force,allow-noncoherent=on");
    assert_eq!(options.bar_mmap, BarMmap::Force);
    assert!(options.allow_noncoherent);
    assert_eq!(device(""), HostOptions::default());
    let text = refused("vfio-pci,host=1a:00.3,id=net,bus=pcie.0,addr=3,bar-mmap=maybe");
    assert!(text.contains("force"), "{text}");
}

#[test]
fn bar_mmap_off_and_allow_no_reset_are_taken() {
    let text = "vfio-pci,host=1a:00.3,id=net,bus=pcie.0,addr=3,bar-mmap=off,allow-no-reset=on";
    let device = DeviceConfig::parse(text).unwrap();
    let common = device.vfio().unwrap();
    assert!(common.options.bar_mmap == BarMmap::Off && common.options.allow_no_reset);
}

#[test]
fn device_survives_the_way_to_the_next_stage() {
    let device = DeviceConfig::parse("vfio-pci,host=1a:00.3,id=net,bus=pcie.0,addr=3.1").unwrap();
    let json = serde_json::to_string(&device).unwrap();
    assert!(
        json.contains(r#""driver":"vfio-pci""#) && json.contains(r#""host":"0000:1a:00.3""#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<DeviceConfig>(&json).unwrap(), device);
}
