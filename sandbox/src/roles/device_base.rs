//! What every device server may do, whatever its device: serve connected sockets with threads that exist already.

use std::os::fd::RawFd;

use crate::mechanisms::seccomp::{Arg, Rule};

use super::{Folder, Limit, Need, Resource, statx_of_nothing};

/// First argument of fcntl that matters is the command, the second.
const COMMAND: u8 = 1;

/// Limits that no device needs more of. `descriptors`: how many file descriptors the devices may need.
/// `log_to_file`: the log goes to a regular file.
pub fn limits(descriptors: u64, log_to_file: bool) -> Vec<Limit> {
    let mut limits = vec![
        Limit {
            resource: Resource::Core,
            value: Some(0),
            why: "a core file would hold guest data",
        },
        Limit {
            resource: Resource::Nofile,
            value: Some(descriptors),
            why: "eventfds of all vectors, and what is open at start",
        },
    ];
    if !log_to_file {
        limits.push(Limit {
            resource: Resource::Fsize,
            value: Some(0),
            why: "no file is written; left out where the log goes to one",
        });
    }
    limits
}

/// Which descriptors may be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMaps {
    /// None: memory comes from nowhere but the allocator.
    Never,
    /// Shared memory that a client sends; for what it is needed.
    Shared(&'static str),
}

/// System calls. No socket, connect, clone, execve, ptrace, prctl, io_uring; no dup2 and dup3, so that the numbers
/// which roles pin stay what they are; a role whose devices are opened within its sandbox has dup3 onto theirs.
pub fn rules(maps: FileMaps, folders: &[Folder]) -> Vec<Rule> {
    let mut rules = messages();
    rules.extend(memory(maps));
    rules.extend(waiting());
    rules.extend(descriptors());
    rules.extend(folders.iter().flat_map(folder_rules));
    // One filter allows what the other then refuses.
    rules.extend(refused(&[], folders));
    rules
}

/// What is refused with EPERM instead of death: glibc itself tries it, at a moment that nobody chooses. When it gives the
/// end of a thread's heap back it looks for /proc/sys/vm/overcommit_memory (malloc/arena.c, `shrink_heap`), and it lives
/// well with a no.
///
/// Closing one of the `pinned` descriptors, or a folder, would free its number for another one. That is no reason to die
/// either: the process does close them when it ends, after its last client, and exit does it then.
pub fn refused(pinned: &[RawFd], folders: &[Folder]) -> Vec<Rule> {
    let nodes = folders
        .iter()
        .filter(|folder| matches!(folder.need, Need::OpenNode(_)));
    let elsewhere = nodes.fold(
        Rule::syscall(libc::SYS_openat, "allocator: the kernel's overcommit mode"),
        |rule, folder| rule.arg(0, Arg::Differs(number(folder.number))),
    );
    let open = Rule::syscall(libc::SYS_open, "allocator: the same, as older libcs ask");
    let folders = folders.iter().map(|folder| folder.number);
    let close = pinned.iter().copied().chain(folders).map(|fd| {
        Rule::syscall(
            libc::SYS_close,
            "numbers that rules name stay what they are",
        )
        .arg(0, Arg::Equals(number(fd)))
    });
    [elsewhere, open].into_iter().chain(close).collect()
}

/// A descriptor's number as an argument.
pub fn number(fd: RawFd) -> u64 {
    fd.unsigned_abs().into()
}

/// What is needed of a folder, on its number only. seccomp sees no names: they are Landlock's to restrict.
fn folder_rules(folder: &Folder) -> Vec<Rule> {
    let on = |call, why| Rule::syscall(call, why).arg(0, Arg::Equals(number(folder.number)));
    match folder.need {
        Need::RemoveFile => vec![
            on(
                libc::SYS_newfstatat,
                "listener: is the socket's file still ours",
            ),
            on(libc::SYS_unlinkat, "listener: remove the socket's file").arg(2, Arg::Equals(0)),
        ],
        Need::OpenNode(_) => vec![
            on(libc::SYS_openat, folder.why)
                .arg(2, Arg::HasBits(O_RDWR))
                .arg(2, Arg::WithoutBits(OTHER_OPEN_FLAGS)),
        ],
    }
}

