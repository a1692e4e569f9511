//! What `device_add` and `device_del` refuse: each with its own sentence, and nothing is left behind.

use std::fs::File;

use anyhow::{Result, ensure};
use harness::host_device::{E1000E, HostDevice, NVME};

use crate::machine::Machine;

/// The arguments of a `device_add`, and words of its refusal. 04.0 is the NVMe, 05.0 the e1000e, 1e.0 the lab's own
/// virtio-serial, which its host driver has. pcie.1 has no windows; pcie.2 holds the e1000e as "net".
const ADD: &[(&str, &str)] = &[
    (r#""id":"x""#, "Parameter 'driver' is missing"),
    (
        r#""driver":"nvme","id":"x""#,
        "there is no such device; there are",
    ),
    (
        r#""driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"0000:00:04.0""#,
        "id is missing or empty",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0""#,
        "host is missing",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0","host":"1a.3""#,
        "host: \"1a.3\" is not a PCI address",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0","host":"0000:00:04.0","colour":"red""#,
        "unknown property \"colour\"",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":0,"host":"0000:00:04.0""#,
        "Invalid parameter type for 'addr', expected: string",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.9","addr":"0x0","host":"0000:00:04.0""#,
        "Parent bus :pcie.9 not found",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.0","addr":"0x5","host":"0000:00:04.0""#,
        "No hot plug controller found for bus pcie.0",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x1","host":"0000:00:04.0""#,
        "slot number of the device attached to the root port must be 0",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0.0x1","host":"0000:00:04.0""#,
        "HotPlug is not supported for device x with devfn 1",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.2","addr":"0x0","host":"0000:00:04.0""#,
        "The slot of pcie.2 is in use: it holds net",
    ),
    (
        r#""driver":"vfio-pci","id":"net","bus":"pcie.1","addr":"0x0","host":"0000:00:04.0""#,
        "Duplicate device ID 'net'",
    ),
    (
        r#""driver":"vfio-pci","id":"pcie.2","bus":"pcie.1","addr":"0x0","host":"0000:00:04.0""#,
        "Duplicate device ID 'pcie.2': a root port has it",
    ),
    (
        r#""driver":"vfio-pci","id":"pcie.0","bus":"pcie.1","addr":"0x0","host":"0000:00:04.0""#,
        "Duplicate device ID 'pcie.0': the root bus has it",
    ),
    (
        r#""driver":"vfio-user-pci","id":"x","bus":"pcie.1","addr":"0x0","socket":"x.sock""#,
        "socket=x.sock: write the whole path, from /",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0","host":"0000:00:05.0""#,
        "host device 0000:00:05.0 is already passed to this machine as 'net'",
    ),
    (
        r#""driver":"pcie-root-port","id":"x","bus":"pcie.0","addr":"0x7""#,
        "does not support hotplugging",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0","host":"0000:00:1f.2""#,
        "start the VM with -device-policy allow-host=0000:00:1f.2",
    ),
    (
        r#""driver":"vfio-user-pci","id":"x","bus":"pcie.1","addr":"0x0","socket":"/run/x.sock""#,
        "start the VM with -device-policy allow-socket=/run/x.sock",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0","host":"0000:00:1e.0""#,
        "virtio-pci",
    ),
    (
        r#""driver":"vfio-pci","id":"x","bus":"pcie.1","addr":"0x0","host":"0000:00:04.0""#,
        "start the VM with mem-reserve=",
    ),
];

/// Commands, the class of their refusal, and words of it.
const OTHER: &[(&str, &str, &str)] = &[
    (
        r#"{"execute":"device_del","arguments":{"id":"x"}}"#,
        "DeviceNotFound",
        "Device 'x' not found",
    ),
    (
        r#"{"execute":"device_del","arguments":{"id":"pcie.1"}}"#,
        "GenericError",
        "is a root port",
    ),
    (
        r#"{"execute":"device_del"}"#,
        "GenericError",
        "Parameter 'id' is missing",
    ),
];

const WITHOUT_WINDOWS: &str =
    "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1,mem-reserve=0,pref64-reserve=0";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn every_refusal_has_its_own_words_and_leaves_nothing_behind() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    HostDevice::at(E1000E).give_to_vfio()?;
    let net = format!("vfio-pci,host={E1000E},id=net,bus=pcie.2,addr=0x0");
    let arguments = [
        ["-device", WITHOUT_WINDOWS],
        [
            "-device",
            "pcie-root-port,id=pcie.2,port=0x2,bus=pcie.0,addr=0x2",
        ],
        ["-device", &net],
        ["-device-policy", "allow-host=0000:00:04.0"],
        ["-device-policy", "allow-host=0000:00:1e.0"],
    ];
    let mut machine = Machine::start(arguments.as_flattened())?;
    let servers = machine.vm.device_server_pids()?.len();
    let add =
        |properties: &str| format!(r#"{{"execute":"device_add","arguments":{{{properties}}}}}"#);
    let cases = ADD
        .iter()
        .map(|(properties, words)| (add(properties), "GenericError", *words));
    let others = OTHER
        .iter()
        .map(|(command, class, words)| ((*command).to_owned(), *class, *words));
    let mut wrong = Vec::new();
    for (command, expected, words) in cases.chain(others) {
        let (class, desc) = machine.qmp.refused(&command)?;
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
    File::options().read(true).write(true).open(&group)?;
    let slots = machine.qmp.succeed(r#"{"execute":"query-hotplug"}"#)?;
    ensure!(slots[0]["state"] == "empty", "{slots}");
    machine.finish()?;
    Ok(())
}
