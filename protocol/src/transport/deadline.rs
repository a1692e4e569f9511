//! A point in time after which a wait has failed.

use rustix::event::Timespec;
use std::time::{Duration, Instant};

/// When a wait ends at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The longest wait: an hour stands for a duration that the clock cannot add.
    const LONGEST: Duration = Duration::from_secs(3600);

    /// `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now()).extended(duration)
    }

    /// The same, later by `duration`.
    #[must_use]
    pub fn extended(self, duration: Duration) -> Self {
        let shorter = duration.min(Self::LONGEST);
        Self(self.0.checked_add(shorter).unwrap_or(self.0))
    }

    /// What is left; `None` when it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }
}

/// For `poll`, rounded as the kernel takes it.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
