//! How long the guest's trapped accesses of one device took: a histogram with buckets of powers of two.
//!
//! Counted where the guest waits: every trapped access, also one that this process answers itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Below 1, 2, 4, ... 2^22 microseconds (four seconds), and anything longer.
const BUCKETS: usize = 24;

/// A histogram that several threads count into.
#[derive(Debug, Default)]
pub(super) struct Latency([AtomicU64; BUCKETS]);

/// One bucket that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The accesses took less than this, in microseconds, and not less than half of it; None for the last one.
    pub below_us: Option<u64>,
    /// How many.
    pub count: u64,
}

impl Latency {
    /// Counts how long `access` takes.
    pub(super) fn of<T>(&self, access: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let answer = access();
        self.count(began.elapsed());
        answer
    }

    /// What was counted, the shortest first.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let last = BUCKETS - 1;
        let bucket = |(index, count): (usize, &AtomicU64)| Bucket {
            below_us: (index < last).then(|| 1 << index),
            count: count.load(Ordering::Relaxed),
        };
        let counted = self.0.iter().enumerate().map(bucket);
        counted.filter(|bucket| bucket.count > 0).collect()
    }

    fn count(&self, took: Duration) {
        let us = took.as_micros();
        let index = usize::try_from(u128::BITS - us.leading_zeros()).unwrap_or(BUCKETS);
        let last = self.0.len() - 1;
        if let Some(bucket) = self.0.get(index.min(last)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(below_us: Option<u64>, count: u64) -> Bucket {
        Bucket { below_us, count }
    }

    #[test]
    fn access_is_counted_in_the_first_bucket_that_holds_it() {
        let latency = Latency::default();
        for ns in [0, 999, 1_000, 1_999, 2_000, 4_194_303_999, 4_194_304_000] {
            latency.count(Duration::from_nanos(ns));
        }
        latency.count(Duration::MAX);
        assert_eq!(
            latency.buckets(),
            [
                bucket(Some(1), 2),
                bucket(Some(2), 2),
                bucket(Some(4), 1),
                bucket(Some(1 << 22), 1),
                bucket(None, 2),
            ]
        );
    }

    #[test]
    fn access_gives_what_it_gave() {
        let latency = Latency::default();
        assert_eq!(latency.of(|| 5), 5);
        assert_eq!(latency.buckets().len(), 1);
    }
}
