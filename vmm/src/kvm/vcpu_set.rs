//! The vCPU threads: who runs them, how all of them stop and go on.
//!
//! Each vCPU is a thread that holds the lock of its vCPU while it runs. [`VcpuSet::pause`] returns when every thread has
//! finished the exit it was in and let go of its lock, so that the caller may change any vCPU.
//!
//! A thread is kicked out of KVM_RUN by a signal whose handler does nothing. A signal that comes just before KVM_RUN is
//! lost; so kicks are repeated until the thread has answered.
//!
//! Limits: [`STOP_DEADLINE`] for a vCPU to stop. It may be inside a trap that waits for a device server.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::error::KvmError;
use super::exit::{FatalExit, MemoryFaultHandler, Outcome, run_once};
use super::vcpu::Vcpu;
use crate::address_space::AddressSpaces;
use crate::threads::{Kind, Threads, let_interrupt};

#[cfg(test)]
mod tests;

/// Longest wait for a vCPU to stop: the longest deadline of a device request (70 s for a reset) and some room.
pub const STOP_DEADLINE: Duration = Duration::from_secs(90);
/// Between two kicks.
const KICK_INTERVAL: Duration = Duration::from_millis(2);

/// What vCPU threads need beside their vCPU.
pub struct VcpuContext {
    /// Who answers trapped accesses.
    pub spaces: Arc<AddressSpaces>,
    /// Who is asked when memory behind a slot is gone.
    pub faults: Arc<dyn MemoryFaultHandler>,
    /// Called once, on the thread of a vCPU that cannot go on. The others run until they are paused.
    pub on_fatal: Box<dyn Fn(FatalExit) + Send + Sync>,
}

/// All vCPUs of one machine and their threads. Stopped when it is made.
#[derive(Debug)]
pub struct VcpuSet {
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    threads: Vec<JoinHandle<()>>,
    /// As the host numbers the threads.
    ids: Vec<i32>,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// By vCPU: whether its thread is outside the guest and does not hold its vCPU.
    parked: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Park,
    End,
}

