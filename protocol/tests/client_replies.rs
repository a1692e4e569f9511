//! The client against hostile answers. Names begin with the rows of conformance.md (B1) that they cover.

#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of this file"
)]

mod peers;

use peers::script::{DEADLINE, client_of, config, connect, expect_alive, read};
use peers::{COMMAND, ERROR, Probe, REPLY, RawPeer, Received, message, sized};
use protocol::transport::RecvError;
use protocol::{Client, ClientError, CommandCode, Errno, LostCause, RegionIndex};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn lost(error: ClientError) -> LostCause {
    if let ClientError::Lost(cause) = error {
        return cause;
    }
    panic!("the device should be lost: {error}");
}

/// A client whose first read is answered by `script`: the device must be lost, at once and for good.
fn loses(script: impl FnOnce(&RawPeer, Received) + Send + 'static) -> LostCause {
    let (client, thread) = client_of(|peer| {
        let request = peer.recv();
        script(peer, request);
        // Closed by the client, not by us.
        while peer.try_recv().is_some() {}
    });
    let start = Instant::now();
    let cause = lost(read(&client).unwrap_err());
    assert!(start.elapsed() < 3 * DEADLINE);
    let start = Instant::now();
    assert_eq!(lost(client.reset().unwrap_err()), cause);
    assert!(start.elapsed() < DEADLINE);
    assert_eq!(client.lost(), Some(cause));
    thread.join().unwrap();
    cause
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
fn s01_path_that_is_no_socket_is_a_clean_error() {
    let probe = Probe::new();
    let error = Client::connect(probe.writer.unwrap(), config()).unwrap_err();
    assert!(matches!(error, ClientError::Socket(_)), "{error}");
}

#[test]
fn s02_server_that_never_answers_version_costs_the_deadline() {
    let start = Instant::now();
    let (client, thread) = connect(config(), |peer| {
        peer.recv();
        assert!(peer.try_recv().is_none(), "the client closes");
    });
    assert_eq!(
        lost(client.unwrap_err()),
        LostCause::Deadline {
            command: CommandCode::VERSION
        }
    );
    assert!(start.elapsed() >= DEADLINE && start.elapsed() < 3 * DEADLINE);
    thread.join().unwrap();
}

#[test]
fn s03_end_of_the_stream_fails_every_waiter() {
    let reply_bytes = 36;
    for cut in 0..reply_bytes {
        let (client, thread) = client_of(move |peer| {
            let request = peer.recv();
            let reply = message(request.id, 9, REPLY, &read_reply(&request, &[1; 4]));
            peer.send(&reply[..cut]);
            peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        });
        let cause = lost(read(&client).unwrap_err());
        let expected = match cut {
            0 => LostCause::Closed,
            received => LostCause::Receive(RecvError::Truncated { received }),
        };
        assert_eq!(cause, expected);
        thread.join().unwrap();
    }
}

#[test]
fn s04_s05_s14_header_outside_the_limits_loses_the_device() {
    for size in [0, 15, (1 << 20) + 33, u32::MAX] {
        let cause = loses(move |peer, request| {
            peer.send(&sized(request.id, 9, size, REPLY, 0, &[]));
        });
        assert!(matches!(cause, LostCause::Receive(RecvError::Header(_))));
    }
    for kind in 2..16 {
        let cause = loses(move |peer, request| peer.send(&message(request.id, 9, kind, &[])));
        assert!(matches!(cause, LostCause::Receive(RecvError::Header(_))));
    }
}

#[test]
fn s06_b01_answer_longer_than_asked_is_an_error_in_step() {
    for surplus in [1, 100, 100_000] {
        let error = survives(move |peer, request| {
            let mut body = request.body.clone();
            body[12..16].copy_from_slice(&(4 + surplus as u32).to_ne_bytes());
            body.resize(16 + 4 + surplus, 0xee);
            peer.answer(&request, &body);
        });
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
    }
}

#[test]
fn s07_b04_short_success_is_an_error_in_step() {
    for bytes in [0, 1, 15, 16, 19] {
        let error = survives(move |peer, request| {
            let mut body = read_reply(&request, &[7; 4]);
            body.truncate(bytes);
            peer.answer(&request, &body);
        });
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
    }
}

#[test]
fn s08_b07_error_reply_is_the_errno() {
    let error = survives(|peer, request| peer.refuse(&request, 95));
    assert_eq!(
        error,
        ClientError::Refused {
            command: CommandCode::REGION_READ,
            errno: Errno::OPNOTSUPP
        }
    );
    assert!(error.to_string().contains("REGION_READ"));
}

#[test]
fn s09_error_reply_with_payload_is_drained() {
    for payload in [1, 16, 20, 70_000] {
        let error = survives(move |peer, request| {
            let body = vec![0xee; payload];
            let size = 16 + payload as u32;
            peer.send(&sized(request.id, 9, size, REPLY | ERROR, 22, &body));
        });
        assert!(matches!(error, ClientError::Refused { errno, .. } if errno == Errno::INVAL));
    }
}

#[test]
fn s10_error_that_is_no_errno_is_eio() {
    for code in [0, u32::MAX, 4097, 4096, 1 << 31] {
        let error = survives(move |peer, request| peer.refuse(&request, code));
        assert!(matches!(error, ClientError::Refused { errno, .. } if errno == Errno::IO));
    }
}

#[test]
fn s11_s12_s15_s16_answer_to_nothing_loses_the_device() {
    let wrong_id = loses(|peer, request| {
        peer.send(&message(request.id.wrapping_add(1), 9, REPLY, &[0; 20]));
    });
    let wrong_command = loses(|peer, request| {
        peer.send(&message(request.id, 10, REPLY, &[0; 16]));
    });
    for cause in [wrong_id, wrong_command] {
        assert!(matches!(cause, LostCause::Protocol { .. }), "{cause}");
    }
    let (client, _thread) = client_of(|peer| {
        let request = peer.recv();
        let reply = message(request.id, 9, REPLY, &read_reply(&request, &[1; 4]));
        peer.send(&[reply.clone(), reply].concat());
        while peer.try_recv().is_some() {}
    });
    assert_eq!(read(&client), Ok([1; 4]));
    assert!(matches!(
        lost(read(&client).unwrap_err()),
        LostCause::Protocol { .. }
    ));
}

#[test]
fn s15_unsolicited_answer_is_seen_by_service() {
    let (client, thread) = client_of(|peer| {
        peer.send(&message(1, 9, REPLY, &[0; 20]));
        assert!(peer.try_recv().is_none());
    });
    let end = Instant::now() + DEADLINE;
    while client.service().is_ok() {
        assert!(Instant::now() < end, "service never saw it");
        std::thread::yield_now();
    }
    assert!(matches!(client.lost(), Some(LostCause::Protocol { .. })));
    thread.join().unwrap();
}

#[test]
fn s13_t16_request_where_an_answer_is_due_is_not_the_answer() {
    let (client, thread) = client_of(|peer| {
        let request = peer.recv();
        peer.send(&message(
            request.id,
            9,
            COMMAND,
            &read_reply(&request, &[9; 4]),
        ));
        assert_eq!(peer.recv().errno(), 22);
        peer.answer(&request, &read_reply(&request, &[1; 4]));
    });
    assert_eq!(read(&client), Ok([1; 4]));
    thread.join().unwrap();
}

#[test]
fn s17_answer_to_a_posted_write_loses_the_device() {
    let (client, thread) = client_of(|peer| {
        let posted = peer.recv();
        assert_eq!(posted.flags, peers::NO_REPLY);
        peer.answer(&posted, &posted.body[..16]);
        while peer.try_recv().is_some() {}
    });
    client
        .region_write_posted(RegionIndex::BAR0, 0, &[1; 4])
        .unwrap();
    assert!(matches!(
        lost(read(&client).unwrap_err()),
        LostCause::Protocol { .. }
    ));
    thread.join().unwrap();
}

#[test]
fn s18_s20_silence_and_trickle_cost_the_deadline_once() {
    let silent = loses(|_peer, _request| {});
    let trickle = loses(|peer, request| {
        let reply = message(request.id, 9, REPLY, &read_reply(&request, &[1; 4]));
        for byte in reply {
            if std::io::Write::write_all(&mut &peer.stream, &[byte]).is_err() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(40));
        }
    });
    for cause in [silent, trickle] {
        assert_eq!(
            cause,
            LostCause::Deadline {
                command: CommandCode::REGION_READ
            }
        );
    }
}

