//! What a process may do after `enter`: tables, with a reason in every row.
//!
//! A role is data. It is made by a function, because some rows depend on descriptor numbers that are known only then.

pub mod supervisor;
pub mod vmm;
pub mod vfio;
pub mod test_device;
pub mod device_base;

use crate::mechanisms::seccomp::{Arg, Rule};

pub use crate::mechanisms::landlock::{Folder, Need};
pub use crate::mechanisms::rlimits::{Limit, Resource};

/// What one kind of process may do.
#[derive(Debug)]
pub struct Role {
    /// Outside its own memory and descriptors.
    pub power: Power,
    /// Which system calls it may make.
    pub calls: Calls,
}

/// What a process keeps when it leaves the host.
#[derive(Debug)]
pub struct Power {
    /// The name of the role, for messages.
    pub role: &'static str,
    /// Resource limits, soft and hard.
    pub limits: Vec<Limit>,
    /// Folders of which something is still needed; nothing else of any file system is left. With one of them the user
    /// stays who it is, without any capability: only the owner of a folder may remove what is in it.
    pub folders: Vec<Folder>,
}

/// The system calls of a process or of a thread.
#[derive(Debug)]
pub struct Calls {
    /// The system calls; any other kills the process.
    pub rules: Vec<Rule>,
    /// Of those, what is refused with EPERM.
    pub refused: Vec<Rule>,
}

/// How libraries ask whether the kernel has statx, when their first call of it failed: of no file, into no buffer.
fn statx_of_nothing() -> Rule {
    Rule::syscall(libc::SYS_statx, "whether there is statx, asked of nothing")
        .arg(1, Arg::Equals(0))
        .arg(4, Arg::Equals(0))
}
