//! Talks to a device server as a VMM would, and checks what a real device does behind it.
//!
//! `vfio-probe CHECK SOCKET [SOCKET2]` runs one check against a fresh session and prints what it saw; the exit status
//! says whether it held. The lab tests run it next to `bulkhead-device-server vfio`. The NVMe checks are a driver of
//! some twenty registers: admin queue only, Identify Controller by DMA, its completion by interrupt.

mod checks;
mod nvme;
mod ram;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::{Client, ClientConfig};

/// How long the server may take to listen, or to get the device ready for this client.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfio-probe {}: {error:#}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["info", socket] => checks::info(&connect(socket)?),
        ["fresh", socket] => checks::fresh(&connect(socket)?),
        ["filter", socket] => checks::filter(&connect(socket)?),
        ["sleep", socket] => checks::sleep(&connect(socket)?),
        ["chunks", socket] => checks::chunks(&connect(socket)?),
        ["nvme", socket] => nvme::identify(&connect(socket)?, nvme::Interrupt::Msix),
        ["nvme-intx", socket] => nvme::identify(&connect(socket)?, nvme::Interrupt::Intx),
        ["nvme-bounds", socket] => nvme::identify_out_of_bounds(&connect(socket)?),
        ["hold", socket] => nvme::hold(&connect(socket)?),
        ["linger", socket] => linger(socket),
        ["keep", socket] => keep(socket),
        ["shared", first, second] => checks::shared_group(&connect(first)?, &connect(second)?),
        _ => bail!(
            "usage: vfio-probe info|fresh|filter|sleep|chunks|nvme|nvme-intx|nvme-bounds|hold|linger|keep SOCKET, or shared SOCKET \
             SOCKET"
        ),
    }
}

/// A client that maps a BAR for a while after its connection has ended: the next one is served only afterwards.
fn linger(socket: &str) -> Result<()> {
    const LINGERING: Duration = Duration::from_secs(1);
    let client = connect(socket)?;
    let registers = nvme::map_registers(&client)?;
    drop(client);
    let start = Instant::now();
    let owner = std::thread::spawn(move || {
        std::thread::sleep(LINGERING);
        drop(registers);
    });
    let next = connect(socket)?;
    ensure!(
        start.elapsed() >= LINGERING,
        "a client was served while another one still mapped the device"
    );
    ensure!(owner.join().is_ok(), "the thread that maps the BAR failed");
    println!(
        "linger: the next client was served after {:?}",
        start.elapsed()
    );
    checks::fresh(&next)
}

/// A client that keeps a BAR mapped after its connection has ended, until it is killed.
fn keep(socket: &str) -> Result<()> {
    let client = connect(socket)?;
    let _registers = nvme::map_registers(&client)?;
    drop(client);
    println!("keeping");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn connect(path: &str) -> Result<Client> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| format!("connect to {path}")),
        }
    };
    Client::connect(OwnedFd::from(stream), ClientConfig::standard())
        .context("negotiate the version")
}
