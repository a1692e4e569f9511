//! What the tables of the threads are made of. `late` is the lowest number of a descriptor that was not there at the start.

use crate::mechanisms::seccomp::{Arg, Rule};

use super::kvm;
use crate::roles::statx_of_nothing;

const STANDARD_ERROR: u64 = 2;
const NO_DESCRIPTOR: u64 = 0xffff_ffff;
const PROT_EXEC: u64 = libc::PROT_EXEC.unsigned_abs() as u64;
const SOL_SOCKET: u64 = libc::SOL_SOCKET.unsigned_abs() as u64;

/// A call on a descriptor that was there at the start.
fn early(syscall: i64, late: u64, why: &'static str) -> Rule {
    Rule::syscall(syscall, why).arg(0, Arg::Below(late))
}

/// A call on one that came later.
fn late_only(syscall: i64, late: u64, why: &'static str) -> Rule {
    Rule::syscall(syscall, why).arg(0, Arg::AtLeast(late))
}

fn kvm(request: u64, late: u64, why: &'static str) -> Rule {
    early(libc::SYS_ioctl, late, why).arg(1, Arg::Equals(request))
}

fn fcntl(command: i32, late: u64, why: &'static str) -> Rule {
    let command = Arg::Equals(command.unsigned_abs().into());
    late_only(libc::SYS_fcntl, late, why).arg(1, command)
}

/// Memory, locks, the clock, the log, the end.
pub(super) fn every_thread(late: u64) -> Vec<Rule> {
    let no_exec = |rule: Rule| rule.arg(2, Arg::WithoutBits(PROT_EXEC));
    let call = Rule::syscall;
    vec![
        no_exec(call(libc::SYS_mmap, "allocator")).arg(4, Arg::Equals(NO_DESCRIPTOR)),
        no_exec(call(libc::SYS_mprotect, "allocator: grow an arena")),
        call(libc::SYS_munmap, "allocator; BARs of a device that goes"),
        call(libc::SYS_mremap, "allocator: grow a large block"),
        call(libc::SYS_madvise, "allocator; end of a thread"),
        call(libc::SYS_brk, "allocator"),
        call(
            libc::SYS_sched_getaffinity,
            "allocator: how many arenas are worth having",
        ),
        call(libc::SYS_futex, "locks and channels between threads"),
        call(libc::SYS_sched_yield, "locks"),
        call(
            libc::SYS_clock_gettime,
            "deadlines, where the vDSO cannot read the clock",
        ),
        call(libc::SYS_getrandom, "hash maps"),
        call(
            libc::SYS_restart_syscall,
            "the kernel continues an interrupted wait",
        ),
        early(
            libc::SYS_write,
            late,
            "log; wake-ups of threads; serial ports and their interrupts",
        ),
        late_only(
            libc::SYS_close,
            late,
            "connections, eventfds, lent descriptors",
        ),
        call(
            libc::SYS_fcntl,
            "builds with checks: is a descriptor open before it is closed",
        )
        .arg(1, Arg::Equals(libc::F_GETFD.unsigned_abs().into())),
        call(libc::SYS_rt_sigprocmask, "end of a thread"),
        call(libc::SYS_sigaltstack, "end of a thread"),
        call(libc::SYS_rt_sigaction, "abort: default action of SIGABRT"),
        call(
            libc::SYS_rt_sigreturn,
            "return from the handler of a kick, of an interrupted close, or of a stack overflow",
        ),
        call(libc::SYS_getpid, "abort, log"),
        call(libc::SYS_gettid, "abort, log"),
        own_thread("abort; interrupt a thread that closes"),
        call(libc::SYS_exit, "end of a thread"),
        call(libc::SYS_exit_group, "end of the process"),
    ]
}

/// A signal to a thread of this process.
fn own_thread(why: &'static str) -> Rule {
    let own = u64::from(std::process::id());
    Rule::syscall(libc::SYS_tgkill, why).arg(0, Arg::Equals(own))
}

