//! Random reads of the passed NVMe and reads of one of its registers, with its BARs mapped and trapped.

use anyhow::{Context, Result};
use harness::guest::{Guest, GuestReport};
use harness::host_device::NVME;
use harness::vm::Vm;

use crate::figures::{Figures, Limit};

/// VS, the version register of the NVMe controller (NVM Express Base Specification, "Offset 8h: VS"): reading it has
/// no effect. The driver lets go of the device first, since Linux maps no BAR that a driver has.
const MEASURE: &str = r#"
    wait_for /dev/nvme0n1
    /guest-probe reads /dev/nvme0n1 1 200 >/dev/null
    echo "QD1 $(/guest-probe reads /dev/nvme0n1 1 2000)"
    echo "QD32 $(/guest-probe reads /dev/nvme0n1 32 6400)"
    device=/sys/bus/pci/devices/0000:00:03.0
    echo 0000:00:03.0 >$device/driver/unbind
    echo 1 >$device/enable
    echo "REGISTER $(/guest-probe register $device/resource0 8 200 16)"
"#;
const MIN_REGISTER_RATIO: f64 = 100.0;

pub(crate) fn measure(pairs: usize, figures: &mut Figures) -> Result<()> {
    const RATIO: &str = "register read, trapped / mapped";
    for pair in 0..pairs {
        eprintln!("bench: transfers, pair {} of {pairs}", pair + 1);
        let mapped = transfer("", "mapped", figures)?;
        let trapped = transfer(",bar-mmap=off", "bar-mmap=off", figures)?;
        figures.add(RATIO, "", trapped / mapped);
    }
    figures.limit(RATIO, "", Limit::AtLeast(MIN_REGISTER_RATIO));
    Ok(())
}

/// One VM's measurements; gives the time of a register read.
fn transfer(options: &str, what: &str, figures: &mut Figures) -> Result<f64> {
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03{options}");
    let vm = Vm::start(
        &["-smp", "2", "-m", "512M", "-device", &device],
        &Guest::running(MEASURE).with_probe(),
    )?;
    let report = vm.finish()?.succeeded()?;
    for depth in ["QD1", "QD32"] {
        figures.add(
            &format!("4 KiB random reads {depth}, {what}"),
            "IOPS",
            word(&report, depth, "iops=")?,
        );
        let micros = word(&report, depth, "p50_ns=")? / 1000.0;
        figures.add(
            &format!("4 KiB random read {depth} p50, {what}"),
            "us",
            micros,
        );
    }
    let register = word(&report, "REGISTER", "p50_ns=")?;
    figures.add(&format!("register read p50, {what}"), "ns", register);
    Ok(register)
}

/// The number after `start` in the line `name`.
fn word(report: &GuestReport, name: &str, start: &str) -> Result<f64> {
    number(report.value(name)?, start)
}

/// The number after `start` in a line of the guest's probe.
pub(crate) fn number(line: &str, start: &str) -> Result<f64> {
    let found = line.split(' ').find_map(|word| word.strip_prefix(start));
    Ok(found
        .with_context(|| format!("no {start} in {line:?}"))?
        .parse()?)
}
