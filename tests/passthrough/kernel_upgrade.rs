//! A guest reboots into another kernel, another initrd and another command line, and keeps its device.

use anyhow::Result;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::qmp::Qmp;
use harness::scratch::Scratch;
use harness::vm::Vm;
use serde_json::json;

const UNTIL_TOLD: &str = r#"
    wait_for /dev/nvme0n1
    echo "BEFORE $(block 41) $(cat /proc/cmdline)"
    pause installed
    reboot -f
    sleep 60
"#;
const UPGRADED: &str = r#"
    wait_for /dev/nvme0n1
    echo "AFTER $(block 42) $(cat /proc/cmdline)"
"#;

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn guest_reboots_into_what_was_chosen_and_keeps_its_device() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let scratch = Scratch::new()?;
    let next = Guest::running(UPGRADED)
        .as_bzimage()
        .append("upgraded")
        .boot_files(scratch.path())?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let qmp = scratch.file("qmp.sock");
    let monitor = format!("unix:{qmp},server=on,wait=off");
    let rules = [&next.kernel, &next.initrd].map(|path| format!("allow-image={path}"));
    let arguments = [
        ["-m", "256M"],
        ["-device", &device],
        ["-qmp", &monitor],
        ["-device-policy", &rules[0]],
        ["-device-policy", &rules[1]],
    ];
    let mut vm = Vm::start_that_reboots(&arguments.concat(), &Guest::running(UNTIL_TOLD))?;
    vm.wait_for_mark("installed")?;
    let choice =
        json!({"kernel": next.kernel, "initrd": next.initrd, "append": next.append.clone()});
    let command = json!({"execute": "set-boot-files", "arguments": choice});
    Qmp::connect(&qmp)?.succeed(&command.to_string())?;
    vm.resume()?;
    let report = vm.finish()?.succeeded()?;
    let before = report.value("BEFORE")?;
    assert!(before.starts_with(&record_in_hex(41)), "{before}");
    assert!(!before.ends_with(" upgraded"), "{before}");
    let after = format!("{} {}", record_in_hex(42), next.append);
    assert_eq!(report.value("AFTER")?, after);
    Ok(())
}
