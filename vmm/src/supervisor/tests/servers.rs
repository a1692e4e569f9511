//! Device servers that are scripts: how they start, fail and end.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use protocol::supervisor::{ControlSocket, HostOptions, Reply, Request};
use sandbox::prepare::Child;

use super::super::hosts::HostGroup;
use super::super::ready::ReadyPipe;
use super::super::spawn::StartedServer;
use super::super::*;
use super::{PATIENCE, PollFd, PollFlags, Timespec, receive, watch};

/// Groups from here on are on no machine: a look finds them free.
const NO_GROUP: u32 = 1 << 30;

/// A device server that runs this script with its ready pipe as 3 and its socket as 4.
fn add_server(watch: &mut Watch, number: u32, script: &str) {
    add_server_of(watch, number, &[&format!("dev{number}")], script);
}

/// The same of a group with these devices; the script has the socket of the first.
fn add_server_of(watch: &mut Watch, number: u32, ids: &[&str], script: &str) {
    start_server(watch, number, ids, script, None);
}

/// The same, for this request.
fn start_server(watch: &mut Watch, number: u32, ids: &[&str], script: &str, attach: Option<u32>) {
    let (ready, ready_writer) = ReadyPipe::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Child::new("/bin/sh", vec!["-c".into(), script.into()]);
    let process = child
        .fd(3, ready_writer)
        .fd(4, theirs.into())
        .spawn()
        .unwrap();
    // No machine has it: what the supervisor asks sysfs about it does not depend on this one.
    let host = format!("ffff:ff:1f.{number}").parse().unwrap();
    let device = |id: &&str| HostDevice {
        id: (*id).to_owned(),
        host,
        options: HostOptions::default(),
    };
    let group = HostGroup {
        number: NO_GROUP + number,
        devices: ids.iter().map(device).collect(),
    };
    let mut sockets = vec![ours.into()];
    sockets.extend((1..ids.len()).map(|_| UnixStream::pair().unwrap().0.into()));
    watch.servers.add(
        group,
        StartedServer {
            process,
            ready,
            sockets,
        },
        attach,
    );
}

#[test]
fn ready_servers_hand_over_their_sockets() {
    let mut watch = watch(Policy::default());
    add_server(
        &mut watch,
        1,
        "echo '{\"ready\":true}' >&3; exec 3>&-; cat <&4 >/dev/null",
    );
    add_server(
        &mut watch,
        2,
        "echo '{\"ready\":true}' >&3; exec 3>&-; cat <&4 >/dev/null",
    );
    let devices = watch.until_ready().unwrap();
    let mut ids: Vec<_> = devices.iter().map(|(id, _)| id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["dev1", "dev2"]);
}

/// What is said to the VMM of a server that is started for its request 7, each time with or without a socket.
fn replies_of(script: &str) -> [(Reply, bool); 2] {
    let mut watch = watch(Policy::default());
    start_server(&mut watch, 1, &["dev1"], script, Some(7));
    let (_, replies) = with_vmm(watch, move |control| {
        [(); 2].map(|()| {
            let (reply, socket) = receive(&control);
            (reply, socket.is_some())
        })
    });
    replies
}

#[test]
fn socket_of_a_server_that_serves_early_goes_to_the_vmm_before_its_device_is_there() {
    let script =
        "echo '{\"serving\":true}' >&3; echo '{\"ready\":true}' >&3; exec 3>&-; cat <&4 >/dev/null";
    let (connected, attached) = (
        Reply::Connected { number: 7 },
        Reply::Attached { number: 7 },
    );
    assert_eq!(replies_of(script), [(connected, true), (attached, false)]);
}

#[test]
fn server_that_serves_early_and_cannot_open_its_device_is_a_refusal() {
    let script = "echo '{\"serving\":true}' >&3; echo '{\"error\":\"no reset\"}' >&3; exit 1";
    let (connected, refused) = (
        Reply::Connected { number: 7 },
        Reply::refused(7, "no reset"),
    );
    assert_eq!(replies_of(script), [(connected, true), (refused, false)]);
}

