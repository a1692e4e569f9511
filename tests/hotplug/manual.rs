//! What the manual's hot-plug section says, and what follows on the host and in the guest (`tests/manual` runs the manual itself).

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use serde_json::json;

use crate::machine::{Machine, OBEY, PLUG, PORT, TWO_CPUS, UNPLUG, add_nvme};

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_is_plugged_used_unplugged_free_at_once_and_plugged_again() -> Result<()> {
    let nvme = HostDevice::at(NVME);
    nvme.give_to_vfio()?;
    let group = format!("/dev/vfio/{}", nvme.group()?);
    let policy = format!("allow-host={NVME}");
    let slot = ["-device", PORT, "-device-policy", &policy];
    let guest = Guest::running(OBEY).with_plain_boot();
    let mut machine = Machine::boot_guest(&[&TWO_CPUS, &slot[..]].concat(), &guest)?;
    machine.vm.wait_for_line("OBEY")?;
    for block in [77, 78] {
        let answer = machine.qmp.execute(&format!(
            r#"{{"execute":"device_add", "arguments":{{"id":"vfio-0", "driver":"vfio-pci", "bus": "pcie.1", "addr":"0x0", "host": "{NVME}"}}}}"#
        ))?;
        ensure!(answer == json!({"return": {}}), "{answer}");
        let ready = machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
        ensure!(
            ready == json!({"device": "vfio-0", "path": "vfio-0"}),
            "{ready}"
        );
        let output = machine.guest(&format!(
            "wait_for /dev/nvme0n1; echo \"BLOCK $(block {block})\""
        ))?;
        let record = record_in_hex(block);
        ensure!(output.contains(&format!("BLOCK {record}")), "{output}");

        let answer = machine
            .qmp
            .execute(r#"{"execute": "device_del", "arguments": {"id": "vfio-0"}}"#)?;
        ensure!(answer == json!({"return": {}}), "{answer}");
        let deleted = machine.event("DEVICE_DELETED", UNPLUG)?;
        // At this moment, not a moment later: nobody holds the group.
        File::options()
            .read(true)
            .write(true)
            .open(&group)
            .with_context(|| format!("open {group} after DEVICE_DELETED"))?;
        ensure!(
            deleted == json!({"device": "vfio-0", "path": "vfio-0"}),
            "{deleted}"
        );
        ensure!(
            machine.vm.device_server_pids()?.is_empty(),
            "its server is gone"
        );

        // The host has it back, and uses it.
        let content = nvme.read_block_as_host(block)?;
        ensure!(content.starts_with(b"BULKHEAD"), "{content:x?}");
        nvme.give_to_vfio()?;
        machine.guest("! [ -e /dev/nvme0n1 ]")?;
    }
    machine.finish()?;
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn nvme_plugged_while_the_guest_boots_is_there_when_it_has_booted() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let policy = format!("allow-host={NVME}");
    let mut machine = Machine::boot(&["-device", PORT, "-device-policy", &policy])?;
    machine.qmp.succeed(&add_nvme("disk", ""))?;
    machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
    machine.vm.wait_for_line("OBEY")?;
    let output = machine.guest("wait_for /dev/nvme0n1; echo \"BLOCK $(block 5)\"")?;
    ensure!(output.contains(&record_in_hex(5)), "{output}");
    // It was a plug and never anything else.
    machine.qmp.listen(Duration::from_secs(2))?;
    ensure!(
        !machine.qmp.events().contains(&"DEVICE_DELETED"),
        "{:?}",
        machine.qmp.events()
    );
    machine.unplug("disk")?;
    machine.finish()?;
    Ok(())
}
