//! Stops a device and resets it.
//!
//! Bus mastering goes off first: a reset restores the command register that it found, and a device that is being reset
//! must not start a transfer. The kernel chooses the way (FLR, power states, bus: sysfs `reset_method`).
//! Limits: a reset that the kernel is too busy for is tried again for `BUSY_DEADLINE`.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::Errno;

use super::ioctls;
use super::spec::{COMMAND, COMMAND_BUS_MASTER};

/// How long EAGAIN (another part of the kernel holds the device's lock) is tried again.
const BUSY_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Bus mastering off, then VFIO_DEVICE_RESET. `config` is where config space is in the device fd.
pub(super) fn reset(device: BorrowedFd<'_>, config: u64) -> Result<(), Errno> {
    stop_dma(device, config)?;
    let deadline = Instant::now().checked_add(BUSY_DEADLINE).ok_or(Errno::IO)?;
    loop {
        match ioctls::reset(device) {
            Ok(()) => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                sleep(BUSY_PAUSE)
            }
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// Clears the bus master bit: the device starts no transfer and sends no MSI from now on.
pub(super) fn stop_dma(device: BorrowedFd<'_>, config: u64) -> Result<(), Errno> {
    let offset = config
        .checked_add(u64::try_from(COMMAND).map_err(|_| Errno::INVAL)?)
        .ok_or(Errno::INVAL)?;
    let mut bytes = [0u8; 2];
    if rustix::io::pread(device, &mut bytes, offset)? != bytes.len() {
        return Err(Errno::IO);
    }
    let command = u16::from_le_bytes(bytes) & !COMMAND_BUS_MASTER;
    if rustix::io::pwrite(device, &command.to_le_bytes(), offset)? != bytes.len() {
        return Err(Errno::IO);
    }
    Ok(())
}
