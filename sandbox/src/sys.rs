//! The system calls of this crate that need unsafe code: clone3 with the child's steps up to exec, and taking
//! ownership of an inherited file descriptor number.
//!
//! The child shares nothing with the parent but a copy of its memory, in which another thread may have held any
//! lock: between clone3 and exec only async-signal-safe calls are made and nothing is allocated or dropped.
//! Not here: what to place where (see `prepare`).
#![expect(
    unsafe_code,
    reason = "clone3, exec and the adoption of descriptor numbers have no safe wrappers"
)]
// UNSAFETY: raw system calls between clone3 and exec, and OwnedFd::from_raw_fd on inherited numbers.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Exit status of a child that failed before exec; the parent learns the reason through the report pipe.
const EXIT_BEFORE_EXEC: c_int = 127;
/// Linux, include/uapi/linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Signals are numbered 1 to 64 on Linux.
const LAST_SIGNAL: c_int = 64;

/// What the child was doing when it failed before exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    DeathSignal = 1,
    ParentGone = 2,
    Session = 3,
    Signals = 4,
    CopyFd = 5,
    PlaceFd = 6,
    CloseRest = 7,
    Exec = 8,
    User = 9,
}

/// Which processes a child sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// Those that this process sees.
    Shared,
    /// Only itself. Needs privilege.
    Own,
    /// Only itself, through a user namespace in which this process's user and group have their numbers and nobody else has any.
    /// Needs none.
    OwnThroughUser,
}