fn messages() -> Vec<Rule> {
    vec![
        Rule::syscall(
            libc::SYS_recvmsg,
            "session: receive a message and its descriptors",
        ),
        Rule::syscall(
            libc::SYS_sendmsg,
            "session: send a reply and its descriptors",
        ),
        Rule::syscall(libc::SYS_recvfrom, "session: receive without descriptors"),
        Rule::syscall(libc::SYS_sendto, "session: send without descriptors"),
        Rule::syscall(
            libc::SYS_accept4,
            "listener: the next client of a listening socket",
        ),
        Rule::syscall(libc::SYS_getsockopt, "listener: who the client is"),
        Rule::syscall(libc::SYS_setsockopt, "session: deadlines of a connection")
            .arg(1, Arg::Equals(SOL_SOCKET)),
        Rule::syscall(libc::SYS_socketpair, "session: the client's second socket")
            .arg(0, Arg::Equals(AF_UNIX)),
        Rule::syscall(libc::SYS_shutdown, "session: end a connection"),
        Rule::syscall(libc::SYS_read, "eventfds, signalfd"),
        Rule::syscall(libc::SYS_write, "eventfds, ready line, log"),
        Rule::syscall(libc::SYS_writev, "log"),
        Rule::syscall(
            libc::SYS_preadv2,
            "irqs: is a received descriptor an eventfd; only a read that does not wait",
        )
        .arg(5, Arg::Equals(RWF_NOWAIT)),
    ]
}

fn memory(maps: FileMaps) -> Vec<Rule> {
    let no_exec = |rule: Rule| rule.arg(2, Arg::WithoutBits(PROT_EXEC));
    let mmap = |why| no_exec(Rule::syscall(libc::SYS_mmap, why));
    let mut rules = vec![mmap("allocator").arg(3, Arg::HasBits(MAP_ANONYMOUS))];
    if let FileMaps::Shared(why) = maps {
        rules.push(
            mmap(why)
                .arg(3, Arg::HasBits(MAP_SHARED))
                .arg(3, Arg::WithoutBits(MAP_FIXED)),
        );
    }
    rules.extend([
        no_exec(Rule::syscall(
            libc::SYS_mprotect,
            "allocator: grow an arena; a stack's guard page",
        )),
        Rule::syscall(libc::SYS_munmap, "allocator; guest memory after MAP_DMA"),
        Rule::syscall(libc::SYS_mremap, "allocator: grow a large block"),
        Rule::syscall(
            libc::SYS_madvise,
            "allocator; huge pages for guest memory; end of a thread",
        ),
        Rule::syscall(libc::SYS_brk, "allocator"),
        Rule::syscall(
            libc::SYS_sched_getaffinity,
            "allocator: how many arenas are worth having",
        ),
    ]);
    rules
}

fn waiting() -> Vec<Rule> {
    vec![
        Rule::syscall(libc::SYS_poll, "every wait for a descriptor"),
        Rule::syscall(
            libc::SYS_ppoll,
            "every wait for a descriptor with a deadline",
        ),
        Rule::syscall(libc::SYS_futex, "locks and channels between threads"),
        Rule::syscall(
            libc::SYS_clock_gettime,
            "deadlines, where the vDSO cannot read the clock",
        ),
        Rule::syscall(
            libc::SYS_clock_nanosleep,
            "pause before a reset is tried again",
        ),
        Rule::syscall(libc::SYS_nanosleep, "pause before a reset is tried again"),
        Rule::syscall(libc::SYS_sched_yield, "locks"),
        Rule::syscall(
            libc::SYS_restart_syscall,
            "the kernel continues an interrupted wait",
        ),
        Rule::syscall(libc::SYS_rt_sigprocmask, "end of a thread"),
        Rule::syscall(libc::SYS_rt_sigaction, "abort: default action of SIGABRT"),
        Rule::syscall(
            libc::SYS_rt_sigreturn,
            "return from the handler of an interrupted close, or of a stack overflow",
        ),
        Rule::syscall(libc::SYS_sigaltstack, "end of a thread"),
        Rule::syscall(libc::SYS_getpid, "abort, log"),
        Rule::syscall(libc::SYS_gettid, "abort, log"),
        Rule::syscall(
            libc::SYS_tgkill,
            "abort; interrupt a thread that closes: one of this process",
        )
        .arg(0, Arg::Equals(std::process::id().into())),
        Rule::syscall(libc::SYS_getrandom, "hash maps"),
        Rule::syscall(libc::SYS_exit, "end of a thread"),
        Rule::syscall(libc::SYS_exit_group, "end of the process"),
    ]
}

