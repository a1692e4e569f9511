//! What the operator sees of confined processes: metrics on a socket, and records in a journal.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::deadline::PROCESS;
use harness::device_server::DeviceServer;
use harness::guest::Guest;
use harness::host_device::{HostDevice, NVME};
use harness::scratch::Scratch;
use harness::vm::Vm;

/// Where systemd's journal listens; the lab's usual machine has none.
const JOURNAL: &str = "/run/systemd/journal/socket";

const USE_THE_DISK: &str = r#"
    wait_for /dev/nvme0n1
    dd if=/dev/nvme0n1 of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null
    pause running
"#;

fn scrape(socket: &str) -> Result<String> {
    let mut client = UnixStream::connect(socket).context(socket.to_owned())?;
    client.set_read_timeout(Some(PROCESS))?;
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(answer.ends_with("# EOF\n"), "{answer}");
    Ok(answer)
}

/// The number of a metric of the NVMe, with the rest of its labels.
fn number(text: &str, name: &str, labels: &str) -> Result<f64> {
    let start = format!("{name}{{device=\"nvme\",pci=\"{NVME}\"{labels}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    Ok(line.with_context(|| format!("{start}: {text}"))?.parse()?)
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn metrics_of_a_server_are_told_in_every_sandbox() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    for mode in ["on", "best-effort", "off"] {
        let scratch = Scratch::new()?;
        let (socket, metrics) = (scratch.file("nvme.sock"), scratch.file("metrics.sock"));
        let options = ["--id", "nvme", "--sandbox", mode, "--metrics"];
        let at = format!("unix:{metrics}");
        let server = DeviceServer::vfio_with(NVME, &socket, &[&options[..], &[&at]].concat())?;
        let device = format!("vfio-user-pci,socket={socket},id=nvme,bus=pcie.0,addr=0x03");
        let arguments = ["-m", "256M", "-device", &device];
        let mut vm = Vm::start(&arguments, &Guest::running(USE_THE_DISK))?;
        vm.wait_for_mark("running")?;
        let text = scrape(&metrics).with_context(|| format!("--sandbox {mode}"))?;
        let told = |name, labels| number(&text, name, labels);
        assert!(told("bulkhead_server_dma_mapped_bytes", "")? >= f64::from(255 << 20));
        assert!(told("bulkhead_server_interrupts_wired", "")? >= 1.0);
        assert!(
            told(
                "bulkhead_server_requests_total",
                ",command=\"REGION_WRITE\""
            )? >= 1.0
        );
        vm.resume()?;
        vm.finish()?.succeeded()?;
        assert!(server.stop()?.success(), "--sandbox {mode}");
        assert_eq!(scratch.names()?, Vec::<String>::new(), "both sockets go");
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: scripts/test"]
fn metrics_of_a_vm_are_told_in_every_sandbox() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    for mode in ["on", "best-effort", "off"] {
        let scratch = Scratch::new()?;
        let metrics = scratch.file("metrics.sock");
        let at = format!("unix:{metrics}");
        let options = [
            "-m", "256M", "-sandbox", mode, "-metrics", &at, "-device", &device,
        ];
        let mut vm = Vm::start(&options, &Guest::running(USE_THE_DISK))?;
        vm.wait_for_mark("running")?;
        // A client that says nothing delays the next one, no more.
        let _silent = UnixStream::connect(&metrics)?;
        let text = scrape(&metrics).with_context(|| format!("-sandbox {mode}"))?;
        let told = |name, labels| number(&text, name, labels);
        assert_eq!(
            told("bulkhead_vmm_dma_mapped_bytes", "")?,
            f64::from(256 << 20)
        );
        assert!(told("bulkhead_vmm_interrupts_wired", "")? >= 1.0);
        assert!(
            told(
                "bulkhead_vmm_messages_total",
                ",command=\"DEVICE_SET_IRQS\""
            )? >= 1.0
        );
        assert!(told("bulkhead_vmm_access_duration_seconds_count", "")? >= 1.0);
        assert_eq!(told("bulkhead_vmm_device_lost", "")?, 0.0);
        vm.resume()?;
        vm.finish()?.succeeded()?;
        assert_eq!(scratch.names()?, Vec::<String>::new(), "-sandbox {mode}");
    }
    Ok(())
}

/// A journal, as far as who logs sees it.
struct Journal(UnixDatagram);

impl Journal {
    fn listen() -> Result<Journal> {
        let folder = Path::new(JOURNAL).parent().context("a folder")?;
        std::fs::create_dir_all(folder)?;
        let socket = UnixDatagram::bind(JOURNAL)?;
        socket.set_nonblocking(true)?;
        Ok(Journal(socket))
    }

    /// The records that arrived and have this text in them.
    fn take(&self) -> Result<Vec<String>> {
        let mut records = Vec::new();
        let mut record = vec![0; 1 << 16];
        loop {
            match self.0.recv(&mut record) {
                Ok(length) => records.push(String::from_utf8_lossy(&record[..length]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(records),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(JOURNAL);
    }
}

/// Each of the three processes has a record from after it was confined.
#[test]
#[ignore = "runs in the lab: scripts/test"]
fn journal_hears_every_process_of_a_vm_in_every_sandbox() -> Result<()> {
    HostDevice::at(NVME).give_to_vfio()?;
    let device = format!("vfio-pci,host={NVME},id=nvme,bus=pcie.0,addr=0x03");
    for mode in ["on", "best-effort", "off"] {
        let journal = Journal::listen()?;
        let log = [
            "-log-format",
            "journald",
            "-log-level",
            "debug",
            "-sandbox",
            mode,
        ];
        let arguments = [&["-m", "256M", "-device", &device], &log[..]].concat();
        let mut vm = Vm::start(&arguments, &Guest::running(USE_THE_DISK))?;
        vm.wait_for_mark("running")?;
        let mut records = journal.take()?;
        vm.resume()?;
        vm.finish()?.succeeded()?;
        records.extend(journal.take()?);
        let of_the_device = format!("BULKHEAD_PCI\n\x0c\0\0\0\0\0\0\0{NVME}\n");
        for (target, messages) in [
            // Whichever it hears first: that the server has ended, or that the VMM let go.
            (
                "vmm::supervisor",
                &["has ended", "has its devices back"][..],
            ),
            ("vmm::vfio_user", &["reaches guest RAM"]),
            ("device_server::server", &["client"]),
        ] {
            let heard = records.iter().any(|record| {
                record.contains(target)
                    && messages.iter().any(|message| record.contains(message))
                    && record.contains(&of_the_device)
            });
            assert!(
                heard,
                "-sandbox {mode}: {target}: {messages:?}: {records:#?}"
            );
        }
    }
    Ok(())
}
