//! Which descriptors this process has: those that were listed, at numbers that stay what they are.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use super::MechanismError;
use crate::sys;

/// Closes every descriptor but the standard streams and those listed. First thing in a process, before it opens any: what it
/// inherited beside is nobody's.
pub fn keep_only(listed: &[RawFd]) -> Result<(), MechanismError> {
    let mut listed: Vec<u32> = listed.iter().map(|number| number.unsigned_abs()).collect();
    listed.sort_unstable();
    let mut next = 3;
    let closed = MechanismError::at("close descriptors that nobody listed");
    for number in listed {
        if number > next {
            sys::close_numbers(next, number - 1).map_err(&closed)?;
        }
        next = next.max(number.saturating_add(1));
    }
    sys::close_numbers(next, u32::MAX).map_err(&closed)
}

/// Fills every number that is free below the highest one in use, of those below `ceiling`, for good, with copies of standard
/// input. What it returns is the lowest number that a descriptor can get from now on.
pub fn settle(ceiling: RawFd) -> Result<RawFd, MechanismError> {
    let failed =
        |source: io::Error| MechanismError::new("fill the free numbers of descriptors", source);
    let highest = (0..ceiling).rev().find(|number| sys::is_open(*number));
    loop {
        let copy = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 0)
            .map_err(|errno| failed(errno.into()))?;
        let number = copy.as_raw_fd();
        if number >= ceiling {
            let text = format!("more than {ceiling} are open at the start");
            return Err(failed(io::Error::other(text)));
        }
        if highest.is_none_or(|highest| number > highest) {
            return Ok(number);
        }
        // It stays open until the process ends.
        let _kept = copy.into_raw_fd();
    }
}