#[test]
fn error_of_a_server_is_passed_on() {
    let mut watch = watch(Policy::default());
    add_server(
        &mut watch,
        1,
        "echo '{\"error\":\"group 1 is not viable\"}' >&3; exit 1",
    );
    let error = watch.until_ready().unwrap_err();
    assert_eq!(error.to_string(), "device dev1: group 1 is not viable");
}

#[test]
fn server_that_dies_without_a_word_is_an_error_with_its_status() {
    let mut watch = watch(Policy::default());
    add_server(&mut watch, 1, "exit 3");
    let error = watch.until_ready().unwrap_err();
    assert_eq!(
        error.to_string(),
        "device dev1: it ended before it was ready (exit status 3); its log says why"
    );
}

#[test]
fn server_that_closes_its_ready_pipe_and_lives_on_is_an_error_in_time() {
    let mut watch = watch(Policy::default());
    add_server(&mut watch, 1, "exec 3>&-; exec sleep 60");
    let start = Instant::now();
    watch.until_ready().unwrap_err();
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn end_of_the_vmm_ends_the_servers() {
    let mut watch = watch(Policy::default());
    add_server(
        &mut watch,
        1,
        "echo '{\"ready\":true}' >&3; exec 3>&-; cat <&4 >/dev/null",
    );
    let devices = watch.until_ready().unwrap();
    let vmm = devices.into_iter().fold(
        Child::new("/bin/sleep", vec!["0.2".into()]),
        |vmm, (_, fd)| vmm.fd(3, fd),
    );
    let (control, _vmm_control) = ControlSocket::pair().unwrap();
    let start = Instant::now();
    assert_eq!(
        watch
            .until_end(vmm.spawn().unwrap(), Control::new(control))
            .unwrap(),
        0
    );
    assert!(start.elapsed() < PATIENCE);
}

/// A server that serves until its sockets are closed, and then runs this.
fn serving(end: &str) -> String {
    format!("echo '{{\"ready\":true}}' >&3; exec 3>&-; cat <&4 >/dev/null; {end}")
}

/// A VM with one running server; its VMM asks what the script says, over a thread. Gives what that thread gave.
pub(super) fn with_vmm<T: Send + 'static>(
    watch: Watch,
    vmm_is: impl FnOnce(ControlSocket) -> T + Send + 'static,
) -> (u8, T) {
    let (control, vmm_control) = ControlSocket::pair().unwrap();
    let vmm = Child::new("/bin/sleep", vec!["60".into()]).spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(vmm.pid()).unwrap();
    let asks = std::thread::spawn(move || {
        let result = vmm_is(ControlSocket::from(vmm_control));
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        result
    });
    let status = watch.until_end(vmm, Control::new(control)).unwrap();
    (status, asks.join().unwrap())
}

pub(super) fn release(control: &ControlSocket, number: u32, id: &str) {
    let id = id.to_owned();
    let request = Request::Release { number, id };
    control.send(&request.encode(), None).unwrap();
}

fn held_reason(reply: Reply, expected: u32) -> String {
    let Reply::Held { number, reason } = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(number, expected);
    reason
}

#[test]
fn released_device_is_the_hosts_when_its_server_has_ended_and_its_id_is_free() {
    let mut watch = watch(Policy::default());
    add_server(&mut watch, 1, &serving("exit 0"));
    let devices = watch.until_ready().unwrap();
    let (_, replies) = with_vmm(watch, move |control| {
        release(&control, 7, "dev1");
        drop(devices);
        let first = receive(&control).0;
        release(&control, 8, "dev1");
        (first, receive(&control).0)
    });
    assert_eq!(
        replies,
        (Reply::Released { number: 7 }, Reply::Released { number: 8 })
    );
}

#[test]
fn server_that_fails_to_take_its_device_back_is_held_until_that_is_accepted() {
    let mut watch = watch(Policy::default());
    add_server(&mut watch, 1, &serving("exit 1"));
    let devices = watch.until_ready().unwrap();
    let (_, (first, second)) = with_vmm(watch, move |control| {
        release(&control, 7, "dev1");
        drop(devices);
        let first = receive(&control).0;
        release(&control, 8, "dev1");
        (first, receive(&control).0)
    });
    let reason = held_reason(first, 7);
    assert!(
        reason.contains("host device ffff:ff:1f.1") && reason.contains("exit status 1"),
        "{reason}"
    );
    assert_eq!(second, Reply::Released { number: 8 });
}

