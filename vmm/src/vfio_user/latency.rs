//! How long the guest's trapped accesses of one device took: a histogram with buckets of powers of two.
//!
//! Counted where the guest waits: every trapped access, also one that this process answers itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Below 1, 2, 4, ... 2^22 microseconds (four seconds), and anything longer.
const BUCKETS: usize = 24;

/// A histogram that several threads count into.
#[derive(Debug, Default)]
pub(super) struct Latency {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// The same in seconds, with the empty buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Of all accesses together.
    pub sum_seconds: f64,
    /// How many there were.
    pub count: u64,
    /// How many of them took at most so long and longer than the bucket before. The last one has no end.
    pub buckets: Vec<(f64, u64)>,
}

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
        let counted = self.buckets.iter().enumerate().map(bucket);
        counted.filter(|bucket| bucket.count > 0).collect()
    }

    /// What was counted, for metrics.
    pub(super) fn histogram(&self) -> Histogram {
        let counts = self.buckets.each_ref();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        let ends = (0..BUCKETS - 1).map(|index| Duration::from_micros(1 << index).as_secs_f64());
        let ends = ends.chain([f64::INFINITY]);
        let sum = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed));
        Histogram {
            sum_seconds: sum.as_secs_f64(),
            count: counts.iter().sum(),
            buckets: ends.zip(counts).collect(),
        }
    }

    fn count(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        let us = took.as_micros();
        let index = usize::try_from(u128::BITS - us.leading_zeros()).unwrap_or(BUCKETS);
        let last = self.buckets.len() - 1;
        if let Some(bucket) = self.buckets.get(index.min(last)) {
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

    #[test]
    fn histogram_has_every_bucket_and_the_sum() {
        let latency = Latency::default();
        latency.count(Duration::from_micros(3));
        latency.count(Duration::from_secs(5));
        let histogram = latency.histogram();
        let sum = histogram.sum_seconds;
        assert!((sum - 5.000_003).abs() < 1e-9, "{sum}");
        assert_eq!((histogram.count, histogram.buckets.len()), (2, BUCKETS));
        assert_eq!(histogram.buckets[2], (4e-6, 1));
        assert_eq!(histogram.buckets[BUCKETS - 1], (f64::INFINITY, 1));
    }
}
