//! The system call filters that the kernel holds a thread to, read through ptrace.
//!
//! Limits: needs CAP_SYS_ADMIN, no filter on this process, and a kernel with CONFIG_CHECKPOINT_RESTORE (Debian's have it).
#![expect(
    unsafe_code,
    reason = "no library offers this request of ptrace; it writes a program into a buffer of ours"
)]
// UNSAFETY: one request of ptrace, in `filter`.

use std::io;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::deadline::{PROCESS, eventually};

/// Spec: Linux, include/uapi/linux/ptrace.h.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// Spec: Linux, include/uapi/linux/bpf_common.h, BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction: code, both jumps, operand.
pub type Instruction = (u16, u8, u8, u32);

/// The filters of a thread, the oldest first.
pub fn of_thread(thread: u32) -> Result<Vec<Vec<Instruction>>> {
    let thread = Pid::from_raw(thread.try_into()?);
    ptrace::seize(thread, ptrace::Options::empty()).with_context(|| format!("trace {thread}"))?;
    ptrace::interrupt(thread)?;
    eventually("a thread that stops for its tracer", PROCESS, || {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        match waitpid(thread, Some(flags)) {
            Ok(WaitStatus::StillAlive) => None,
            other => Some(other),
        }
    })??;
    let mut filters = Vec::new();
    while let Some(filter) = filter(thread, filters.len())? {
        filters.push(filter);
    }
    ptrace::detach(thread, None)?;
    Ok(filters)
}

/// The filter of this number, if there is one.
fn filter(thread: Pid, number: usize) -> Result<Option<Vec<Instruction>>> {
    let none = libc::sock_filter {
        code: 0,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let mut program = vec![none; MAX_INSTRUCTIONS];
    // SAFETY: PTRACE_SECCOMP_GET_FILTER takes the number of a filter as its address, and writes that filter, which has at most
    // BPF_MAXINSNS instructions, to the pointer: `program` has room for as many, and lives beyond the call.
    let count = unsafe {
        libc::ptrace(
            PTRACE_SECCOMP_GET_FILTER,
            thread.as_raw(),
            number,
            program.as_mut_ptr(),
        )
    };
    if count < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOENT) {
            return Ok(None);
        }
        bail!("filter {number} of thread {thread}: {error}");
    }
    program.truncate(count.try_into()?);
    let as_tuple = |one: &libc::sock_filter| (one.code, one.jt, one.jf, one.k);
    Ok(Some(program.iter().map(as_tuple).collect()))
}
