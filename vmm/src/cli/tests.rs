use std::ffi::OsString;

use super::{Command, parse};
use crate::config::{Config, DeviceConfig, Machine, SerialConfig};

fn run(line: &[&str]) -> Result<Command, String> {
    parse(line.iter().map(OsString::from)).map_err(|error| error.to_string())
}

fn config(line: &[&str]) -> Config {
    match run(line) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{line:?} gave {other:?}"),
    }
}

fn printed(line: &[&str]) -> String {
    match run(line) {
        Ok(Command::Print(text)) => text,
        other => panic!("{line:?} gave {other:?}"),
    }
}

const ISSUE_LINE: [&str; 18] = [
    "-machine",
    "q35",
    "-cpu",
    "host",
    "-smp",
    "2",
    "-m",
    "512M",
    "-kernel",
    "vmlinuz",
    "-initrd",
    "initrd",
    "-append",
    "console=ttyS0 -x",
    "-serial",
    "stdio",
    "-device",
    "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1",
];

#[test]
fn whole_line_with_one_dash_makes_a_machine() {
    let config = config(&ISSUE_LINE);
    assert_eq!(
        (config.machine, config.cpus, config.memory.size_bytes),
        (Machine::Q35, 2, 512 << 20)
    );
    assert_eq!(config.append, "console=ttyS0 -x");
    assert_eq!(config.serial, [SerialConfig::Stdio]);
    assert!(matches!(
        config.devices.as_slice(),
        [DeviceConfig::RootPort(_)]
    ));
}

#[test]
fn two_dashes_and_equals_signs_make_the_same_machine() {
    let two: Vec<String> = ISSUE_LINE
        .chunks(2)
        .map(|pair| format!("-{}={}", pair[0], pair[1]))
        .collect();
    let two: Vec<&str> = two.iter().map(String::as_str).collect();
    assert_eq!(config(&two), config(&ISSUE_LINE));
}

#[test]
fn value_that_begins_with_a_dash_is_a_value() {
    assert_eq!(
        config(&["-kernel", "-k", "-append", "--help"]).append,
        "--help"
    );
}

#[test]
fn switches_without_effect_are_accepted() {
    let line = [
        "-kernel",
        "k",
        "-nographic",
        "-nodefaults",
        "-enable-kvm",
        "-no-reboot",
        "-mem-prealloc",
    ];
    let config = config(&line);
    assert!(config.no_reboot && config.memory.prealloc);
}

#[test]
fn help_and_version_print_and_need_no_kernel() {
    assert!(printed(&["-help"]).contains("accepted, no effect"));
    assert!(printed(&["-h"]).contains("-kernel"));
    assert!(printed(&["--version"]).starts_with("bulkhead-vmm "));
    assert!(printed(&["-device", "help"]).contains("vfio-user-pci"));
    let properties = printed(&["-device", "vfio-pci,help"]);
    assert!(properties.contains("host=ADDRESS") && properties.contains("bar-mmap"));
}

#[test]
fn every_option_in_the_help_is_in_the_help_of_one_line_each() {
    let help = printed(&["-help"]);
    for option in [
        "machine", "cpu", "smp", "m", "kernel", "initrd", "append", "serial", "device", "object",
        "D",
    ] {
        assert!(help.contains(&format!("--{option} ")), "{option}");
    }
}

#[test]
fn usage_errors_are_one_line_and_say_what_is_wrong() {
    let cases: Vec<(&[&str], &str)> = vec![
        (&[], "-kernel is missing"),
        (&["-kernel"], "-kernel needs a value"),
        (
            &["-kernel", "k", "-frobnicate"],
            "there is no option -frobnicate",
        ),
        (
            &["-kernel", "k", "stray"],
            "\"stray\" does not belong to an option",
        ),
        (&["-kernel", "k", "-smp", "0"], "-smp 0: "),
        (
            &["-kernel", "k", "-kernel", "l"],
            "cannot be used multiple times",
        ),
        (&["-kernel", "k", "-log-format", "xml"], "-log-format xml: "),
        (&["-kernel", "k", "-log-level", "x=y"], "-log-level x=y: "),
        (
            &["-kernel", "k", "-log-format", "journald", "-D", "/log"],
            "-D /log: the journal is no file",
        ),
        (
            &["-kernel", "k", "-no-reboot=1"],
            "-no-reboot takes no value",
        ),
        (
            &["-kernel", "k", "-serial", "stdio", "-serial", "stdio"],
            "only one port",
        ),
    ];
    for (line, expected) in cases {
        let refused = run(line).unwrap_err();
        assert!(
            refused.contains(expected) && refused.lines().count() == 1,
            "{line:?}: {refused}"
        );
    }
}

#[test]
fn command_line_longer_than_a_kernel_takes_is_refused() {
    let longest = "x".repeat(2047);
    assert_eq!(
        config(&["-kernel", "k", "-append", &longest]).append,
        longest
    );
    let refused = run(&["-kernel", "k", "-append", &"x".repeat(2048)]).unwrap_err();
    assert!(
        refused.contains("2048 bytes; a kernel takes at most 2047"),
        "{refused}"
    );
}

#[test]
fn memory_backend_must_name_an_object() {
    let object = "memory-backend-memfd,id=m0,size=512M";
    let line = [
        "-kernel",
        "k",
        "-object",
        object,
        "-machine",
        "q35,memory-backend=m0",
    ];
    assert_eq!(config(&line).memory.size_bytes, 512 << 20);
    let refused = run(&[
        "-kernel",
        "k",
        "-machine",
        "q35,memory-backend=m1",
        "-object",
        object,
    ])
    .unwrap_err();
    assert!(refused.contains("no -object with this id"), "{refused}");
}

#[test]
fn devices_are_checked_against_each_other() {
    let port = "pcie-root-port,id=p,bus=pcie.0,addr=1";
    let refused = run(&["-kernel", "k", "-device", port, "-device", port]).unwrap_err();
    assert!(refused.contains("-device p: this id is taken"), "{refused}");
}

#[test]
fn configuration_survives_the_way_to_the_next_stage() {
    let config = config(&ISSUE_LINE);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}
