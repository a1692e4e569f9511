//! How long the supervisor waits for whom, and how much it takes from whom.

use std::time::{Duration, Instant};

/// From the start of a `host bind` or `host unbind` to its end, for each device. Source: it gives the host's kernel 30 s for each
/// of two steps (device-server's host/helper.rs).
const HOST_COMMAND: Duration = Duration::from_secs(70);
/// For processes that are being killed to let go of a device that goes back to its host driver.
pub(super) const GIVE_BACK: Duration = Duration::from_secs(10);
/// A server that is there accepts a connection at once; one whose backlog is full may need a moment.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// From exec of a device server to its ready line. Source: it resets each device, which may take the kernel 60 s.
pub(super) const SERVER_READY: Duration = Duration::from_secs(75);
/// From the last socket of a device server being closed to its end. Source: as above, it resets each device.
pub(super) const SERVER_END: Duration = Duration::from_secs(75);
/// From the end of a device server to the group of its devices being free. A VMM unmaps their BARs at once, which resets them.
/// After that their DMA is stopped without it.
pub(super) const BRAKE: Duration = Duration::from_secs(5);
/// From there to the VMM being killed. Source: the kernel waits up to 60 s for a device to come back from a reset, and the VMM
/// with it.
pub(super) const LET_GO: Duration = Duration::from_secs(60);
/// Between two looks whether a group is free.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// For the configuration space of a device to be read: it takes a millisecond where the device is neither being reset nor woken, and a busy
/// host some more. Everything else waits meanwhile.
pub(super) const DEVICE_LOOK: Duration = Duration::from_millis(200);
/// From the last thing that the VMM asked for to the start of a device server that waits for the next. Source: `device_add` takes up to
/// 3 s in the slowest VM of the tests, and a guest another second to use the device.
pub(super) const SPARE: Duration = Duration::from_secs(5);
/// The same from the release of a device, after which the VMM and the guest have nothing to do.
pub(super) const SPARE_AFTER_RELEASE: Duration = Duration::from_millis(200);
/// From SIGTERM to the end of the VMM.
pub(super) const VMM_STOP: Duration = Duration::from_secs(5);
/// From SIGKILL to the end of a process. Longer means that it is stuck in the kernel.
pub(super) const KILLED: Duration = Duration::from_secs(10);

/// From the start of the copy of an image to its end. Source: at 100 MB/s it is enough for the largest.
pub(super) const IMAGE: Duration = Duration::from_secs(30);

/// Bytes of a device server's ready line.
pub(super) const MAX_READY_BYTES: usize = 4096;
/// Requests that the VMM may make within `REQUEST_WINDOW`; the rest waits in its socket.
pub(super) const MAX_REQUESTS: u32 = 32;
/// See `MAX_REQUESTS`.
pub(super) const REQUEST_WINDOW: Duration = Duration::from_secs(1);
/// Device servers of one VM at a time.
pub(super) const MAX_SERVERS: usize = 64;

/// vfio-user sockets of one VM at a time. Source: as many as it may have devices.
pub(super) const MAX_SOCKETS: usize = 256;

/// Images that a VM has open at a time. Source: kernel and initrd of the boot in force, of the next, and of one that is being checked.
pub(super) const MAX_IMAGES: usize = 6;

/// The time that a host command has for so many devices.
pub(super) fn host_command(devices: usize) -> Duration {
    HOST_COMMAND.saturating_mul(u32::try_from(devices).unwrap_or(u32::MAX))
}

/// The time left until `at`.
pub(super) fn left(at: Instant) -> Duration {
    at.saturating_duration_since(Instant::now())
}

/// How many requests may still be taken now.
#[derive(Debug)]
pub(super) struct Budget {
    window_end: Instant,
    left: u32,
}

impl Budget {
    /// A full budget.
    pub(super) fn new(now: Instant) -> Budget {
        Budget {
            window_end: now + REQUEST_WINDOW,
            left: MAX_REQUESTS,
        }
    }

    /// Takes one request, if there is one left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now >= self.window_end {
            *self = Budget::new(now);
        }
        let available = self.left > 0;
        self.left = self.left.saturating_sub(1);
        available
    }

    /// When there will be some again; `None` if there is one left.
    pub(super) fn refilled_at(&self, now: Instant) -> Option<Instant> {
        (self.left == 0 && now < self.window_end).then_some(self.window_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_used_up_and_refilled_after_its_window() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let taken = (0..1000).filter(|_| budget.take(start)).count();
        assert_eq!(taken, 32);
        assert_eq!(budget.refilled_at(start), Some(start + REQUEST_WINDOW));
        let later = start + REQUEST_WINDOW;
        assert_eq!(budget.refilled_at(later), None);
        assert!(budget.take(later));
    }
}
