//! Device servers that are scripts: how they start, fail and end.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use protocol::supervisor::{ControlSocket, HostOptions};
use sandbox::prepare::Child;

use super::super::hosts::HostGroup;
use super::super::ready::ReadyPipe;
use super::super::spawn::StartedServer;
use super::super::*;
use super::{PATIENCE, watch};

/// A device server that runs this script with its ready pipe as 3 and its socket as 4.
fn add_server(watch: &mut Watch, number: u32, script: &str) {
    let (ready, ready_writer) = ReadyPipe::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Child::new("/bin/sh", vec!["-c".into(), script.into()]);
    let process = child
        .fd(3, ready_writer)
        .fd(4, theirs.into())
        .spawn()
        .unwrap();
    let host = format!("0000:00:04.{number}").parse().unwrap();
    let device = HostDevice {
        id: format!("dev{number}"),
        host,
        options: HostOptions::default(),
    };
    let group = HostGroup {
        number,
        devices: vec![device],
    };
    watch.servers.add(
        group,
        StartedServer {
            process,
            ready,
            sockets: vec![ours.into()],
        },
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
