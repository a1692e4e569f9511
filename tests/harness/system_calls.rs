//! Which system calls processes make, counted by ptrace: all of them, of all threads that run at the start.
//!
//! Limits: x86-64; the tracer needs CAP_SYS_PTRACE, since our programs are not dumpable.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long the tracer sleeps when nothing happens.
const PAUSE: Duration = Duration::from_micros(50);

/// How often each system call was made, by number.
pub type Counts = BTreeMap<u64, usize>;

/// Counts what the processes do while `run` runs; one result for each process.
pub fn counted(pids: &[u32], run: impl FnOnce() -> Result<()>) -> Result<Vec<Counts>> {
    let (attached, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // A tracee belongs to the thread that attached to it, and is let go when that thread ends.
        let tracer = scope.spawn(|| trace(pids, &attached, &stop));
        while !attached.load(Ordering::Acquire) && !tracer.is_finished() {
            std::thread::sleep(PAUSE);
        }
        let ran = run();
        stop.store(true, Ordering::Release);
        let counts = tracer.join().map_err(|_| anyhow!("the tracer panicked"))?;
        ran?;
        counts
    })
}

struct Thread {
    process: usize,
    /// The next stop is the beginning of a system call.
    outside: bool,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other state of a thread ends the count"
)]
fn trace(pids: &[u32], attached: &AtomicBool, stop: &AtomicBool) -> Result<Vec<Counts>> {
    let mut counts = vec![Counts::new(); pids.len()];
    let mut threads = BTreeMap::new();
    for (process, pid) in pids.iter().enumerate() {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let id = Pid::from_raw(task?.file_name().to_string_lossy().parse()?);
            ptrace::seize(id, ptrace::Options::PTRACE_O_TRACESYSGOOD)
                .with_context(|| format!("trace thread {id} of process {pid}"))?;
            ptrace::interrupt(id)?;
            let outside = true;
            threads.insert(id, Thread { process, outside });
        }
    }
    // Its stop by the interrupt; then every system call stops it twice.
    for id in threads.keys() {
        waitpid(*id, Some(WaitPidFlag::__WALL))?;
        ptrace::syscall(*id, None)?;
    }
    attached.store(true, Ordering::Release);
    // Only what this thread traces: the children of the tests are others' to wait for.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
    while !stop.load(Ordering::Acquire) {
        match waitpid(None, Some(flags))? {
            WaitStatus::StillAlive => std::thread::sleep(PAUSE),
            WaitStatus::PtraceSyscall(id) => {
                let thread = threads.get_mut(&id).context("a thread that is traced")?;
                if thread.outside {
                    let number = ptrace::getregs(id)?.orig_rax;
                    *counts[thread.process].entry(number).or_default() += 1;
                }
                thread.outside = !thread.outside;
                ptrace::syscall(id, None)?;
            }
            WaitStatus::Stopped(id, signal) => ptrace::syscall(id, signal)?,
            other => anyhow::bail!("a traced thread ended or stopped: {other:?}"),
        }
    }
    Ok(counts)
}
