//! The server of the software test device: no hardware, so no request of VFIO; it keeps client memory mapped, and makes the memory of
//! its BAR0 anew for each client.

use crate::mechanisms::seccomp::{Arg, Rule};

use super::device_base::{self, FileMaps};
use super::{Calls, Folder, Limit, Power, Resource, Role};

/// Eventfds of its vectors and doorbells, what came with messages that are set aside, and what is open besides.
const DESCRIPTORS: u64 = 4200;

/// The role. `memory_bytes`: the size of BAR0. `log_to_file`: standard error is a regular file.
pub fn role(memory_bytes: u64, log_to_file: bool, folders: Vec<Folder>) -> Role {
    // With a log in a file there is no limit on files at all.
    let mut limits = device_base::limits(DESCRIPTORS, log_to_file);
    limits.retain(|limit| limit.resource != Resource::Fsize);
    if !log_to_file {
        limits.push(Limit {
            resource: Resource::Fsize,
            value: Some(memory_bytes),
            why: "BAR0 is the largest file; left out where the log goes to one",
        });
    }
    limits.push(Limit {
        resource: Resource::Memlock,
        value: Some(0),
        why: "nothing is locked",
    });
    let maps = FileMaps::Shared("dma: client memory as long as it is mapped; BAR0");
    let mut rules = device_base::rules(maps, &folders);
    rules.extend(own_rules());
    let refused = device_base::refused(&[], &folders);
    rules.extend(refused.iter().cloned());
    Role {
        power: Power {
            role: "test device",
            limits,
            folders,
        },
        calls: Calls { rules, refused },
    }
}

fn own_rules() -> Vec<Rule> {
    vec![
        Rule::syscall(
            libc::SYS_memfd_create,
            "BAR0: new memory for the next client",
        ),
        Rule::syscall(libc::SYS_ftruncate, "BAR0: its size"),
        Rule::syscall(libc::SYS_fcntl, "BAR0: no client can change its size")
            .arg(1, Arg::Equals(libc::F_ADD_SEALS.unsigned_abs().into())),
        Rule::syscall(libc::SYS_fallocate, "BAR0: zeroes at a reset"),
        Rule::syscall(libc::SYS_eventfd2, "doorbells, of each client"),
        Rule::syscall(
            libc::SYS_io_submit,
            "irqs: signal a client's eventfd as the kernel does, without waiting for the client",
        ),
        Rule::syscall(libc::SYS_io_getevents, "irqs: what became of that"),
        Rule::syscall(libc::SYS_io_destroy, "irqs: end of the process"),
    ]
}
