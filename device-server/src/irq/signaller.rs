//! Adds 1 to an eventfd of the client without ever waiting for anybody.
//!
//! A write to an eventfd waits while its counter is full, unless O_NONBLOCK is set: a flag of the open file, which the
//! client shares and changes when it likes, between a look at the counter and the write, too. No other call of the
//! kernel on the eventfd itself is free of that. But the kernel also signals an eventfd when an asynchronous read has
//! ended (io_submit with IOCB_FLAG_RESFD), with a function that only counts. So an interrupt is the end of a read of no
//! bytes from an empty file of ours.
//! Spec: io_submit(2); fs/aio.c, aio_complete; fs/eventfd.c, eventfd_signal_mask.
#![expect(
    unsafe_code,
    reason = "io_setup, io_submit, io_getevents and io_destroy have no safe wrapper"
)]
// UNSAFETY: the kernel reads the control block and writes the events within the calls that get their addresses; the read
// itself has no buffer. The context is made once and destroyed once.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use protocol::Errno;
use rustix::fs::MemfdFlags;

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb` (include/uapi/linux/aio_abi.h) of a little-endian machine.
#[repr(C)]
#[derive(Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Completion {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

const _: () = assert!(size_of::<ControlBlock>() == 64 && size_of::<Completion>() == 32);

/// Signals eventfds.
#[derive(Debug)]
pub struct Signaller {
    context: libc::c_ulong,
    empty: OwnedFd,
}

impl Signaller {
    /// Fails where the kernel has no asynchronous I/O, or too much of it is in use.
    pub fn new() -> Result<Signaller, Errno> {
        let empty = rustix::fs::memfd_create("bulkhead-signal", MemfdFlags::CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one context to the address, which is that of a zeroed variable.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
        succeeded(made)?;
        Ok(Signaller { context, empty })
    }

    /// Adds 1. What is no eventfd is refused.
    pub fn signal(&self, eventfd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut block = ControlBlock {
            opcode: IOCB_CMD_PREAD,
            file: self.empty.as_raw_fd().unsigned_abs(),
            flags: IOCB_FLAG_RESFD,
            eventfd: eventfd.as_raw_fd().unsigned_abs(),
            ..ControlBlock::default()
        };
        let mut blocks = [&raw mut block];
        // SAFETY: the kernel reads one pointer and the block behind it, and writes the block's key; both live longer than
        // the call. The read that it describes has no buffer.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, blocks.as_mut_ptr()) };
        succeeded(submitted)?;
        self.collect()
    }

    /// The read has ended inside the submission; its event makes room for the next one.
    fn collect(&self) -> Result<(), Errno> {
        let mut events = [Completion::default(); 1];
        let no_wait = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes at most one event to the array and reads the time; both live longer than the call.
        let collected = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0,
                1,
                events.as_mut_ptr(),
                &raw const no_wait,
            )
        };
        succeeded(collected)
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        // SAFETY: the context was made by `new` and nobody uses it any more.
        let destroyed = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
        if let Err(errno) = succeeded(destroyed) {
            tracing::error!(%errno, "Destroy the context of asynchronous I/O");
        }
    }
}

fn succeeded(result: libc::c_long) -> Result<(), Errno> {
    if result >= 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error))
}

#[cfg(test)]
mod tests;
