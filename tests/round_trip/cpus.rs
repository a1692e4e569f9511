//! Which CPUs the processes of a measurement run on.

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the two sides are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cpus {
    One,
    Two { ours: usize, theirs: usize },
}

impl Cpus {
    /// One CPU, then two.
    pub(crate) fn both() -> Result<[Self; 2]> {
        let allowed = sched_getaffinity(None)?;
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| allowed.is_set(cpu))
            .collect();
        ensure!(usable.len() >= 2, "this machine has only one CPU");
        let [first, .., last] = usable[..] else {
            unreachable!("two CPUs at least");
        };
        Ok([
            Self::One,
            Self::Two {
                ours: first,
                theirs: last,
            },
        ])
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "one CPU",
            Self::Two { .. } => "two CPUs",
        }
    }

    pub(crate) fn pin_self(self) -> Result<()> {
        Ok(sched_setaffinity(None, &only(self.ours()?))?)
    }

    /// Moves all threads of a process.
    pub(crate) fn pin_peer(self, process: u32) -> Result<()> {
        let cpu = match self {
            Self::One => self.ours()?,
            Self::Two { theirs, .. } => theirs,
        };
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = task?.file_name().into_string().ok();
            let thread = thread.and_then(|name| Pid::from_raw(name.parse().ok()?));
            sched_setaffinity(Some(thread.context("a thread's id")?), &only(cpu))?;
        }
        Ok(())
    }

    fn ours(self) -> Result<usize> {
        match self {
            Self::Two { ours, .. } => Ok(ours),
            Self::One => {
                let allowed = sched_getaffinity(None)?;
                let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu));
                first.context("a CPU to run on")
            }
        }
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}