#[test]
fn device_of_a_shared_group_is_held_until_the_other_one_is_released() {
    let mut watch = watch(Policy::default());
    add_server_of(&mut watch, 1, &["dev1", "dev2"], &serving("exit 0"));
    let devices = watch.until_ready().unwrap();
    let (_, replies) = with_vmm(watch, move |control| {
        release(&control, 7, "dev1");
        let held = receive(&control).0;
        release(&control, 8, "dev2");
        drop(devices);
        (held, receive(&control).0, receive(&control).0)
    });
    let reason = held_reason(replies.0, 7);
    assert!(reason.contains("device dev2 of it is in use"), "{reason}");
    assert_eq!(
        (replies.1, replies.2),
        (Reply::Released { number: 7 }, Reply::Released { number: 8 })
    );
}

#[test]
fn killed_server_is_no_end_of_its_device_before_the_vmm_lets_go() {
    let mut watch = watch(Policy::default());
    add_server(&mut watch, 1, &serving("kill -9 $$"));
    let devices = watch.until_ready().unwrap();
    let (status, reply) = with_vmm(watch, move |control| {
        drop(devices);
        release(&control, 7, "dev1");
        receive(&control).0
    });
    assert_eq!(reply, Reply::Released { number: 7 });
    assert_eq!(status, 137, "the VMM was killed by this test");
}

#[test]
fn end_of_the_vm_with_a_device_that_was_not_taken_back_is_a_failure() {
    let mut watch = watch(Policy::default());
    add_server(&mut watch, 1, &serving("exit 1"));
    let devices = watch.until_ready().unwrap();
    let vmm = devices.into_iter().fold(
        Child::new("/bin/sleep", vec!["0.2".into()]),
        |vmm, (_, fd)| vmm.fd(3, fd),
    );
    let (control, _vmm_control) = ControlSocket::pair().unwrap();
    let status = watch.until_end(vmm.spawn().unwrap(), Control::new(control));
    assert_eq!(status.unwrap(), 1);
}

/// No machine has it, so no server can be started for it.
fn managed_device() -> HostDevice {
    HostDevice {
        id: "disk".to_owned(),
        host: "ffff:ff:1f.0".parse().unwrap(),
        options: HostOptions {
            managed: true,
            ..HostOptions::default()
        },
    }
}

/// What is answered once the device has been moved; the command that moves it is /bin/true.
fn moved(watch: &mut Watch, has_vmm: bool) -> Vec<Reply> {
    let end = Instant::now() + PATIENCE;
    loop {
        let ended = watch.attachments.managed.ended(Instant::now());
        if let Some(one) = ended.into_iter().next() {
            let answers = watch.attachments.moved(&mut watch.servers, one, has_vmm);
            return answers.into_iter().map(|(reply, _)| reply).collect();
        }
        assert!(Instant::now() < end);
        let fds: Vec<_> = watch.attachments.managed.pidfds().collect();
        let mut fds: Vec<_> = fds
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        rustix::event::poll(&mut fds, Timespec::try_from(PATIENCE).ok().as_ref()).unwrap();
    }
}

#[test]
fn device_that_was_taken_and_cannot_be_served_is_refused_when_it_is_back() {
    let mut watch = watch(Policy::default());
    watch.attachments.managed.take(managed_device(), 7).unwrap();
    assert_eq!(moved(&mut watch, true), [], "it is on its way back");
    let answers = moved(&mut watch, true);
    assert!(
        matches!(&answers[..], [Reply::Refused { number: 7, .. }]),
        "{answers:?}"
    );
    assert!(watch.attachments.managed.is_settled());
}

#[test]
fn device_that_was_taken_when_the_vmm_has_ended_is_given_back_and_not_served() {
    let mut watch = watch(Policy::default());
    watch.attachments.managed.take(managed_device(), 7).unwrap();
    assert_eq!(moved(&mut watch, false), []);
    assert!(!watch.attachments.managed.is_settled(), "it is given back");
    assert_eq!(moved(&mut watch, false), [], "nobody is refused");
    assert!(watch.servers.pids().is_empty());
}
