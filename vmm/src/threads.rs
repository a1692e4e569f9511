//! Every thread of this process is started here, before the machine runs; none is started later.
//!
//! A thread that is started waits. When all are there, and everything is open that they need, each takes the system call
//! filter of its kind, and only when all have one do they begin: no thread reads a peer's byte before the whole
//! process is confined, since one that is taken over could use another's freedom.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use protocol::closing;
use protocol::limits::CLOSING_THREADS;
pub use sandbox::roles::vmm::Thread as Kind;
use vmm_sys_util::signal::register_signal_handler;

#[cfg(test)]
mod tests;

/// What a thread does first when the others are there: it confines itself.
pub type Confine = dyn Fn(Kind) -> io::Result<()> + Send + Sync;

/// Starts threads.
#[derive(Clone)]
pub struct Threads {
    gate: Arc<Gate>,
    /// `/proc`, from before this process left it.
    proc: Option<Arc<OwnedFd>>,
}

/// A thread that was started.
#[derive(Debug)]
pub struct Started {
    /// To wait for its end.
    pub handle: JoinHandle<()>,
    /// Its number as the host sees it.
    pub id: i32,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    started: usize,
    confined: usize,
    failure: Option<io::Error>,
    order: Order,
}

#[derive(Clone, Default)]
enum Order {
    #[default]
    Wait,
    Confine(Arc<Confine>),
    Go,
}

impl Threads {
    /// Threads that wait for [`AllThreads::confine`]. `proc` is an open `/proc`, for the numbers that the host has for them.
    pub fn held(proc: Option<OwnedFd>) -> Threads {
        Threads {
            gate: Arc::default(),
            proc: proc.map(Arc::new),
        }
    }

    /// Threads that begin at once and are not confined, for tests.
    pub fn free() -> Threads {
        let threads = Threads::held(None);
        threads.gate.lock().order = Order::Go;
        threads
    }

    /// Starts a thread that will do `body`.
    pub fn start(
        &self,
        kind: Kind,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<Started> {
        let (tell, id) = std::sync::mpsc::channel();
        let (gate, proc) = (Arc::clone(&self.gate), self.proc.clone());
        let thread = move || {
            // Nobody listens only if nobody is there any more.
            let _told = tell.send(own_number(proc));
            if gate.pass(kind) {
                body();
            }
        };
        let handle = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(thread)?;
        self.gate.lock().started += 1;
        let id = id.recv().map_err(io::Error::other)?;
        Ok(Started { handle, id })
    }

    /// Starts those that close what peers sent (`protocol::closing`).
    pub fn start_closing(&self) -> io::Result<()> {
        prepare_closing(CLOSING_THREADS)?;
        for number in 0..CLOSING_THREADS {
            let name = format!("closing{number}");
            self.start(Kind::Closing, &name, closing::close_for_others)?;
        }
        Ok(())
    }

    /// No more are started.
    pub fn complete(self) -> AllThreads {
        AllThreads { gate: self.gate }
    }
}

/// All threads of the process, waiting.
pub struct AllThreads {
    gate: Arc<Gate>,
}

impl AllThreads {
    /// Confines all of them and then the calling thread, which is `Kind::Main`, and lets them begin. If one cannot be confined,
    /// none begins.
    pub fn confine(self, confine: Arc<Confine>) -> io::Result<()> {
        let mut state = self.gate.lock();
        state.order = Order::Confine(Arc::clone(&confine));
        self.gate.changed.notify_all();
        while state.confined < state.started {
            state = self.gate.wait(state);
        }
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        confine(Kind::Main)?;
        state.order = Order::Go;
        self.gate.changed.notify_all();
        Ok(())
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Confines the calling thread when it is told to; false if that failed.
    fn pass(&self, kind: Kind) -> bool {
        let mut state = self.lock();
        let confine = loop {
            match &state.order {
                Order::Wait => state = self.wait(state),
                Order::Confine(confine) => break Arc::clone(confine),
                Order::Go => return true,
            }
        };
        drop(state);
        let confined = confine(kind);
        let mut state = self.lock();
        state.confined += 1;
        self.changed.notify_all();
        if let Err(error) = confined {
            state.failure = Some(error);
            return false;
        }
        while matches!(state.order, Order::Confine(_)) {
            state = self.wait(state);
        }
        true
    }
}

/// Starts the one of a process that does not confine its threads.
pub fn start_closing_alone() -> io::Result<()> {
    prepare_closing(1)?;
    std::thread::Builder::new()
        .name("closing".to_owned())
        .spawn(closing::close_for_others)
        .map(drop)
}

fn prepare_closing(threads: usize) -> io::Result<()> {
    let_interrupt(closing::INTERRUPT as c_int)?;
    closing::promise(threads);
    Ok(())
}

/// From now on this signal does nothing but end a thread's wait in the kernel.
pub fn let_interrupt(signal: c_int) -> io::Result<()> {
    Ok(register_signal_handler(signal, ignore)?)
}

extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

/// The calling thread's number on the host. In a pid namespace of its own the thread itself knows another one.
fn own_number(proc: Option<Arc<OwnedFd>>) -> i32 {
    let link =
        proc.and_then(|proc| rustix::fs::readlinkat(proc.as_fd(), "thread-self", Vec::new()).ok());
    let on_host = link.and_then(|link| link.to_str().ok()?.rsplit('/').next()?.parse().ok());
    on_host.unwrap_or_else(|| rustix::thread::gettid().as_raw_nonzero().get())
}

impl std::fmt::Debug for AllThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AllThreads")
            .field("started", &self.gate.lock().started)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads")
            .field("started", &self.gate.lock().started)
            .finish_non_exhaustive()
    }
}
