//! A VM that starts its own device servers, as a service: devices come and go.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::host_device::{HostDevice, NVME};
use harness::pattern::record_in_hex;
use harness::qmp::Qmp;
use harness::{proc_files, programs};

use crate::installed::{Host, wait_for_guest, write_vm};

const PLUG: Duration = Duration::from_secs(60);
const UNIT: &str = "bulkhead-supervisor@red.service";

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn device_is_plugged_and_unplugged_under_the_supervisor_unit() -> Result<()> {
    let host = Host::install()?;
    HostDevice::at(NVME).give_to_vfio()?;
    let script = r#"
        echo "LISTENS yes"
        wait_for /dev/nvme0n1
        echo "BLOCK $(block 99)"
        sleep 1000
    "#;
    let devices = format!(
        "device pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1\ndevice-policy allow-host={NVME}\n\
         qmp unix:/run/bulkhead-vm/red/qmp,server=on,wait=off\n"
    );
    write_vm("red", script, &devices)?;
    host.systemctl(&["start", UNIT])?;
    wait_for_guest("red", "LISTENS")?;
    let mut qmp = Qmp::connect("/run/bulkhead-vm/red/qmp")?;
    qmp.succeed(&format!(
        r#"{{"execute":"device_add","arguments":{{"id":"vfio-0","driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{NVME}"}}}}"#
    ))?;
    qmp.wait_for_event("BULKHEAD_DEVICE_READY", PLUG)?;
    wait_for_guest("red", &format!("BLOCK {}", record_in_hex(99)))?;
    qmp.succeed(r#"{"execute":"device_del","arguments":{"id":"vfio-0"}}"#)?;
    qmp.wait_for_event("DEVICE_DELETED", PLUG)?;
    let mut servers = proc_files::running(programs::DEVICE_SERVER)?;
    servers.retain(|pid| !proc_files::is_spare(*pid));
    ensure!(servers.is_empty(), "its server is gone: {servers:?}");
    host.systemctl(&["stop", UNIT])?;
    let result = host.property(UNIT, "Result")?;
    ensure!(result == "success", "{result}: {}", host.journal(UNIT));
    Ok(())
}
