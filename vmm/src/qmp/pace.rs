//! How fast commands may run: some at once, then one per interval, however many clients ask.
//!
//! Why: a client that sends without a pause would take a whole CPU from the guest. It is slowed down by its answers, since its
//! next command waits for them; the commands of others wait behind it for some intervals at most.
//! Limits: [`BURST`], [`INTERVAL`].

use std::time::{Duration, Instant};

/// Commands that may run without a pause, if there were none for a while. A management program sends some dozens at a time.
pub(super) const BURST: u32 = 100;
/// Between two commands after that: 100 a second. In the lab, where a command takes a millisecond of the one CPU, 500 a second were felt.
pub(super) const INTERVAL: Duration = Duration::from_millis(10);

/// The pace of one thread that runs commands. (The generic cell rate algorithm, ITU-T I.371.)
#[derive(Debug)]
pub(super) struct Pace {
    /// When the commands so far would have ended, one per interval.
    even: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { even: now }
    }

    /// One more command: how long it has to wait.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let pause = self.even.saturating_duration_since(now + BURST * INTERVAL);
        self.even = self.even.max(now) + INTERVAL;
        (!pause.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_runs_at_once_and_what_follows_at_the_interval() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..=BURST {
            assert_eq!(pace.pause(now), None);
        }
        assert_eq!(pace.pause(now), Some(INTERVAL));
        assert_eq!(pace.pause(now), Some(2 * INTERVAL));
        // Who waits as told is told the same again.
        assert_eq!(pace.pause(now + 2 * INTERVAL), Some(INTERVAL));
    }

    #[test]
    fn commands_after_a_quiet_time_run_at_once_again() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..2 * BURST {
            let _ = pace.pause(now);
        }
        let later = now + 2 * BURST * INTERVAL;
        for _ in 0..=BURST {
            assert_eq!(pace.pause(later), None);
        }
    }
}
