//! Threads for what waits: letting a device go, starting one anew, stopping the processors. They exist before the
//! machine runs.
//!
//! Limit: [`THREADS`] tasks at a time; more wait their turn. Each step of a task has its deadline.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::threads::{Kind, Threads};

/// A slot has up to eight functions, which leave together.
const THREADS: usize = 8;

type Task = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Debug)]
pub(super) struct Tasks(Sender<Task>);

impl Tasks {
    /// Starts the threads. They live as long as this does.
    pub(super) fn start(threads: &Threads) -> io::Result<Tasks> {
        let (sender, tasks) = channel();
        let tasks: Arc<Mutex<Receiver<Task>>> = Arc::new(Mutex::new(tasks));
        for number in 0..THREADS {
            let tasks = Arc::clone(&tasks);
            let work = move || {
                while let Some(task) = next(&tasks) {
                    task();
                }
            };
            threads.start(Kind::Release, &format!("release{number}"), work)?;
        }
        Ok(Tasks(sender))
    }

    /// Has it done as soon as a thread is free.
    pub(super) fn add(&self, task: impl FnOnce() + Send + 'static) {
        // They end only with this.
        let _taken = self.0.send(Box::new(task));
    }
}

/// One thread at a time waits for a task, the others for their turn to.
fn next(tasks: &Mutex<Receiver<Task>>) -> Option<Task> {
    let tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    tasks.recv().ok()
}
