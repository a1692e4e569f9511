//! The one thread that attaches devices, whoever asks: at the start, by `device_add`, or anew after a loss. It maps what is to be
//! booted next, too.
//!
//! Attaching maps what a device server lends, and no other thread may map a descriptor (`sandbox/src/roles/vmm.rs`). Devices are
//! attached one after another; each step has its deadline.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::config::VfioCommon;
use crate::machine::boot::{BootError, Image, ImageKind};
use crate::threads::{Kind, Threads};
use crate::vfio_user::{self, AttachCause, AttachError, Begun, VfioUserFunction, VmServices};

/// Asks the thread.
#[derive(Debug)]
pub struct Attacher {
    jobs: Sender<Job>,
}

enum Job {
    Begin {
        socket: OwnedFd,
        before_it_is_open: bool,
        common: Box<VfioCommon>,
        answer: Sender<Agreed>,
    },
    Attach {
        begun: Begun,
        common: Box<VfioCommon>,
        answer: Sender<Attached>,
    },
    Map {
        kind: ImageKind,
        file: OwnedFd,
        ram_bytes: u64,
        answer: Sender<Mapped>,
    },
}

type Agreed = Result<Begun, AttachError>;
type Attached = Result<Arc<VfioUserFunction>, AttachError>;
type Mapped = Result<Image, BootError>;

impl Attacher {
    /// Starts the thread; it lives as long as the process.
    pub fn start(threads: &Threads, services: VmServices) -> io::Result<Attacher> {
        let (jobs, waiting) = channel();
        let body = move || attach_all(&waiting, &services);
        threads.start(Kind::Attach, "attach", body)?;
        Ok(Attacher { jobs })
    }

    /// Agrees with the server behind `socket`, and waits until that is done.
    pub(super) fn begin(
        &self,
        socket: OwnedFd,
        before_it_is_open: bool,
        common: &VfioCommon,
    ) -> Agreed {
        let (answer, agreed) = channel();
        let job = Job::Begin {
            socket,
            before_it_is_open,
            common: Box::new(common.clone()),
            answer,
        };
        let no_thread = || no_thread(common);
        self.jobs.send(job).map_err(|_| no_thread())?;
        agreed.recv().map_err(|_| no_thread())?
    }

    /// Attaches the device of this connection, and waits until that is done.
    pub(super) fn attach(&self, begun: Begun, common: &VfioCommon) -> Attached {
        let (answer, attached) = channel();
        let job = Job::Attach {
            begun,
            common: Box::new(common.clone()),
            answer,
        };
        let no_thread = || no_thread(common);
        self.jobs.send(job).map_err(|_| no_thread())?;
        attached.recv().map_err(|_| no_thread())?
    }

    /// Maps an image, and waits until that is done. None: the thread is gone.
    pub(super) fn map(&self, kind: ImageKind, file: OwnedFd, ram_bytes: u64) -> Option<Mapped> {
        let (answer, mapped) = channel();
        let job = Job::Map {
            kind,
            file,
            ram_bytes,
            answer,
        };
        self.jobs.send(job).ok()?;
        mapped.recv().ok()
    }
}

fn no_thread(common: &VfioCommon) -> AttachError {
    AttachError {
        id: common.id.clone(),
        cause: AttachCause::NoThread,
    }
}

fn attach_all(jobs: &Receiver<Job>, services: &VmServices) {
    while let Ok(job) = jobs.recv() {
        // Whoever asked waits.
        match job {
            Job::Begin {
                socket,
                before_it_is_open,
                common,
                answer,
            } => {
                let begun = vfio_user::begin(socket, before_it_is_open, &common, services);
                let _taken = answer.send(begun);
            }
            Job::Attach {
                begun,
                common,
                answer,
            } => {
                let _taken = answer.send(vfio_user::attach(begun, &common, services));
            }
            Job::Map {
                kind,
                file,
                ram_bytes,
                answer,
            } => {
                let _taken = answer.send(Image::map(kind, file, ram_bytes));
            }
        }
    }
}
