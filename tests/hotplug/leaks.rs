//! What a hundred plugs would add up to: nothing may grow from one to the next.

use anyhow::{Result, ensure};
use harness::host_device::{HostDevice, NVME};
use harness::proc_files;

use crate::machine::{Machine, PLUG, PORT, add_nvme};

const CYCLES: usize = 4;

/// What the processes of a VM hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    processes: usize,
    files: Vec<usize>,
    mappings: usize,
    threads: usize,
}

pub(crate) fn held(machine: &Machine) -> Result<Held> {
    let vmm = machine.vm.vmm_pid()?;
    let pids = machine.vm.all_pids()?;
    let files = pids
        .iter()
        .map(|pid| Ok(proc_files::open_files(*pid)?.len()));
    Ok(Held {
        processes: pids.len(),
        files: files.collect::<Result<_>>()?,
        mappings: proc_files::mappings(vmm)?
            .iter()
            .filter(|mapping| mapping.permissions.ends_with('s'))
            .count(),
        threads: std::fs::read_dir(format!("/proc/{vmm}/task"))?.count(),
    })
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn plugging_and_unplugging_leaves_no_file_process_thread_or_mapping() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let policy = format!("allow-host={NVME}");
    let mut machine = Machine::start(&["-device", PORT, "-device-policy", &policy])?;
    let before = held(&machine)?;
    for cycle in 0..CYCLES {
        machine
            .qmp
            .succeed(&add_nvme(&format!("disk{cycle}"), ""))?;
        machine.event("BULKHEAD_DEVICE_READY", PLUG)?;
        machine.guest("wait_for /dev/nvme0n1; block 3 >/dev/null")?;
        machine.unplug(&format!("disk{cycle}"))?;
    }
    let after = harness::deadline::eventually("what a thread that ends still holds", PLUG, || {
        held(&machine).ok().filter(|after| *after == before)
    });
    ensure!(
        after.is_ok(),
        "before {before:?}, after {:?}",
        held(&machine)?
    );
    machine.finish()?;
    Ok(())
}