/// Closing a descriptor of the start would free its number for one that comes later. Refused with an error, not with death:
/// the process does close them when it ends, and the kernel does it then.
pub(super) fn kept_descriptors(late: u64) -> [Rule; 1] {
    let why = "the numbers of the start stay what they are";
    [early(libc::SYS_close, late, why)]
}

/// Requests to device servers, and what their answers change in the guest: BARs and interrupts.
pub(super) fn devices(late: u64) -> Vec<Rule> {
    let call = Rule::syscall;
    vec![
        call(libc::SYS_sendmsg, "devices: a request and its descriptors"),
        call(libc::SYS_recvmsg, "devices: an answer and its descriptors"),
        call(
            libc::SYS_sendto,
            "devices: a short request; serial port on a socket",
        ),
        call(libc::SYS_recvfrom, "devices: the rest of an answer"),
        call(libc::SYS_poll, "devices: wait for an answer"),
        call(
            libc::SYS_ppoll,
            "devices: wait for an answer with a deadline; is an interrupt pending",
        ),
        late_only(libc::SYS_shutdown, late, "devices: end a connection"),
        late_only(
            libc::SYS_timerfd_settime,
            late,
            "devices: look for late answers",
        ),
        call(
            libc::SYS_eventfd2,
            "interrupts: one for each that the guest uses",
        ),
        kvm(kvm::IRQFD, late, "interrupts: from an eventfd to the guest"),
        kvm(
            kvm::IOEVENTFD,
            late,
            "doorbells: from a guest write to an eventfd",
        ),
        kvm(kvm::SET_GSI_ROUTING, late, "interrupts: what each means"),
        kvm(
            kvm::SIGNAL_MSI,
            late,
            "interrupts: of slots, and where one may be lost",
        ),
        kvm(
            kvm::IRQ_LINE,
            late,
            "interrupts: pins of slots and of the power button",
        ),
        kvm(
            kvm::SET_USER_MEMORY_REGION,
            late,
            "BARs: where the guest puts them, and away",
        ),
    ]
}

pub(super) fn vcpu(late: u64) -> Vec<Rule> {
    let why = "where a virtual CPU is that cannot go on";
    vec![
        kvm(kvm::RUN, late, "run the guest"),
        kvm(kvm::GET_REGS, late, why),
        kvm(kvm::GET_SREGS, late, why),
    ]
}

/// Everything that firmware and a boot loader would set.
pub(super) fn machine_reset(late: u64) -> Vec<Rule> {
    let requests = [
        kvm::SET_REGS,
        kvm::SET_SREGS,
        kvm::SET_MSRS,
        kvm::SET_FPU,
        kvm::SET_LAPIC,
        kvm::SET_MP_STATE,
        kvm::SET_VCPU_EVENTS,
        kvm::SET_DEBUGREGS,
        kvm::SET_XCRS,
        kvm::SET_IRQCHIP,
        kvm::SET_PIT2,
    ];
    let why = "reset: virtual CPUs and chips to their first state";
    requests.map(|request| kvm(request, late, why)).to_vec()
}

/// Stopping virtual CPUs.
pub(super) fn vcpu_kicks() -> Vec<Rule> {
    vec![own_thread("kick a virtual CPU out of the guest")]
}

/// Waiting for many descriptors.
pub(super) fn event_loop(late: u64) -> Vec<Rule> {
    let call = Rule::syscall;
    let mut rules = event_loop_changes(late);
    rules.extend([
        call(libc::SYS_epoll_wait, "event loop"),
        call(libc::SYS_epoll_pwait, "event loop, as newer libcs wait"),
        early(
            libc::SYS_read,
            late,
            "event loop: wake-ups, signals, what is typed into a serial port; never the log",
        )
        .arg(0, Arg::Differs(STANDARD_ERROR)),
    ]);
    rules
}

/// Changing what another thread waits for: a device that comes or goes.
pub(super) fn event_loop_changes(late: u64) -> Vec<Rule> {
    vec![
        early(libc::SYS_epoll_ctl, late, "event loop: what is waited for"),
        late_only(
            libc::SYS_epoll_ctl,
            late,
            "devices: the timer of a connection",
        ),
        Rule::syscall(
            libc::SYS_timerfd_create,
            "devices: the timer of a connection",
        ),
        Rule::syscall(libc::SYS_setsockopt, "devices: waits without a deadline")
            .arg(1, Arg::Equals(SOL_SOCKET)),
    ]
}

