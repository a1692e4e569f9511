//! When each step of the start was reached: one log line per step (level info), for the operator and for the benchmark.
//!
//! `ms` counts from the start of this stage; `monotonic_ms` is CLOCK_MONOTONIC, which other processes can compare with.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

pub(super) struct Stages {
    began: Instant,
}

impl Stages {
    pub(super) fn start() -> Stages {
        let stages = Stages {
            began: Instant::now(),
        };
        stages.reached("stage-vmm");
        stages
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn reached(&self, stage: &'static str) {
        let ms = self.began.elapsed().as_secs_f64() * 1000.0;
        tracing::info!(stage, ms, monotonic_ms = monotonic_ms(), "reached");
    }
}

fn monotonic_ms() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec
        .saturating_mul(1000)
        .saturating_add(now.tv_nsec / 1_000_000)
}
