//! The threads that serve the devices, one each, and how the process learns that one has ended.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::closing;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use telemetry::metrics::Exporter;
use vmm_sys_util::signal::register_signal_handler;

use crate::backend::Backend;
use crate::server::{ServeConfig, ServeError, Shutdown, Source};

/// The longest name of a thread that Linux takes.
const THREAD_NAME_BYTES: usize = 15;

/// By then a client has made use of what it found, mostly: what is needed for that is not mapped twice.
const SETTLED: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Holds threads back until all are there and the sandbox is closed.
#[derive(Debug, Default)]
struct Gate {
    /// How many have arrived, and whether it is open.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.saturating_add(1);
        self.changed.notify_all();
        while !state.1 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns when so many threads have arrived. They do nothing but arrive, so it is not long.
    fn wait_for(&self, threads: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 < threads {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

/// What a thread does once it may.
type Work = Box<dyn FnOnce() + Send>;

/// Threads that are held back, and of which nothing depends on what is served.
#[derive(Debug)]
pub struct Held {
    gate: Arc<Gate>,
    closing: usize,
    device: Option<HeldDevice>,
}

/// The thread of a device that is not known yet.
#[derive(Debug)]
struct HeldDevice {
    names: Sender<(String, String)>,
    work: Sender<Work>,
}

impl Held {
    /// Starts so many threads that close what clients sent (`protocol::closing`).
    pub fn start(threads: usize) -> io::Result<Held> {
        register_signal_handler(closing::INTERRUPT as c_int, ignore)?;
        closing::promise(threads);
        let gate = Arc::<Gate>::default();
        for number in 0..threads {
            let gate = Arc::clone(&gate);
            let body = move || {
                gate.pass();
                closing::close_for_others();
            };
            std::thread::Builder::new()
                .name(format!("closing{number}"))
                .spawn(body)?;
        }
        Ok(Held {
            gate,
            closing: threads,
            device: None,
        })
    }

    /// Starts the thread of the first device as well. When this returns, the others wait.
    pub fn with_a_device(mut self) -> io::Result<Held> {
        let (names, named) = channel::<(String, String)>();
        let (work, given) = channel::<Work>();
        let gate = Arc::clone(&self.gate);
        let body = move || {
            let Ok((id, pci)) = named.recv() else { return };
            name_thread(&id);
            let _device = telemetry::device::span(&id, &pci).entered();
            gate.pass();
            // It was given before the gate opened, or nothing is to be served.
            if let Ok(work) = given.try_recv() {
                work();
            }
        };
        std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(body)?;
        self.gate.wait_for(self.closing);
        self.device = Some(HeldDevice { names, work });
        Ok(self)
    }

    /// Tells the thread which device it is for.
    pub fn name(&self, id: &str, pci: &str) {
        if let Some(device) = &self.device {
            // It waits for nothing else.
            let _ = device.names.send((id.to_owned(), pci.to_owned()));
        }
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Serving {
    shutdown: Shutdown,
    results: Receiver<Result<(), ServeError>>,
    sender: Sender<Result<(), ServeError>>,
    /// Signalled when there is something in `results`.
    ended: Arc<OwnedFd>,
    running: usize,
    /// Threads that end with the process: those that close what clients sent, and one that exports metrics.
    others: usize,
    failure: Option<ServeError>,
    gate: Arc<Gate>,
    /// A thread that is there for the first device.
    first: Option<HeldDevice>,
}

impl Serving {
    /// No thread yet but those that are `held`.
    pub fn new(shutdown: Shutdown, held: Held) -> io::Result<Serving> {
        let ended = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (sender, results) = channel();
        let ended = Arc::new(ended);
        Ok(Serving {
            shutdown,
            results,
            sender,
            ended,
            running: 0,
            others: held.closing,
            failure: None,
            gate: held.gate,
            first: held.device,
        })
    }

    /// Returns when every thread that was started exists and waits: from then on none makes a system call to begin.
    pub fn wait_until_held(&self) {
        self.gate.wait_for(self.running.saturating_add(self.others));
    }

    /// Lets all threads begin to serve, now and later.
    pub fn release(&self) {
        self.gate.open();
    }

    /// Serves one more device, once `release` is called.
    pub fn start(
        &mut self,
        config: ServeConfig,
        backend: Box<dyn Backend>,
        source: Source,
    ) -> io::Result<()> {
        let (id, pci) = (config.device.clone(), config.pci.clone());
        let (shutdown, sender) = (self.shutdown.clone(), self.sender.clone());
        let ended = Arc::clone(&self.ended);
        let work: Work = Box::new(move || {
            let result = crate::server::serve(source, backend, &config, &shutdown);
            if let Err(error) = &result {
                let error = error_chain(error);
                tracing::error!(error, "The device is served no longer");
            }
            // Fails only if the main thread has given up waiting.
            let _ = sender.send(result);
            let _ = rustix::io::write(&*ended, &1u64.to_ne_bytes());
        });
        if let Some(first) = self.first.take() {
            let given = first.work.send(work);
            given.map_err(|_| io::Error::other("the thread of the device has ended"))?;
        } else {
            let (gate, named) = (Arc::clone(&self.gate), id.clone());
            let body = move || {
                let _device = telemetry::device::span(&named, &pci).entered();
                gate.pass();
                work();
            };
            std::thread::Builder::new().name(id).spawn(body)?;
        }
        self.running = self.running.saturating_add(1);
        Ok(())
    }

    /// Answers those who ask for metrics, once `release` is called, until shutdown is requested.
    pub fn export(&mut self, exporter: Exporter) -> io::Result<()> {
        let (shutdown, gate) = (self.shutdown.clone(), Arc::clone(&self.gate));
        let device = tracing::Span::current();
        let body = move || {
            let _device = device.entered();
            gate.pass();
            exporter.serve(&shutdown);
        };
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(body)?;
        self.others = self.others.saturating_add(1);
        Ok(())
    }

    /// Waits until every thread has ended or `stop` is readable, and does `settle` when that has taken `SETTLED`.
    pub fn wait(&mut self, stop: impl AsFd, settle: impl FnOnce()) {
        let mut settle = Some(settle);
        while self.running > 0 {
            let timeout = settle.as_ref().map(|_| &SETTLED);
            let mut poll = [
                PollFd::new(&stop, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
            ];
            if rustix::event::poll(&mut poll, timeout) == Ok(0)
                && let Some(settle) = settle.take()
            {
                settle();
            }
            let [stop_entry, _] = &poll;
            if !stop_entry.revents().is_empty() {
                tracing::info!("Told to stop by a signal");
                return;
            }
            self.collect();
        }
    }

    /// Tells the threads to end, waits for them at most `patience`, and gives the error of one that failed.
    pub fn stop(mut self, patience: Duration) -> Result<(), ServeError> {
        self.shutdown.request();
        let give_up = Instant::now().checked_add(patience);
        self.collect();
        while self.running > 0 {
            let left = give_up.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut poll = [PollFd::new(&self.ended, PollFlags::IN)];
            let _ = rustix::event::poll(&mut poll, timeout.as_ref());
            self.collect();
            if self.running > 0 && left.is_some_and(|left| left.is_zero()) {
                tracing::error!(devices = self.running, "Sessions did not end in time");
                break;
            }
        }
        self.failure.map_or(Ok(()), Err)
    }

    fn collect(&mut self) {
        let _ = rustix::io::read(&*self.ended, &mut [0u8; 8]);
        loop {
            match self.results.try_recv() {
                Ok(result) => {
                    self.running = self.running.saturating_sub(1);
                    self.failure = result.err().or(self.failure.take());
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }
}

/// The calling thread, as `std::thread::Builder` would.
fn name_thread(name: &str) {
    let end = name.len().min(THREAD_NAME_BYTES);
    let name = CString::new(name.as_bytes().get(..end).unwrap_or_default());
    // Only people look at it.
    let _ = name.map(|name| rustix::thread::set_name(&name));
}

/// A signal that only has to end a wait in the kernel.
extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

/// An error and all its causes as one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ").replace('\n', " ")
}

#[cfg(test)]
mod tests;
