//! What a QMP client that sends without a pause does to a guest: the time of a trapped register read, with and without it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use harness::guest::{Guest, OBEY};
use harness::host_device::NVME;

use crate::contender::{Machine, Vmm};
use crate::figures::{Figures, Limit};
use crate::group::wait_until_free;
use crate::transfers::number;

const MAX_RATIO: f64 = 2.0;
const SYS: &str = "/sys/bus/pci/devices/0000:00:03.0";

pub(crate) fn measure(pairs: usize, figures: &mut Figures) -> Result<()> {
    const RATIO: &str = "trapped read p99, QMP flood / no flood";
    wait_until_free()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03,bar-mmap=off");
    let guest = Guest::running(OBEY).with_probe();
    let mut machine = Machine::start(Vmm::Ours, &["-device", &device], &guest)?;
    machine.wait_for_line("OBEY")?;
    machine.obey("wait_for /dev/nvme0n1")?;
    // Linux maps no BAR that a driver has.
    machine.obey(&format!(
        "echo 0000:00:03.0 >{SYS}/driver/unbind && echo 1 >{SYS}/enable"
    ))?;
    reads(&mut machine)?;
    for pair in 0..pairs {
        eprintln!("bench: QMP flood, pair {} of {pairs}", pair + 1);
        let quiet = reads(&mut machine)?;
        let flood = Flood::start(machine.socket())?;
        let flooded = reads(&mut machine)?;
        let answers = flood.stop()?;
        for (quantile, quiet, flooded) in [("p50", quiet.0, flooded.0), ("p99", quiet.1, flooded.1)]
        {
            figures.add(&format!("trapped read {quantile}, no flood"), "us", quiet);
            figures.add(
                &format!("trapped read {quantile}, QMP flood"),
                "us",
                flooded,
            );
        }
        figures.add("answers to the flood", "1/s", answers);
        figures.add(RATIO, "", flooded.1 / quiet.1);
    }
    figures.limit(RATIO, "", Limit::AtMost(MAX_RATIO));
    machine.tell("leave")?;
    machine.finish()?;
    Ok(())
}

/// Trapped reads of the version register; p50 and p99 in microseconds.
fn reads(machine: &mut Machine) -> Result<(f64, f64)> {
    let output = machine.obey(&format!("/guest-probe register {SYS}/resource0 8 1000 1"))?;
    let line = output
        .lines()
        .find(|line| line.starts_with("value="))
        .with_context(|| format!("no figures in {output:?}"))?;
    Ok((
        number(line, "p50_ns=")? / 1000.0,
        number(line, "p99_ns=")? / 1000.0,
    ))
}

/// A client that sends requests as fast as they are taken, and reads what comes.
struct Flood {
    stream: UnixStream,
    began: Instant,
    writer: JoinHandle<()>,
    reader: JoinHandle<u32>,
}

impl Flood {
    fn start(socket: &str) -> Result<Self> {
        const REQUEST: &[u8] = b"{\"execute\":\"query-status\"}\n";
        let stream = UnixStream::connect(socket)?;
        let (mut output, mut input) = (stream.try_clone()?, stream.try_clone()?);
        output.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        let writer = thread::spawn(move || {
            let many = REQUEST.repeat(100);
            while output.write_all(&many).is_ok() {}
        });
        let reader = thread::spawn(move || {
            let (mut answers, mut buffer) = (0, [0; 65536]);
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                let lines = buffer.iter().take(count).filter(|byte| **byte == b'\n');
                answers += u32::try_from(lines.count()).unwrap_or(0);
            }
            answers
        });
        Ok(Self {
            stream,
            began: Instant::now(),
            writer,
            reader,
        })
    }

    /// Answers per second.
    fn stop(self) -> Result<f64> {
        let seconds = self.began.elapsed().as_secs_f64();
        self.stream.shutdown(Shutdown::Both)?;
        let died = |_| anyhow!("a thread of the flood panicked");
        self.writer.join().map_err(died)?;
        Ok(f64::from(self.reader.join().map_err(died)?) / seconds)
    }
}
