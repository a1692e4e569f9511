//! device_add and device_del, beside QEMU: two VMs that run all the time get the NVMe in turn.
//!
//! In `device_add` are counted: until the command returns, the same without the kernel's resets, and until the guest's driver is
//! bound and has made the disk. In `device_del`: until DEVICE_DELETED, and until the group can be opened after that.
//! Before each plug the machines are at rest, as a host is whose operator plugs a device.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::guest::{Guest, OBEY};
use harness::host_device::NVME;
use harness::qmp::Qmp;

use crate::contender::{BOTH, Machine, Vmm, in_turn};
use crate::figures::{Figures, Limit};
use crate::group::wait_until_free;
use crate::resets::Resets;
use crate::startup::stage_field;

const PORT: &str = "pcie-root-port,id=pcie.1,port=0x1,bus=pcie.0,addr=0x1";
const MOVED: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(2);
const BOUND: &str = "/guest-probe appears /dev/nvme0n1";
const DEL: &str = r#"{"execute":"device_del","arguments":{"id":"disk"}}"#;
const GONE: &str = "! [ -e /dev/nvme0n1 ]";

/// What is compared, and whether it has a limit.
const COMPARED: [(&str, bool); 4] = [
    ("device_add to its return", false),
    ("device_add to its return without resets", true),
    ("device_add to the guest's disk", true),
    ("device_del to DEVICE_DELETED", true),
];

pub(crate) fn measure(pairs: usize, figures: &mut Figures) -> Result<()> {
    let resets = Resets::watch()?;
    let mut machines = Vec::new();
    for vmm in BOTH {
        let policy = format!("allow-host={NVME}");
        let mut arguments = vec!["-device", PORT];
        if vmm == Vmm::Ours {
            arguments.extend(["-device-policy", &policy]);
            arguments.extend(["-log-level", "info", "-log-format", "json"]);
        }
        let guest = Guest::running(OBEY).with_probe();
        let machine = Machine::start(vmm, &arguments, &guest)?;
        machine.wait_for_line("OBEY")?;
        let qmp = machine.qmp()?;
        machines.push((vmm, machine, qmp));
    }
    for pair in 0..pairs {
        eprintln!("bench: hot-plug, pair {} of {pairs}", pair + 1);
        let mut shown = Vec::new();
        for vmm in in_turn(pair) {
            let (_, machine, qmp) = machines
                .iter_mut()
                .find(|(one, ..)| *one == vmm)
                .context("both run")?;
            if let Some(times) = cycle(vmm, machine, qmp, &resets, figures)? {
                shown.push((vmm, times));
            }
        }
        if shown.len() < BOTH.len() {
            continue;
        }
        let of = |vmm: Vmm| {
            shown
                .iter()
                .find(|(one, _)| *one == vmm)
                .map(|(_, times)| *times)
        };
        let (ours, theirs) = (
            of(Vmm::Ours).context("ours")?,
            of(Vmm::Qemu).context("QEMU")?,
        );
        for ((what, _), (ours, theirs)) in COMPARED.iter().zip(ours.iter().zip(theirs)) {
            figures.add(&format!("{what}, ours / QEMU"), "", ours / theirs);
        }
    }
    for (what, _) in COMPARED.iter().filter(|(_, limited)| *limited) {
        figures.limit(&format!("{what}, ours / QEMU"), "", Limit::NotSlower);
    }
    for (_, mut machine, _) in machines {
        machine.tell("leave")?;
        machine.finish()?;
    }
    Ok(())
}

/// Plugs the NVMe and unplugs it again; the times of `COMPARED`, in seconds. None where the guest let it go only when it was
/// asked again: such a pair is told and counts for nothing.
fn cycle(
    vmm: Vmm,
    machine: &mut Machine,
    qmp: &mut Qmp,
    resets: &Resets,
    figures: &mut Figures,
) -> Result<Option<[f64; 4]>> {
    wait_until_free()?;
    machine.tell(BOUND)?;
    std::thread::sleep(REST);
    resets.forget()?;
    let begin = Instant::now();
    qmp.succeed(&format!(
        r#"{{"execute":"device_add","arguments":{{"id":"disk","driver":"vfio-pci","bus":"pcie.1","addr":"0x0","host":"{NVME}"}}}}"#
    ))?;
    let returned = begin.elapsed().as_secs_f64();
    let (reset, count) = resets.seconds()?;
    machine.done()?;
    let bound = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    qmp.succeed(DEL)?;
    if qmp.event_within("DEVICE_DELETED", MOVED)?.is_none() {
        let guest = machine.obey("dmesg | tail -n 20; grep pciehp /proc/interrupts")?;
        eprintln!(
            "bench: the guest does not let go of its device, {}; asked again\n{guest}",
            vmm.name()
        );
        qmp.succeed(DEL)?;
        qmp.wait_for_event("DEVICE_DELETED", MOVED)?;
        figures.add(&format!("asked again, {}", vmm.name()), "", 1.0);
        return Ok(None);
    }
    let deleted = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    wait_until_free()?;
    let free = begin.elapsed().as_secs_f64();
    machine.obey(GONE)?;

    let times = [returned, returned - reset, bound, deleted];
    for ((what, _), time) in COMPARED.iter().zip(times) {
        figures.add(&format!("{what}, {}", vmm.name()), "s", time);
    }
    let name = vmm.name();
    if let Some(ms) = stage_field(&machine.log(), "dma-map", "ms") {
        let what = format!("DMA map of 512 MiB in device_add, {name}");
        figures.add(&what, "s", ms / 1000.0);
    }
    let resets = f64::from(u32::try_from(count)?);
    figures.add(&format!("resets in device_add, {name}"), "", resets);
    figures.add(
        &format!("DEVICE_DELETED to the group free, {name}"),
        "s",
        free,
    );
    Ok(Some(times))
}
