//! Start-up with the passed NVMe and random reads of it, beside QEMU's vfio-pci.

use anyhow::Result;
use harness::guest::Guest;
use harness::host_device::NVME;

use crate::contender::{Machine, Vmm, in_turn};
use crate::figures::{Figures, Limit};
use crate::group::wait_until_free;
use crate::transfers::number;

const MEASURE: &str = r#"
    wait_for /dev/nvme0n1
    /guest-probe reads /dev/nvme0n1 1 200 >/dev/null
    echo "QD1 $(/guest-probe reads /dev/nvme0n1 1 2000)"
    echo "QD32 $(/guest-probe reads /dev/nvme0n1 32 6400)"
"#;

/// What one VM showed: seconds to user space, and seconds for a read at each depth.
struct Shown {
    user_space: f64,
    reads: [f64; 2],
}

const MAX_TRIES: u32 = 3;
const DEPTHS: [&str; 2] = ["QD1", "QD32"];

pub(crate) fn measure(pairs: usize, figures: &mut Figures) -> Result<()> {
    const START: &str = "start to guest user space with NVMe, ours / QEMU";
    let read = |depth: &str| format!("4 KiB random read {depth}, time, ours / QEMU");
    for pair in 0..pairs {
        eprintln!("bench: beside QEMU, pair {} of {pairs}", pair + 1);
        let (mut ours, mut theirs) = (None, None);
        for vmm in in_turn(pair) {
            let shown = until_it_runs(vmm, figures)?;
            match vmm {
                Vmm::Ours => ours = Some(shown),
                Vmm::Qemu => theirs = Some(shown),
            }
        }
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            continue;
        };
        figures.add(START, "", ours.user_space / theirs.user_space);
        for (depth, (ours, theirs)) in DEPTHS.iter().zip(ours.reads.iter().zip(theirs.reads)) {
            figures.add(&read(depth), "", ours / theirs);
        }
    }
    figures.limit(START, "", Limit::NotSlower);
    for depth in DEPTHS {
        figures.limit(&read(depth), "", Limit::NotSlower);
    }
    Ok(())
}

/// Emulated twice, a guest of either hangs now and then (docs/lab.md): it is started again, and counted.
fn until_it_runs(vmm: Vmm, figures: &mut Figures) -> Result<Shown> {
    let mut tries = 1;
    loop {
        match run(vmm, figures) {
            Ok(shown) => {
                let name = format!("tries until the guest ran to its end, {}", vmm.name());
                figures.add(&name, "", f64::from(tries));
                return Ok(shown);
            }
            Err(error) if tries < MAX_TRIES => {
                eprintln!("bench: {}, try {tries}: {error:#}", vmm.name());
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn run(vmm: Vmm, figures: &mut Figures) -> Result<Shown> {
    wait_until_free()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    let guest = Guest::running(MEASURE).with_probe();
    let machine = Machine::start(vmm, &["-device", &device], &guest)?;
    machine.wait_for_line("GUEST-READY")?;
    let user_space = machine.age().as_secs_f64();
    let report = machine.finish()?;
    figures.add(
        &format!("start to guest user space with NVMe, {}", vmm.name()),
        "s",
        user_space,
    );
    let mut reads = [0.0; 2];
    for (time, depth) in reads.iter_mut().zip(DEPTHS) {
        let iops = number(report.value(depth)?, "iops=")?;
        figures.add(
            &format!("4 KiB random reads {depth}, {}", vmm.name()),
            "IOPS",
            iops,
        );
        *time = 1.0 / iops;
    }
    Ok(Shown { user_space, reads })
}
