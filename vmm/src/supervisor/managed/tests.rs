use protocol::supervisor::HostOptions;

use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Devices whose host commands are this program.
fn managed(program: &str) -> Managed {
    Managed::new(Ok(program.into()))
}

fn device() -> HostDevice {
    HostDevice {
        id: "disk".to_owned(),
        host: "0000:00:04.0".parse().unwrap(),
        options: HostOptions::default(),
    }
}

fn next(managed: &mut Managed) -> Moved {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(moved) = managed.ended(Instant::now()).pop() {
            return moved;
        }
        assert!(Instant::now() < end, "{managed:?}");
        let mut fds: Vec<_> = managed
            .pidfds()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        rustix::event::poll(&mut fds, Timespec::try_from(PATIENCE).ok().as_ref()).unwrap();
    }
}

#[test]
fn device_that_was_taken_is_given_back_once() {
    let mut managed = managed("/bin/true");
    let host = device().host;
    managed.take(device(), 7).unwrap();
    assert!(managed.has_id("disk") && !managed.is_settled());
    let (purpose, outcome) = next(&mut managed);
    assert!(matches!(purpose, Purpose::Serve(device, 7) if device.id == "disk"));
    assert_eq!(outcome, Ok(()));
    assert!(managed.give_back(&[host], &[8]).unwrap());
    let (purpose, outcome) = next(&mut managed);
    assert!(
        matches!(purpose, Purpose::Release(hosts, requests) if hosts == [host] && requests == [8])
    );
    assert_eq!(outcome, Ok(()));
    assert!(!managed.give_back(&[host], &[9]).unwrap());
    assert!(managed.is_settled());
}

#[test]
fn device_that_was_not_taken_is_not_given_back() {
    let mut managed = managed("/bin/false");
    let host = device().host;
    managed.take(device(), 7).unwrap();
    let (_, outcome) = next(&mut managed);
    assert_eq!(outcome, Err("it ended with exit status 1".to_owned()));
    assert!(!managed.give_back(&[host], &[8]).unwrap());
    managed.take_now(host).unwrap_err();
    assert!(!managed.give_back(&[host], &[8]).unwrap());
}

#[test]
fn device_on_its_way_is_known_by_its_address() {
    let mut managed = managed("/bin/true");
    let host = device().host;
    managed.take(device(), 7).unwrap();
    assert!(managed.is_moving(host));
    next(&mut managed).1.unwrap();
    assert!(!managed.is_moving(host));
    assert!(managed.give_back(&[host], &[]).unwrap());
    assert!(managed.is_moving(host));
    next(&mut managed).1.unwrap();
    assert!(!managed.is_moving(host));
}

#[test]
fn device_that_does_not_go_back_stays_noted() {
    let mut managed = managed("/bin/true");
    let host = device().host;
    managed.take_now(host).unwrap();
    managed.program = Ok("/bin/false".into());
    assert!(managed.give_back(&[host], &[8]).unwrap());
    next(&mut managed).1.unwrap_err();
    assert!(managed.taken.contains(&host));
    managed.program = Ok("/nonexistent".into());
    managed.give_back(&[host], &[8]).unwrap_err();
    assert!(managed.taken.contains(&host));
    managed.program = Ok("/bin/true".into());
}

#[test]
fn device_that_is_held_goes_back_only_after_a_clean_end() {
    let scratch = std::env::temp_dir().join(format!("bulkhead-held-{}", std::process::id()));
    std::fs::write(&scratch, "#!/bin/sh\necho $2 >>$0.log\n").unwrap();
    std::fs::set_permissions(
        &scratch,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let mut managed = managed(scratch.to_str().unwrap());
    let log = scratch.with_extension("log");
    let host = device().host;
    managed.take_now(host).unwrap();
    managed.hold(&[host]);
    drop(managed);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "bind\n");
    std::fs::remove_file(&scratch).unwrap();
    std::fs::remove_file(&log).unwrap();
}

#[test]
fn command_that_fails_is_told_in_its_own_words() {
    // The shell finds no script of this name.
    let reason = managed("/bin/sh").take_now(device().host).unwrap_err();
    assert!(reason.contains("host"), "{reason}");
}

#[test]
fn device_that_is_left_goes_back_with_its_vm() {
    let mut managed = managed("/bin/true");
    managed.take_now(device().host).unwrap();
    assert!(managed.taken.contains(&device().host));
    drop(managed);
}

#[test]
fn request_for_a_device_that_was_taken_is_refused_when_it_is_back() {
    let mut managed = managed("/bin/true");
    let host = device().host;
    let refusal = (7, "no".to_owned());
    let at_once = managed.refuse_later(&[host], refusal.clone());
    assert_eq!(at_once, Err(refusal.clone()), "nobody took it");
    managed.take(device(), 7).unwrap();
    next(&mut managed).1.unwrap();
    assert_eq!(managed.refuse_later(&[host], refusal.clone()), Ok(()));
    assert!(managed.give_back(&[host], &[]).unwrap());
    next(&mut managed).1.unwrap();
    assert_eq!(managed.refusals(&[host]), [refusal]);
    assert_eq!(managed.refusals(&[host]), []);
}

#[test]
fn driver_that_is_not_loaded_is_named() {
    let reason = check_driver(Path::new("/nowhere")).unwrap_err();
    assert!(reason.contains("`modprobe vfio-pci`"), "{reason}");
}
