//! What a trapped access costs the two processes: one message each way, and nothing else.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::deadline::{PROCESS, eventually};
use harness::device_server::DeviceServer;
use harness::process::Process;
use harness::scratch::Scratch;
use harness::system_calls::{Counts, counted};
use harness::{bare_guest, proc_files, programs};

use crate::machine::{CONFIG, REGISTERS, SCRATCH};

/// Reads, and as many writes.
const ROUNDS: u32 = 500;
/// One send and one receive for each access.
const EXPECTED: usize = 4 * ROUNDS as usize;
/// The byte over the serial port that starts the guest, its answer, the clocks of idle threads, and what tracing interrupts.
const BESIDES: usize = 100;
/// `ioctl`: what runs the guest.
const IOCTL: u64 = 16;

/// Memory, bus mastering, and no interrupt pin: the test device's own pin has an event to poll for beside the socket.
const COMMAND: u32 = 0x406;

/// Places the registers' BAR. Then, for every byte on the serial port: reads and writes SCRATCH, and prints a line.
fn program() -> Vec<u8> {
    let mut code = Vec::new();
    for (offset, value) in [(0x18, REGISTERS), (0x1c, 0), (4, COMMAND)] {
        // mov dword [CONFIG + offset], value
        code.extend([0xc7, 0x05]);
        code.extend(u32::to_le_bytes(CONFIG + offset));
        code.extend(u32::to_le_bytes(value));
    }
    let start = code.len();
    let mut accesses = vec![0xb9]; // mov ecx, ROUNDS
    accesses.extend(ROUNDS.to_le_bytes());
    accesses.push(0xbf); // mov edi, SCRATCH
    accesses.extend((REGISTERS + SCRATCH).to_le_bytes());
    // next: mov eax, [edi]; mov [edi], eax; dec ecx; jnz next
    accesses.extend([0x8b, 0x07, 0x89, 0x07, 0x49, 0x75, 0xf9]);
    // mov dx, 0x3f8; mov al, '.'; out dx, al; mov al, 10; out dx, al
    accesses.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xb0, 10, 0xee]);
    code.extend(bare_guest::after_a_byte(&accesses));
    // jmp start, which is less than 128 bytes away.
    let back = u8::try_from(code.len() + 2 - start).unwrap_or(0);
    code.extend([0xeb, back.wrapping_neg()]);
    code
}

/// Lets the guest do its accesses; it has done so `times` times then.
fn accesses(vm: &mut Process, times: usize) -> Result<()> {
    vm.write(b"x")?;
    let stdout = vm.stdout();
    eventually("the guest's line", PROCESS, || {
        (stdout.text().matches('.').count() >= times).then_some(())
    })
}

fn is_two_for_each_access(who: &str, counts: &Counts) -> Result<()> {
    let calls: usize = counts
        .iter()
        .filter(|(number, _)| **number != IOCTL)
        .map(|(_, count)| count)
        .sum();
    ensure!(
        (EXPECTED..EXPECTED + BESIDES).contains(&calls),
        "{who}: {calls} system calls for {} accesses: {counts:?}",
        2 * ROUNDS
    );
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn trapped_access_is_two_system_calls_of_each_process() -> Result<()> {
    let scratch = Scratch::new()?;
    let socket = scratch.file("server.sock");
    let server = DeviceServer::start(&["test", "--socket", &socket])?;
    let kernel = scratch.path().join("kernel");
    bare_guest::write(&program(), &kernel)?;
    let mut command = Command::new(programs::find(programs::VMM)?);
    let device = format!("vfio-user-pci,socket={socket},id=net,bus=pcie.0,addr=0x3");
    command.args(["-machine", "q35", "-m", "64M", "-serial", "stdio"]);
    command.args(["-kernel", &scratch.file("kernel"), "-device", &device]);
    let mut vm = Process::start("VMM", &mut command)?;
    // Once before, so that everything that is made at the first access is there.
    accesses(&mut vm, 1).with_context(|| vm.stderr().text())?;
    let is_vmm = |pid: &u32| {
        let words = proc_files::command_line(*pid);
        words.iter().any(|word| word == "--stage-vmm")
    };
    let vmm = vm.family()?.into_iter().find(is_vmm);
    let pids = [vmm.context("the VMM's second stage")?, server.pid()];
    let counts = counted(&pids, || accesses(&mut vm, 2))?;
    is_two_for_each_access("bulkhead-vmm", &counts[0])?;
    is_two_for_each_access("bulkhead-device-server", &counts[1])
}
