//! What `device_add` and `device_del` refuse: each with its own sentence, and nothing is left behind.

use anyhow::{Result, ensure};
use harness::host_device::{E1000E, HostDevice, NVME};

use crate::machine::{Machine, add_nvme};

/// Not on vfio-pci in the lab.
const VIRTIO: &str = "0000:00:1e.0";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn every_refusal_has_its_own_words_and_leaves_nothing_behind() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    HostDevice::at(E1000E).give_to_vfio()?;
    let (disk, other) = (format!("allow-host={NVME}"), format!("allow-host={VIRTIO}"));
    let device = format!("vfio-pci,host={E1000E},id=net,bus=pcie.2,addr=0x0");
    let mut machine = Machine::start(&[
        "-device",
        "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1,mem-reserve=0,pref64-reserve=0",
        "-device",
        "pcie-root-port,id=pcie.2,port=0x2,bus=pcie.0,addr=0x2",
        "-device",
        &device,
        "-device-policy",
        &disk,
        "-device-policy",
        &other,
    ])?;
    let servers = machine.vm.device_server_pids()?.len();
    let add =
        |properties: &str| format!(r#"{{"execute":"device_add","arguments":{{{properties}}}}}"#);
    let place = r#""bus":"pcie.1","addr":"0x0""#;
    let cases = [
        (add(r#""id":"x""#), "Parameter 'driver' is missing"),
        (
            add(r#""driver":"nvme","id":"x""#),
            "there is no such device; there are",
        ),
        (
            add(&format!(r#""driver":"vfio-pci",{place},"host":"{NVME}""#)),
            "id is missing or empty",
        ),
        (
            add(&format!(r#""driver":"vfio-pci","id":"x",{place}"#)),
            "host is missing",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x",{place},"host":"1a.3""#
            )),
            "host: ",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x",{place},"host":"{NVME}","colour":"red""#
            )),
            "unknown property \"colour\"",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":0,"host":"{NVME}""#
            )),
            "Invalid parameter type for 'addr', expected: string",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x","bus":"pcie.9","addr":"0x0","host":"{NVME}""#
            )),
            "Parent bus :pcie.9 not found",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x","bus":"pcie.0","addr":"0x5","host":"{NVME}""#
            )),
            "No hot plug controller found for bus pcie.0",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x1","host":"{NVME}""#
            )),
            "slot number of the device attached to the root port must be 0",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0.0x1","host":"{NVME}""#
            )),
            "HotPlug is not supported for device x with devfn 1",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x","bus":"pcie.2","addr":"0x0","host":"{NVME}""#
            )),
            "The slot of pcie.2 is in use: it holds net",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"net",{place},"host":"{NVME}""#
            )),
            "Duplicate device ID 'net'",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"pcie.2",{place},"host":"{NVME}""#
            )),
            "Duplicate device ID 'pcie.2': a root port has it",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x",{place},"host":"{E1000E}""#
            )),
            "host device 0000:00:05.0 is already passed to this machine as 'net'",
        ),
        (
            add(r#""driver":"pcie-root-port","id":"x","bus":"pcie.0","addr":"0x7""#),
            "does not support hotplugging",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x",{place},"host":"0000:00:1f.2""#
            )),
            "start the VM with -device-policy allow-host=0000:00:1f.2",
        ),
        (
            add(&format!(
                r#""driver":"vfio-user-pci","id":"x",{place},"socket":"/run/x.sock""#
            )),
            "start the VM with -device-policy allow-socket=/run/x.sock",
        ),
        (
            add(&format!(
                r#""driver":"vfio-pci","id":"x",{place},"host":"{VIRTIO}""#
            )),
            "virtio-pci",
        ),
        (add_nvme("x", ""), "start the VM with mem-reserve="),
        (
            r#"{"execute":"device_del","arguments":{"id":"x"}}"#.to_owned(),
            "Device 'x' not found",
        ),
        (
            r#"{"execute":"device_del","arguments":{"id":"pcie.1"}}"#.to_owned(),
            "is a root port",
        ),
        (
            r#"{"execute":"device_del"}"#.to_owned(),
            "Parameter 'id' is missing",
        ),
    ];
    let mut wrong = Vec::new();
    for (command, words) in &cases {
        let (class, desc) = machine.qmp.refused(command)?;
        println!("{class}: {desc}");
        let expected = if words.contains("not found") && command.contains("device_del") {
            "DeviceNotFound"
        } else {
            "GenericError"
        };
        if class != expected || !desc.contains(words) {
            wrong.push(format!(
                "{command}\n  gave {class}: {desc}\n  not {expected}: {words}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(
        machine.vm.device_server_pids()?.len() == servers,
        "no server is left"
    );
    let group = format!("/dev/vfio/{}", HostDevice::at(NVME).group()?);
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(&group)?;
    let slots = machine.qmp.succeed(r#"{"execute":"query-hotplug"}"#)?;
    ensure!(slots[0]["state"] == "empty", "{slots}");
    machine.finish()?;
    Ok(())
}
