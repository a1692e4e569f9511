//! How this process confines itself: what it gives up before it has threads, and the system call filter of each thread.
//!
//! The tables are `sandbox/src/roles/vmm.rs`. Between the two steps everything is opened that the machine needs at its start; in the
//! second the numbers of those descriptors are made to stay, so that one number tells them from what comes later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, OFlags};
use sandbox::enter::{self, Sandbox};
use sandbox::mechanisms::seccomp::Filter;
use sandbox::mechanisms::{MechanismError, fds};
use sandbox::profile::{Enforced, Mode, Start};
use sandbox::roles::{Power, vmm};

use super::inherited::LATE_FDS;
use super::{Inherited, RunError, io};
use crate::config::StageConfig;
use crate::machine::serial::SerialWire;
use crate::threads::{AllThreads, Kind, Threads};

/// A process that has given up everything but system calls.
pub(super) struct Jail {
    sandbox: Sandbox,
    mode: Mode,
}

/// Filters by kind of thread.
type Filters = BTreeMap<Kind, Filter>;

impl Jail {
    /// Leaves the host. While there is one thread, and before anything of a peer or of the guest is read.
    /// Also gives what threads are started with.
    pub(super) fn enter(
        stage: &StageConfig,
        inherited: &Inherited,
    ) -> Result<(Jail, Threads), RunError> {
        let mode = stage.config.sandbox.mode;
        // rustix learns the page size from the kernel when it is first asked, by a prctl or through /proc, and keeps it.
        let _kept = rustix::param::page_size();
        // Threads ask it for their numbers on the host. It is closed before any of them begins.
        let proc = File::options()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed())
            .open("/proc");
        let log_to_file = stage.config.log.file.is_some() || is_file(io::stderr());
        let writes_files = log_to_file || inherited.serial.iter().any(writes_a_file);
        let power = Power {
            role: "vmm",
            limits: vmm::limits(stage.config.memory.size_bytes, writes_files),
            folders: Vec::new(),
        };
        let start = Start {
            mode,
            uid: stage.uid,
            alone: stage.alone,
        };
        let sandbox = enter::leave_host(&power, start)?;
        let threads = Threads::held(proc.ok().map(OwnedFd::from));
        Ok((Jail { sandbox, mode }, threads))
    }

    /// Filters every thread, this one last. From here on nothing is opened, no thread is started, and peers may be heard.
    pub(super) fn close(self, threads: AllThreads) -> Result<Enforced, RunError> {
        if !self.sandbox.filters() {
            threads
                .confine(Arc::new(|_| Ok(())))
                .map_err(io("Let the threads begin"))?;
            return Ok(self.sandbox.unfiltered());
        }
        let best_effort = self.mode == Mode::BestEffort;
        let result = filter_all(threads, best_effort).map_err(io("Confine the threads"))?;
        Ok(self.sandbox.filtered(result)?)
    }
}

/// Filters all threads. The inner error is the first of a mechanism; with `best_effort` the threads begin all the same.
fn filter_all(
    threads: AllThreads,
    best_effort: bool,
) -> io::Result<Result<String, MechanismError>> {
    let filters = match fds::settle(LATE_FDS).and_then(filters) {
        Ok(filters) => Arc::new(filters),
        Err(error) => {
            if best_effort {
                threads.confine(Arc::new(|_| Ok(())))?;
            }
            return Ok(Err(error));
        }
    };
    let failed = Arc::new(Mutex::new(None));
    let confine = {
        let (filters, failed) = (Arc::clone(&filters), Arc::clone(&failed));
        move |kind| {
            let Some(Err(error)) = filters.get(&kind).map(Filter::apply_to_thread) else {
                return Ok(());
            };
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            if best_effort {
                Ok(())
            } else {
                Err(io::Error::other("a thread has no filter"))
            }
        }
    };
    let confined = threads.confine(Arc::new(confine));
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = failed {
        return Ok(Err(error));
    }
    confined?;
    Ok(Ok(format!("{} tables, by kind of thread", filters.len())))
}

fn filters(late: RawFd) -> Result<Filters, MechanismError> {
    let filter = |kind: Kind| {
        let calls = vmm::calls(kind, late);
        Ok((kind, Filter::new(&calls.rules, &calls.refused)?))
    };
    Kind::ALL.into_iter().map(filter).collect()
}

fn writes_a_file(wire: &SerialWire) -> bool {
    match wire {
        SerialWire::Stdio { output, .. } | SerialWire::File(output) => is_file(output),
        SerialWire::Listener(_) | SerialWire::Stream(_) | SerialWire::None => false,
    }
}

fn is_file(fd: impl AsFd) -> bool {
    let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind == Ok(FileType::RegularFile)
}
