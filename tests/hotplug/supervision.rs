//! Who is left when a process of the VM dies or stands still: nobody that holds a device.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::eventually;
use harness::host_device::{HostDevice, NVME};
use harness::{proc_files, process, programs};
use rustix::process::Signal;

use crate::loss::{kill_server, with_disk};
use crate::machine::group_is_free;

/// The supervisor gives the VMM 5 s to unmap a dead server's device.
const BRAKE: Duration = Duration::from_secs(20);
/// And then 60 s to live.
const VMM_END: Duration = Duration::from_secs(90);
/// For the kernel to end a process and reset its device.
const GONE: Duration = Duration::from_secs(20);

fn ours() -> Result<Vec<u32>> {
    let (vmms, servers) = (
        proc_files::running(programs::VMM)?,
        proc_files::running(programs::DEVICE_SERVER)?,
    );
    Ok([vmms, servers].concat())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn killed_supervisor_takes_vmm_and_servers_along_and_the_device_is_free() -> Result<()> {
    let mut machine = with_disk("")?;
    let before = ours()?;
    ensure!(before.len() >= 3, "supervisor, VMM and server: {before:?}");
    ensure!(HostDevice::at(NVME).is_bus_master()?, "the guest uses it");
    machine.vm.process().signal(Signal::KILL)?;
    eventually("the end of all processes of the VM", GONE, || {
        let left = ours().ok()?;
        before.iter().all(|pid| !left.contains(pid)).then_some(())
    })?;
    eventually("the device's group being free", GONE, || {
        group_is_free().ok()
    })?;
    ensure!(!HostDevice::at(NVME).is_bus_master()?, "its DMA is off");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn vmm_that_keeps_the_device_of_a_dead_server_has_its_dma_stopped_and_is_killed() -> Result<()> {
    let mut machine = with_disk("")?;
    let vmm = machine.vm.vmm_pid()?;
    process::stop(vmm)?;
    kill_server(&machine)?;
    group_is_free().unwrap_err();
    ensure!(HostDevice::at(NVME).is_bus_master()?, "it still may do DMA");
    eventually("the end of the device's DMA", BRAKE, || {
        let stopped = !HostDevice::at(NVME).is_bus_master().ok()?;
        stopped.then_some(())
    })?;
    ensure!(ours()?.contains(&vmm), "the VMM lives still");
    let status = machine.vm.process().wait(VMM_END)?;
    ensure!(!status.success(), "{status}");
    group_is_free()?;
    let log = machine.vm.log();
    ensure!(log.contains(NVME) && log.contains("it is killed"), "{log}");
    Ok(())
}
