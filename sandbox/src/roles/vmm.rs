//! The process that runs a guest.
//!
//! Its threads do different things, so each kind has a table of its own, made of the parts below it. Descriptors are told
//! apart by one number, fixed at the start: those below it were opened by the supervisor or by this process before its
//! filters, and they alone are read, written and asked of KVM; none of them can be closed, copied or replaced. What a
//! device server sends later lands at that number or above, where none of this works, and so does an image that the supervisor lends. Such a
//! descriptor can be mapped, by the one thread that attaches devices.
//!
//! No table has open, execve, clone, socket, connect, pread, pwrite, lseek, splice, io_uring, dup, or an ioctl of VFIO.

pub mod kvm;
mod parts;

use std::os::fd::RawFd;

use crate::mechanisms::seccomp::Rule;

use super::{Calls, Limit, Resource};

/// Descriptors that may be open: an eventfd for each of KVM's 4,096 interrupt routes, twice while a set of them grows, and
/// what is open beside.
const DESCRIPTORS: u64 = 16_384;

/// The kinds of threads. All exist before the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thread {
    /// Starts the machine, waits for its own events, resets it.
    Main,
    /// Runs a virtual CPU.
    Vcpu,
    /// Watches the connections to device servers.
    Connections,
    /// Receives the supervisor's answers.
    Supervisor,
    /// Attaches devices: the only one that maps what a device server or the supervisor lends.
    Attach,
    /// Does what hot-plug slots decide, and keeps their timers.
    HotPlug,
    /// Lets devices go.
    Release,
    /// Serves QMP sockets.
    Qmp,
    /// Runs QMP commands.
    QmpCommands,
    /// Answers who reads metrics.
    Metrics,
    /// Closes what peers sent, which may take as long as they like.
    Closing,
}

impl Thread {
    /// All kinds.
    pub const ALL: [Thread; 11] = [
        Thread::Main,
        Thread::Vcpu,
        Thread::Connections,
        Thread::Supervisor,
        Thread::Attach,
        Thread::HotPlug,
        Thread::Release,
        Thread::Qmp,
        Thread::QmpCommands,
        Thread::Metrics,
        Thread::Closing,
    ];
}

/// What the process is held to besides its filters. `memory_bytes`: what the guest has. `writes_files`: a serial port or the
/// log goes to a regular file.
pub fn limits(memory_bytes: u64, writes_files: bool) -> Vec<Limit> {
    let mut limits = vec![
        Limit {
            resource: Resource::Core,
            value: Some(0),
            why: "a core file would hold the guest's memory",
        },
        Limit {
            resource: Resource::Memlock,
            value: Some(0),
            why: "device servers pin the guest's memory, this process locks nothing",
        },
        Limit {
            resource: Resource::Nofile,
            value: Some(DESCRIPTORS),
            why: "eventfds of interrupts, and what is open at start",
        },
    ];
    if !writes_files {
        limits.push(Limit {
            resource: Resource::Fsize,
            value: Some(memory_bytes),
            why: "the guest's memory is the largest file; left out where a port or the log goes to one",
        });
    }
    limits
}

/// What a thread may call. `late`: the lowest number that a descriptor can have which was not there at the start.
pub fn calls(thread: Thread, late: RawFd) -> Calls {
    let late = u64::from(late.unsigned_abs());
    let mut rules = parts::every_thread(late);
    let parts = match thread {
        Thread::Main => vec![
            parts::event_loop(late),
            parts::serial_ports(),
            parts::machine_reset(late),
            parts::vcpu_kicks(),
            parts::operator_events(),
            parts::devices(late),
        ],
        Thread::Vcpu => vec![parts::vcpu(late), parts::devices(late)],
        Thread::Connections => vec![parts::event_loop(late), parts::devices(late)],
        Thread::Supervisor => vec![parts::control_answers()],
        Thread::Attach => vec![parts::attach(late), parts::devices(late)],
        Thread::HotPlug => vec![
            parts::vcpu_kicks(),
            parts::operator_events(),
            parts::devices(late),
        ],
        Thread::Release | Thread::QmpCommands => vec![
            parts::event_loop_changes(late),
            parts::vcpu_kicks(),
            parts::operator_events(),
            parts::devices(late),
        ],
        Thread::Qmp => vec![
            parts::event_loop(late),
            parts::operator_clients(),
            parts::operator_events(),
        ],
        Thread::Metrics => vec![parts::metrics(late)],
        Thread::Closing => Vec::new(),
    };
    rules.extend(parts.into_iter().flatten());
    let refused = refused(late);
    // One filter allows what the other then refuses.
    rules.extend(refused.iter().cloned());
    Calls { rules, refused }
}

/// What is refused with EPERM.
fn refused(late: u64) -> Vec<Rule> {
    let mut rules = super::device_base::refused(&[], &[]);
    rules.extend(parts::kept_descriptors(late));
    rules
}
