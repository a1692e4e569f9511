//! The threads that let devices go: a release may take more than a minute, and others must not wait for it.
//!
//! Limit: [`THREADS`] at a time. More wait their turn; each step of a release has its deadline.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::devices::Devices;
use crate::threads::{Kind, Threads};

/// A slot has up to eight functions, which leave together.
const THREADS: usize = 8;

/// Ids of devices that are to be let go.
pub(super) type Releases = Sender<String>;

/// The threads' end of [`Releases`].
pub(super) type Waiting = Receiver<String>;

pub(super) fn queue() -> (Releases, Waiting) {
    channel()
}

/// Starts the threads; they live as long as the process.
pub(super) fn start(threads: &Threads, devices: &Arc<Devices>, waiting: Waiting) -> io::Result<()> {
    let waiting = Arc::new(Mutex::new(waiting));
    for number in 0..THREADS {
        let (devices, waiting) = (Arc::clone(devices), Arc::clone(&waiting));
        let body = move || {
            while let Some(id) = next(&waiting) {
                devices.release_device(&id);
            }
        };
        threads.start(Kind::Release, &format!("release{number}"), body)?;
    }
    Ok(())
}

/// One thread at a time waits for an id, the others for their turn to.
fn next(waiting: &Mutex<Waiting>) -> Option<String> {
    let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.recv().ok()
}
