//! The one thread that attaches devices, whoever asks: at the start, by `device_add`, or anew after a loss.
//!
//! Attaching maps what a device server lends, and no other thread may map a descriptor (`sandbox/src/roles/vmm.rs`). Devices are
//! attached one after another; each step has its deadline.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::config::VfioCommon;
use crate::threads::{Kind, Threads};
use crate::vfio_user::{self, AttachCause, AttachError, VfioUserFunction, VmServices};

/// Asks the thread.
#[derive(Debug)]
pub struct Attacher {
    jobs: Sender<Job>,
}

struct Job {
    socket: OwnedFd,
    common: VfioCommon,
    answer: Sender<Attached>,
}

type Attached = Result<Arc<VfioUserFunction>, AttachError>;

impl Attacher {
    /// Starts the thread; it lives as long as the process.
    pub fn start(threads: &Threads, services: VmServices) -> io::Result<Attacher> {
        let (jobs, waiting) = channel();
        let body = move || attach_all(&waiting, &services);
        threads.start(Kind::Attach, "attach", body)?;
        Ok(Attacher { jobs })
    }

    /// Attaches the device behind `socket`, and waits until that is done.
    pub(super) fn attach(&self, socket: OwnedFd, common: &VfioCommon) -> Attached {
        let (answer, attached) = channel();
        let job = Job {
            socket,
            common: common.clone(),
            answer,
        };
        let no_thread = || AttachError {
            id: common.id.clone(),
            cause: AttachCause::NoThread,
        };
        self.jobs.send(job).map_err(|_| no_thread())?;
        attached.recv().map_err(|_| no_thread())?
    }
}

fn attach_all(jobs: &Receiver<Job>, services: &VmServices) {
    while let Ok(job) = jobs.recv() {
        let attached = vfio_user::attach(job.socket, &job.common, services);
        // Whoever asked waits.
        let _taken = job.answer.send(attached);
    }
}
