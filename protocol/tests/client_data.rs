//! The client against answers whose contents are wrong, and what its threads see of a lost device.
//! Names begin with the rows of conformance.md (B4) that they cover.

#![cfg(test)]

mod peers;

use peers::script::{DEADLINE, client_of, config, expect_alive, read};
use peers::{RawPeer, Received};
use protocol::{Client, ClientError, CommandCode, IrqAction, IrqIndex, LostCause, RegionIndex};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

fn lost(error: ClientError) -> LostCause {
    if let ClientError::Lost(cause) = error {
        return cause;
    }
    panic!("the device should be lost: {error}");
}

/// A client whose first read is answered by `script`: that read fails, the next one works.
fn survives(script: impl FnOnce(&RawPeer, Received) + Send + 'static) -> ClientError {
    let (client, thread) = client_of(|peer| {
        let request = peer.recv();
        script(peer, request);
        peer.serve_reads();
    });
    let error = read(&client).unwrap_err();
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
    error
}

fn read_reply(request: &Received, data: &[u8]) -> Vec<u8> {
    let mut body = request.body.clone();
    body.extend(data);
    body
}

#[test]
fn b02_short_read_is_an_error_and_leaves_the_buffer() {
    let (client, thread) = client_of(|peer| {
        let request = peer.recv();
        let mut body = request.body.clone();
        body[12] = 2;
        body.extend([1, 2]);
        peer.answer(&request, &body);
        peer.serve_reads();
    });
    let mut data = [0xaa; 4];
    let error = client.region_read(RegionIndex::BAR0, 0, &mut data);
    assert!(matches!(error, Err(ClientError::BadAnswer { .. })));
    assert_eq!(data, [0xaa; 4]);
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
}

#[test]
fn b03_b05_answer_about_something_else_is_an_error_in_step() {
    // Offset, region, count of the head.
    for at in [0, 8, 12] {
        let error = survives(move |peer, request| {
            let mut body = read_reply(&request, &[1; 4]);
            body[at] ^= 1;
            peer.answer(&request, &body);
        });
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
    }
}

#[test]
fn b06_write_answer_about_something_else_is_an_error_in_step() {
    for at in [0, 8, 12] {
        let (client, thread) = client_of(move |peer| {
            let request = peer.recv();
            let mut body = request.body[..16].to_vec();
            body[at] ^= 1;
            peer.answer(&request, &body);
            peer.serve_reads();
        });
        let error = client.region_write(RegionIndex::BAR0, 0, &[1; 4]);
        assert!(matches!(error, Err(ClientError::BadAnswer { .. })));
        expect_alive(&client);
        drop(client);
        thread.join().unwrap();
    }
}

#[test]
fn b11_set_irqs_that_fails_midway_disables_the_index() {
    let (client, thread) = client_of(|peer| {
        let first = peer.recv();
        assert_eq!((first.command, first.fds.len()), (8, 16));
        peer.answer(&first, &[]);
        let second = peer.recv();
        assert_eq!(second.fds.len(), 4);
        peer.refuse(&second, 22);
        let disable = peer.recv();
        assert_eq!(disable.body, bytes![20u32, 1u32 | 32, 2u32, 0u32, 0u32]);
        peer.answer(&disable, &[]);
    });
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let fds = [event.as_fd(); 20];
    let error = client.set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &fds);
    assert!(matches!(error, Err(ClientError::Refused { .. })));
    thread.join().unwrap();
}

#[test]
fn b12_accesses_during_a_reset_fail_at_once_and_the_reset_may_take_long() {
    let (client, thread) = client_of(|peer| {
        let reset = peer.recv();
        assert_eq!(reset.command, 13);
        // Longer than an access may take.
        std::thread::park_timeout(DEADLINE + DEADLINE / 2);
        peer.answer(&reset, &[]);
        peer.serve_reads();
    });
    let client = Arc::new(client);
    let resetting = client.clone();
    let reset = std::thread::spawn(move || resetting.reset());
    while client.counters().of(CommandCode::DEVICE_RESET) == 0 {
        std::thread::yield_now();
    }
    let start = Instant::now();
    let busy = ClientError::Busy {
        command: CommandCode::REGION_READ,
    };
    assert_eq!(read(&client), Err(busy));
    assert!(start.elapsed() < DEADLINE);
    reset.join().unwrap().unwrap();
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
}

#[test]
fn access_that_relies_on_the_event_loop_is_late_within_its_period() {
    let (client, thread) = client_of(|peer| {
        peer.recv();
        assert!(peer.try_recv().is_none());
    });
    client.rely_on_service().unwrap();
    client.rely_on_service().unwrap_err();
    let client = Arc::new(client);
    let reading = client.clone();
    let reader = std::thread::spawn(move || read(&reading));
    let start = Instant::now();
    let cause = loop {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            client.poll_fd(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        if let Err(error) = client.service() {
            break lost(error);
        }
    };
    assert!(start.elapsed() < DEADLINE + 2 * protocol::limits::WATCH_PERIOD);
    let late = LostCause::Deadline {
        command: CommandCode::REGION_READ,
    };
    assert_eq!(cause, late);
    assert_eq!(lost(reader.join().unwrap().unwrap_err()), late);
    thread.join().unwrap();
}

#[test]
fn query_keeps_its_own_deadline_without_an_event_loop() {
    let (client, thread) = client_of(|peer| {
        peer.recv();
        assert!(peer.try_recv().is_none());
    });
    client.rely_on_service().unwrap();
    let start = Instant::now();
    let error = client.device_info().unwrap_err();
    assert!(matches!(lost(error), LostCause::Deadline { .. }));
    assert!(start.elapsed() >= DEADLINE && start.elapsed() < 3 * DEADLINE);
    thread.join().unwrap();
}

#[test]
fn lost_device_fails_all_threads_that_wait() {
    let (client, thread) = client_of(|peer| {
        for _ in 0..4 {
            peer.recv();
        }
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let client = Arc::new(client);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || lost(read(&client).unwrap_err()))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), LostCause::Closed);
    }
    thread.join().unwrap();
}

#[test]
fn end_of_the_stream_makes_poll_fd_readable() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = RawPeer::over(theirs);
    let thread = std::thread::spawn(move || {
        peer.accept();
        peer
    });
    let client = Client::connect(ours.into(), config()).unwrap();
    let peer = thread.join().unwrap();
    let poll = |milliseconds: i64| {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            client.poll_fd(),
            rustix::event::PollFlags::IN,
        )];
        let wait = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: milliseconds * 1_000_000,
        };
        rustix::event::poll(&mut fds, Some(&wait)).unwrap()
    };
    assert_eq!(poll(0), 0);
    drop(peer);
    assert_eq!(poll(900), 1);
    assert_eq!(client.service(), Err(ClientError::Lost(LostCause::Closed)));
}