impl VcpuSet {
    /// Starts one thread per vCPU; they wait for [`VcpuSet::resume`].
    pub fn start(
        vcpus: Vec<Vcpu>,
        context: VcpuContext,
        threads: &Threads,
    ) -> Result<VcpuSet, KvmError> {
        let failed = |step| move |source| KvmError::Call { step, source };
        let_interrupt(SIGRTMIN()).map_err(failed("Install the kick signal"))?;
        let context = Arc::new(context);
        let state = State {
            order: Order::Park,
            parked: vec![true; vcpus.len()],
        };
        let control = Arc::new(Control {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut set = VcpuSet {
            vcpus: Vec::new(),
            threads: Vec::new(),
            ids: Vec::new(),
            control,
        };
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let name = format!("vcpu{}", vcpu.id);
            let vcpu = Arc::new(Mutex::new(vcpu));
            set.vcpus.push(Arc::clone(&vcpu));
            let (control, context) = (Arc::clone(&set.control), Arc::clone(&context));
            let body = move || run_thread(index, &vcpu, &control, &context);
            let started = threads
                .start(Kind::Vcpu, &name, body)
                .map_err(failed("Start a vCPU thread"))?;
            set.threads.push(started.handle);
            set.ids.push(started.id);
        }
        Ok(set)
    }

    /// The threads, lowest vCPU first, as the host numbers them.
    pub fn thread_ids(&self) -> Vec<i32> {
        self.ids.clone()
    }

    /// Lets all vCPUs run.
    pub fn resume(&self) {
        self.control.order(Order::Run);
    }

    /// Stops all vCPUs and waits until they have stopped. If one does not stop, all run on: nobody would resume them.
    pub fn pause(&self) -> Result<(), KvmError> {
        self.pause_within(STOP_DEADLINE)
    }

    /// The same with a deadline of the caller's.
    pub(super) fn pause_within(&self, patience: Duration) -> Result<(), KvmError> {
        self.control.order(Order::Park);
        self.kick_until_parked(patience)
            .inspect_err(|_| self.resume())
    }

    /// Changes every vCPU, lowest number first. Only while paused.
    pub fn for_each(
        &self,
        mut change: impl FnMut(&mut Vcpu) -> Result<(), KvmError>,
    ) -> Result<(), KvmError> {
        self.vcpus
            .iter()
            .try_for_each(|vcpu| change(&mut vcpu.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Ends all threads.
    pub fn shut_down(mut self) -> Result<(), KvmError> {
        self.control.order(Order::End);
        self.kick_until_parked(STOP_DEADLINE)?;
        for thread in self.threads.drain(..) {
            // A thread that panicked has aborted the process in release builds and been reported in tests.
            let _finished = thread.join();
        }
        Ok(())
    }

    fn kick_until_parked(&self, patience: Duration) -> Result<(), KvmError> {
        let deadline = Instant::now() + patience;
        let mut state = self.control.lock();
        while let Some(running) = state.parked.iter().position(|parked| !parked) {
            if Instant::now() >= deadline {
                let id = u8::try_from(running).unwrap_or(u8::MAX);
                return Err(KvmError::StuckVcpu(id, patience));
            }
            let still_running = self
                .threads
                .iter()
                .zip(&state.parked)
                .filter(|(_, parked)| !**parked);
            for (thread, _) in still_running {
                thread.kill(SIGRTMIN()).map_err(|errno| KvmError::Call {
                    step: "Kick a vCPU thread",
                    source: io::Error::from_raw_os_error(errno.errno()),
                })?;
            }
            let waited = self.control.changed.wait_timeout(state, KICK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        self.lock().order = order;
        self.changed.notify_all();
    }

    /// Parks the thread until it may run; `false` when it shall end.
    fn wait_to_run(&self, index: usize) -> bool {
        let mut state = self.lock();
        loop {
            if let Some(parked) = state.parked.get_mut(index) {
                *parked = true;
            }
            match state.order {
                Order::Run => break,
                Order::End => return false,
                Order::Park => {
                    self.changed.notify_all();
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if let Some(parked) = state.parked.get_mut(index) {
            *parked = false;
        }
        true
    }

    fn may_run(&self) -> bool {
        self.lock().order == Order::Run
    }

    /// Parks a thread whose vCPU cannot go on until it is paused with the others or ended.
    fn wait_while_running(&self, index: usize) {
        let mut state = self.lock();
        if let Some(parked) = state.parked.get_mut(index) {
            *parked = true;
        }
        self.changed.notify_all();
        while state.order == Order::Run {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run_thread(index: usize, vcpu: &Mutex<Vcpu>, control: &Control, context: &VcpuContext) {
    while control.wait_to_run(index) {
        let fatal = run_until_stopped(
            &mut vcpu.lock().unwrap_or_else(PoisonError::into_inner),
            control,
            context,
        );
        if let Some(fatal) = fatal {
            (context.on_fatal)(fatal);
            control.wait_while_running(index);
        }
    }
    control.changed.notify_all();
}

fn run_until_stopped(
    vcpu: &mut Vcpu,
    control: &Control,
    context: &VcpuContext,
) -> Option<FatalExit> {
    let id = vcpu.id;
    while control.may_run() {
        loop {
            match run_once(id, &mut vcpu.fd, &context.spaces, context.faults.as_ref()) {
                // An order comes with a kick, so a handled exit needs no look at it. The next run finishes the access
                // before it can be interrupted: a vCPU is never stopped with half an access in it.
                Outcome::Continue => {}
                Outcome::Interrupted => break,
                Outcome::Fatal(fatal) => return Some(fatal),
            }
        }
    }
    None
}

impl std::fmt::Debug for VcpuContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VcpuContext")
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}