#[test]
fn s19_answers_out_of_order_are_matched_by_id() {
    let (client, thread) = client_of(|peer| {
        let first = peer.recv();
        let second = peer.recv();
        for request in [second, first] {
            let region = request.body[8];
            peer.answer(&request, &read_reply(&request, &[region; 4]));
        }
    });
    let client = Arc::new(client);
    let threads: Vec<_> = (1..3u8)
        .map(|region| {
            let client = client.clone();
            std::thread::spawn(move || {
                let mut data = [0; 4];
                client
                    .region_read(RegionIndex(region.into()), 0, &mut data)
                    .unwrap();
                assert_eq!(data, [region; 4]);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    thread.join().unwrap();
}

#[test]
fn s21_answer_split_at_every_byte_is_whole() {
    for cut in 1..36 {
        let (client, thread) = client_of(move |peer| {
            let request = peer.recv();
            let reply = message(request.id, 9, REPLY, &read_reply(&request, &[1; 4]));
            peer.send(&reply[..cut]);
            std::thread::yield_now();
            peer.send(&reply[cut..]);
        });
        assert_eq!(read(&client), Ok([1; 4]));
        thread.join().unwrap();
    }
}

#[test]
fn s22_descriptors_that_nobody_asked_for_are_closed() {
    let probe = Arc::new(Probe::new());
    let sent = probe.clone();
    let (client, thread) = client_of(move |peer| {
        let request = peer.recv();
        let reply = message(request.id, 9, REPLY, &read_reply(&request, &[1; 4]));
        peer.send_with_fds(&reply, &[sent.fd(); 3]);
        peer.serve_reads();
    });
    assert_eq!(read(&client), Ok([1; 4]));
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
    Arc::into_inner(probe).unwrap().expect_closed();
}

#[test]
fn s23_more_descriptors_than_announced_lose_the_device_and_are_closed() {
    let probe = Arc::new(Probe::new());
    let sent = probe.clone();
    let (client, thread) = client_of(move |peer| {
        let request = peer.recv();
        assert_eq!(request.command, 5);
        let reply = message(request.id, 5, REPLY, &[0; 32]);
        peer.send_with_fds(&reply, &[sent.fd(); 17]);
        while peer.try_recv().is_some() {}
    });
    let cause = lost(client.region_info(RegionIndex::BAR0).unwrap_err());
    assert!(matches!(cause, LostCause::Protocol { .. }), "{cause}");
    thread.join().unwrap();
    Arc::into_inner(probe).unwrap().expect_closed();
}

/// What a server that sends `count` descriptors with the answer to a read makes of it.
fn read_with_descriptors(count: usize) -> Result<[u8; 4], ClientError> {
    let probe = Arc::new(Probe::new());
    let sent = probe.clone();
    let (client, thread) = client_of(move |peer| {
        let request = peer.recv();
        let reply = message(request.id, 9, REPLY, &read_reply(&request, &[1; 4]));
        peer.send_with_fds(&reply, &vec![sent.fd(); count]);
        while peer.try_recv().is_some() {}
    });
    let found = read(&client);
    drop(client);
    thread.join().unwrap();
    Arc::into_inner(probe).unwrap().expect_closed();
    found
}

#[test]
fn s22_s23_descriptors_with_an_access_are_closed_and_too_many_lose_the_device() {
    for count in [1, 16] {
        assert_eq!(read_with_descriptors(count), Ok([1; 4]));
    }
    for count in [17, 253] {
        let cause = lost(read_with_descriptors(count).unwrap_err());
        assert!(matches!(cause, LostCause::Protocol { .. }), "{cause}");
    }
}

#[test]
fn s25_server_that_stops_reading_costs_the_deadline() {
    let (client, thread) = client_of(|peer| {
        std::thread::park_timeout(3 * DEADLINE);
        drop(peer.stream.try_clone());
    });
    let start = Instant::now();
    let error = loop {
        if let Err(error) = client.region_write_posted(RegionIndex::BAR0, 0, &[0; 4096]) {
            break error;
        }
    };
    assert!(matches!(lost(error), LostCause::Deadline { .. }));
    assert!(start.elapsed() < 3 * DEADLINE);
    thread.thread().unpark();
    thread.join().unwrap();
}
