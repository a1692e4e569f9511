//! The processors of the running machine: who may stop and start them, and whether the operator has stopped them.
//!
//! One lock orders stop, cont, reset and the end: none of them sees another half done. The state that is shown has a lock of
//! its own, so that asking for it never waits for a processor that stops.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kvm::{KvmError, Vcpu, VcpuSet};
use crate::qmp::machine::{Cpu, RunState};

/// All processors.
#[derive(Debug)]
pub(super) struct Processors {
    set: Mutex<Option<VcpuSet>>,
    state: Mutex<RunState>,
    threads: Vec<i32>,
}

/// The processors while nobody else may stop or start them.
pub(super) struct Held<'a> {
    set: MutexGuard<'a, Option<VcpuSet>>,
    state: &'a Mutex<RunState>,
}

impl Processors {
    /// They do not run yet.
    pub(super) fn new(set: VcpuSet) -> Processors {
        let threads = set.thread_ids();
        Processors {
            set: Mutex::new(Some(set)),
            state: Mutex::new(RunState::Running),
            threads,
        }
    }

    /// Waits for who holds them.
    pub(super) fn hold(&self) -> Held<'_> {
        Held {
            set: lock(&self.set),
            state: &self.state,
        }
    }

    /// What the operator is shown.
    pub(super) fn state(&self) -> RunState {
        *lock(&self.state)
    }

    /// For `query-cpus-fast`.
    pub(super) fn cpus(&self) -> Vec<Cpu> {
        (0..)
            .zip(&self.threads)
            .map(|(index, thread_id)| Cpu {
                index,
                thread_id: *thread_id,
            })
            .collect()
    }

    /// Ends all of them.
    pub(super) fn shut_down(&self) -> Result<(), KvmError> {
        let set = lock(&self.set).take();
        *lock(&self.state) = RunState::Shutdown;
        set.map_or(Ok(()), VcpuSet::shut_down)
    }
}

impl Held<'_> {
    /// Stops them for the operator; true if they ran.
    pub(super) fn stop(&self) -> Result<bool, KvmError> {
        if *lock(self.state) != RunState::Running {
            return Ok(false);
        }
        self.pause()?;
        *lock(self.state) = RunState::Paused;
        Ok(true)
    }

    /// Lets them run for the operator; true if they were stopped.
    pub(super) fn cont(&self) -> bool {
        if *lock(self.state) != RunState::Paused {
            return false;
        }
        *lock(self.state) = RunState::Running;
        self.resume();
        true
    }

    /// Whether the machine ends.
    pub(super) fn is_ending(&self) -> bool {
        self.set.is_none()
    }

    /// Stops them, until [`Self::resume`]. If one does not stop, all run on.
    pub(super) fn pause(&self) -> Result<(), KvmError> {
        self.set.as_ref().map_or(Ok(()), VcpuSet::pause)
    }

    /// Lets them run, unless the operator has stopped them.
    pub(super) fn resume(&self) {
        if let Some(set) = self.set.as_ref()
            && *lock(self.state) == RunState::Running
        {
            set.resume();
        }
    }

    /// Changes every processor; only while they do not run.
    pub(super) fn for_each(
        &self,
        change: impl FnMut(&mut Vcpu) -> Result<(), KvmError>,
    ) -> Result<(), KvmError> {
        self.set.as_ref().map_or(Ok(()), |set| set.for_each(change))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