/// Clients of serial ports.
pub(super) fn serial_ports() -> Vec<Rule> {
    let call = Rule::syscall;
    vec![call(libc::SYS_accept4, "serial port: a client of a socket")]
}

/// What attaching a device takes beside requests to its server.
pub(super) fn attach(late: u64) -> Vec<Rule> {
    let call = Rule::syscall;
    vec![
        call(
            libc::SYS_mmap,
            "BARs: what the device server lends; images: what the supervisor lends",
        )
        .arg(2, Arg::WithoutBits(PROT_EXEC))
        .arg(4, Arg::AtLeast(late)),
        call(
            libc::SYS_fstat,
            "BARs and images: where a lent file ends, if it does; memory: is all of it there",
        ),
        late_only(
            libc::SYS_newfstatat,
            late,
            "BARs: the same, as newer libcs ask",
        )
        .arg(3, Arg::Equals(libc::AT_EMPTY_PATH.unsigned_abs().into())),
        late_only(libc::SYS_statx, late, "BARs: the same through statx")
            .arg(2, Arg::HasBits(libc::AT_EMPTY_PATH.unsigned_abs().into())),
        statx_of_nothing(),
        late_only(
            libc::SYS_fstatfs,
            late,
            "BARs: does a lent file come from a device",
        ),
        late_only(libc::SYS_getsockopt, late, "devices: is it a stream socket")
            .arg(1, Arg::Equals(SOL_SOCKET)),
        late_only(libc::SYS_setsockopt, late, "devices: deadlines").arg(1, Arg::Equals(SOL_SOCKET)),
        fcntl(
            libc::F_GET_SEALS,
            late,
            "BARs: is a lent file memory, which nobody else serves",
        ),
        fcntl(libc::F_GETFL, late, "devices: blocking or not"),
        fcntl(libc::F_SETFL, late, "devices: blocking"),
        call(libc::SYS_epoll_create1, "devices: watch a connection"),
        late_only(libc::SYS_epoll_ctl, late, "devices: watch a connection"),
    ]
}

/// Answers of the supervisor.
pub(super) fn control_answers() -> Vec<Rule> {
    let call = Rule::syscall;
    vec![
        call(libc::SYS_poll, "supervisor: wait for an answer"),
        call(
            libc::SYS_ppoll,
            "supervisor: wait for an answer, as newer libcs do",
        ),
        call(
            libc::SYS_recvmsg,
            "supervisor: an answer, and a device's socket or an image",
        ),
    ]
}

/// Events to QMP clients, from whatever thread something happens on.
pub(super) fn operator_events() -> Vec<Rule> {
    let call = Rule::syscall;
    vec![
        call(libc::SYS_sendto, "QMP: answers and events"),
        call(libc::SYS_epoll_ctl, "QMP: wait until a client reads"),
    ]
}

/// Clients of QMP.
pub(super) fn operator_clients() -> Vec<Rule> {
    let call = Rule::syscall;
    vec![
        call(libc::SYS_accept4, "QMP: a new client"),
        call(libc::SYS_recvmsg, "QMP: commands"),
        call(
            libc::SYS_clock_nanosleep,
            "QMP: pause where no client can be accepted",
        ),
    ]
}

/// Who reads metrics, one after another.
pub(super) fn metrics(late: u64) -> Vec<Rule> {
    let call = Rule::syscall;
    vec![
        call(libc::SYS_poll, "metrics: wait for a client"),
        call(libc::SYS_ppoll, "metrics: wait for a client, for so long"),
        early(libc::SYS_accept4, late, "metrics: a new client"),
        late_only(libc::SYS_recvmsg, late, "metrics: what is asked"),
        late_only(libc::SYS_sendto, late, "metrics: the answer"),
    ]
}