/// What a child in a user namespace of its own writes to have a user there: its own number, and no other.
#[derive(Debug)]
pub(crate) struct UserMaps([(&'static CStr, String); 3]);

impl UserMaps {
    /// For this process's user and group.
    pub(crate) fn new() -> UserMaps {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        UserMaps([
            (c"/proc/self/setgroups", "deny".to_owned()),
            (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
            (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
        ])
    }
}

/// Everything the child needs, laid out before clone3: the child only reads it.
#[derive(Debug)]
pub(crate) struct ExecPlan<'a> {
    pub(crate) program: &'a CStr,
    /// Pointers into strings that outlive this plan; ends with a null pointer.
    pub(crate) argv: &'a [*const c_char],
    /// Pointers into strings that outlive this plan; ends with a null pointer.
    pub(crate) envp: &'a [*const c_char],
    /// Where each descriptor goes: (number now, number in the child).
    pub(crate) moves: &'a mut [(RawFd, RawFd)],
    /// Lowest number above every target: copies wait there while the targets are filled.
    pub(crate) scratch_base: RawFd,
    /// Number ranges, first and last included, that hold no target: they are closed by exec.
    pub(crate) gaps: &'a [(c_uint, c_uint)],
    /// A pidfd of the parent: readable means that the parent is gone.
    pub(crate) parent: BorrowedFd<'a>,
    /// Where the child writes its `Step` and errno when it fails; closed by exec.
    pub(crate) report: BorrowedFd<'a>,
    /// Whether the child leaves the parent's session, and with it the terminal's signals.
    pub(crate) new_session: bool,
    pub(crate) pid_namespace: PidNamespace,
    /// For `PidNamespace::OwnThroughUser`.
    pub(crate) user_maps: &'a UserMaps,
    /// Where the child is born.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Starts a child process that runs the plan. Returns its process id and pidfd.
pub(crate) fn clone_and_exec(plan: &mut ExecPlan<'_>) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    let namespaces = match plan.pid_namespace {
        PidNamespace::Shared => 0,
        PidNamespace::Own => libc::CLONE_NEWPID,
        PidNamespace::OwnThroughUser => libc::CLONE_NEWPID | libc::CLONE_NEWUSER,
    };
    let into_cgroup = plan.cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    let cgroup = plan.cgroup.map_or(0, |folder| folder.as_raw_fd());
    let arguments = libc::clone_args {
        flags: u64::from((libc::CLONE_PIDFD | namespaces).unsigned_abs()) | into_cgroup,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: u64::from(cgroup.unsigned_abs()),
    };
    // SAFETY: clone3 without CLONE_VM is fork:
    // - `arguments` is a whole clone_args and its size is passed; it and `pidfd` live to the end of this function;
    // - no stack is given, so the child runs on its own copy of this one;
    // - the child only runs `child`, which keeps to async-signal-safe calls and never returns.
    let mut pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if pid < 0 && errno() == libc::ENOSYS && plan.cgroup.is_none() {
        pid = old_clone(namespaces, &raw mut pidfd);
    }
    if pid == 0 {
        child(plan);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel stored a fresh descriptor in `pidfd` (CLONE_PIDFD, success), which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((pid, pidfd))
}

/// The same by the call that a service manager's filter can look into: where it forbids namespaces, it answers clone3, whose flags
/// are in memory, as if there were none.
fn old_clone(namespaces: c_int, pidfd: *mut c_int) -> c_long {
    let flags = libc::CLONE_PIDFD | namespaces | libc::SIGCHLD;
    let none: c_long = 0;
    // SAFETY: clone without CLONE_VM is fork, as above:
    // - `pidfd` is valid for a write, which is where CLONE_PIDFD stores it;
    // - no stack, no child_tid and no tls are given, and the flags ask for none;
    // - the caller gives the child to `child`.
    unsafe {
        libc::syscall(
            libc::SYS_clone,
            c_long::from(flags),
            none,
            pidfd,
            none,
            none,
        )
    }
}

/// The child's side. Numbered steps; the order matters:
/// 1. tie this life to the parent's, before anything else can be left behind;
/// 2. have a user, if it is in a user namespace of its own, and leave the parent's session, if asked;
/// 3. default signal handlers and an empty mask, which exec would otherwise pass on;
/// 4. copy every descriptor above all targets, so that filling one target never overwrites another's source;
/// 5. place the copies, and mark all other numbers close-on-exec;
/// 6. exec.
fn child(plan: &mut ExecPlan<'_>) -> ! {
    let mut report = plan.report.as_raw_fd();
    let result = run_steps(plan, &mut report);
    let (step, errno) = match result {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let errno = errno.to_ne_bytes();
    let message = [step as u8, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: the buffer is valid for its length; write is async-signal-safe. A failed write leaves only the exit status.
    let _ = unsafe { libc::write(report, message.as_ptr().cast(), message.len()) };
    // SAFETY: _exit is async-signal-safe and runs no destructor of the parent's memory.
    unsafe { libc::_exit(EXIT_BEFORE_EXEC) }
}

fn run_steps(
    plan: &mut ExecPlan<'_>,
    report: &mut RawFd,
) -> Result<std::convert::Infallible, (Step, i32)> {
    // 1.
    // SAFETY: PR_SET_PDEATHSIG takes one integer argument.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    check(Step::DeathSignal, set.into())?;
    let mut parent = libc::pollfd {
        fd: plan.parent.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, no waiting.
    let gone = unsafe { libc::poll(&raw mut parent, 1, 0) };
    check(Step::ParentGone, gone.into())?;
    if gone != 0 {
        return Err((Step::ParentGone, libc::ESRCH));
    }
    // 2.
    if plan.pid_namespace == PidNamespace::OwnThroughUser {
        for (path, text) in &plan.user_maps.0 {
            write_file(path, text.as_bytes())?;
        }
    }
    if plan.new_session {
        // SAFETY: setsid takes no argument.
        let session = unsafe { libc::setsid() };
        check(Step::Session, session.into())?;
    }
    // 3.
    reset_signals()?;
    // 4.
    *report = copy_above(*report, plan.scratch_base)?;
    for (source, _) in plan.moves.iter_mut() {
        *source = copy_above(*source, plan.scratch_base)?;
    }
    // 5.
    for (source, target) in plan.moves.iter() {
        // SAFETY: dup2 takes two integers; the target holds nothing that this child still needs.
        let placed = unsafe { libc::dup2(*source, *target) };
        check(Step::PlaceFd, placed.into())?;
    }
    for (first, last) in plan.gaps {
        // SAFETY: close_range takes three integers; with CLOEXEC nothing closes before exec.
        let closed = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                *first,
                *last,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        check(Step::CloseRest, closed)?;
    }
    // 6.
    // SAFETY: program is a C string; argv and envp are null-terminated arrays of C strings that the parent laid out.
    unsafe {
        libc::execve(
            plan.program.as_ptr(),
            plan.argv.as_ptr(),
            plan.envp.as_ptr(),
        )
    };
    Err((Step::Exec, errno()))
}

fn reset_signals() -> Result<(), (Step, i32)> {
    // The kernel's struct sigaction, all zero: SIG_DFL, no flags, no mask. By the raw call, because libc keeps
    // signals 32 and 33 to itself and would leave them ignored.
    let default = [0_u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: a valid sigaction of the kernel's size, no old one is asked for, and the signal set has 8 bytes.
        // Numbers that cannot be changed (SIGKILL, SIGSTOP) are refused, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: an all-zero sigset_t is the empty set on Linux, a plain array of bits.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid, and no old set is asked for.
    let set =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
    check(Step::Signals, set.into())
}

fn write_file(path: &CStr, text: &[u8]) -> Result<(), (Step, i32)> {
    // SAFETY: the path is a C string; open is async-signal-safe.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(Step::User, file.into())?;
    // SAFETY: the buffer is valid for its length; write is async-signal-safe.
    let written = unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
    let failed = errno();
    // SAFETY: the number was opened here, and nothing else owns it.
    unsafe { libc::close(file) };
    if usize::try_from(written) == Ok(text.len()) {
        Ok(())
    } else {
        Err((Step::User, failed))
    }
}

fn copy_above(fd: RawFd, base: RawFd) -> Result<RawFd, (Step, i32)> {
    // SAFETY: F_DUPFD_CLOEXEC takes one integer.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, base) };
    check(Step::CopyFd, copy.into())?;
    Ok(copy)
}

fn check(step: Step, result: c_long) -> Result<(), (Step, i32)> {
    if result < 0 {
        Err((step, errno()))
    } else {
        Ok(())
    }
}

/// The calling thread's errno, without the allocation that `io::Error` might make.
fn errno() -> i32 {
    // SAFETY: the location is valid for the life of the thread.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: as above; nothing else writes it meanwhile.
    unsafe { *location }
}

/// Closes all descriptors from `first` to `last`.
pub(crate) fn close_numbers(first: c_uint, last: c_uint) -> io::Result<()> {
    // SAFETY: close_range takes three integers. Who calls it knows that nobody owns these numbers (`fds::keep_only`).
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether there is a descriptor of this number.
pub(crate) fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no argument and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0
}

/// Serialises the look at a number and its marking, so that a number is adopted once.
static ADOPTING: Mutex<()> = Mutex::new(());

/// Takes ownership of a descriptor number that this process inherited, and marks it close-on-exec.
///
/// Refused: 0 to 2, which the standard library uses; numbers that are not open; and numbers that are already
/// close-on-exec. Exec closes such descriptors, so they were not inherited: this process opened them, or has
/// adopted them before, and somebody owns them.
pub fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        let text = format!("descriptor {number} is not one that can be passed: use 3 or more");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let _guard = ADOPTING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: F_GETFD takes no argument.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        let text = format!("descriptor {number} is not open: the parent process did not pass it");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    if flags & libc::FD_CLOEXEC != 0 {
        let text = format!("descriptor {number} was not inherited, or is in use already");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    // SAFETY: F_SETFD takes one integer.
    let set = unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, and was inherited: everything this process opens is close-on-exec (Rust, and
    // MSG_CMSG_CLOEXEC for received ones), and an adopted number is too. So nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives SIGCHLD its default action. Whoever started this process may have had it ignored, and then the kernel
/// reaps children by itself and their exit status is lost.
pub fn make_children_waitable() -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler.
    let previous = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if previous == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