fn descriptors() -> Vec<Rule> {
    let fcntl = |command: i32, why| {
        Rule::syscall(libc::SYS_fcntl, why).arg(COMMAND, Arg::Equals(command.unsigned_abs().into()))
    };
    vec![
        fcntl(
            libc::F_DUPFD_CLOEXEC,
            "a copy of the device for the client's mmap; never onto a chosen number",
        ),
        fcntl(libc::F_GETFD, "check of a descriptor"),
        fcntl(libc::F_SETFD, "close-on-exec"),
        fcntl(
            libc::F_GETFL,
            "dma: what a received descriptor was opened for",
        ),
        fcntl(libc::F_SETFL, "session: blocking or not"),
        fcntl(
            libc::F_GET_SEALS,
            "dma: proof that the memory cannot shrink",
        ),
        Rule::syscall(libc::SYS_fstat, "dma: the size of received memory"),
        Rule::syscall(
            libc::SYS_newfstatat,
            "dma: the size of received memory, as newer libcs ask",
        )
        .arg(3, Arg::Equals(libc::AT_EMPTY_PATH.unsigned_abs().into())),
        Rule::syscall(libc::SYS_statx, "the same through statx")
            .arg(2, Arg::HasBits(libc::AT_EMPTY_PATH.unsigned_abs().into())),
        statx_of_nothing(),
        Rule::syscall(libc::SYS_fstatfs, "dma: the page size of received memory"),
        Rule::syscall(libc::SYS_close, "what came with messages, connections"),
        Rule::syscall(libc::SYS_ioctl, "sockets: non-blocking").arg(1, Arg::Equals(libc::FIONBIO)),
    ]
}

/// include/uapi/linux/fs.h; a file of VFIO has no such read.
const RWF_NOWAIT: u64 = 8;
const PROT_EXEC: u64 = libc::PROT_EXEC.unsigned_abs() as u64;
const MAP_ANONYMOUS: u64 = libc::MAP_ANONYMOUS.unsigned_abs() as u64;
const MAP_SHARED: u64 = libc::MAP_SHARED.unsigned_abs() as u64;
const MAP_FIXED: u64 = libc::MAP_FIXED.unsigned_abs() as u64;
const O_RDWR: u64 = libc::O_RDWR.unsigned_abs() as u64;
/// Nothing is made, emptied or opened without rights; O_CLOEXEC and O_LARGEFILE may be set.
const OTHER_OPEN_FLAGS: u64 =
    !(libc::O_RDWR | libc::O_CLOEXEC | 0o100_000).unsigned_abs() as u64 & 0xffff_ffff;
const SOL_SOCKET: u64 = libc::SOL_SOCKET.unsigned_abs() as u64;
const AF_UNIX: u64 = libc::AF_UNIX.unsigned_abs() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that was started by hand has no pid namespace of its own.
    #[test]
    fn signals_go_to_this_process_only() {
        let own = Arg::Equals(std::process::id().into());
        let signals = [
            libc::SYS_tgkill,
            libc::SYS_tkill,
            libc::SYS_kill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_send_signal,
        ];
        for rule in rules(FileMaps::Never, &[]) {
            assert!(
                !signals.contains(&rule.syscall) || rule.arguments.contains(&(0, own)),
                "{rule:?}"
            );
        }
    }
}
