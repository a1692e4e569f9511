//! The client while a reset, or a write that is one, is not answered. Names begin with the rows of conformance.md (B4).

#![cfg(test)]

mod peers;

use peers::script::{DEADLINE, client_of, expect_alive, read};
use peers::{RawPeer, Received};
use protocol::{Client, ClientError, CommandCode, Errno, IrqIndex, LostCause, RegionIndex, limits};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

const BUSY: ClientError = ClientError::Busy {
    command: CommandCode::REGION_READ,
};

/// A client whose script waits for the word before it answers the first request, which `start` sends.
fn held(
    start: impl FnOnce(&Client) -> Result<(), ClientError>,
    answer: impl FnOnce(&RawPeer, &Received) + Send + 'static,
) -> (Client, Sender<()>, Receiver<()>, JoinHandle<()>) {
    let (go, word) = channel::<()>();
    let (said, answered) = channel::<()>();
    let (client, thread) = client_of(move |peer| {
        let request = peer.recv();
        if word.recv().is_ok() {
            answer(peer, &request);
            said.send(()).unwrap();
        }
        peer.serve_reads();
    });
    start(&client).unwrap();
    (client, go, answered, thread)
}

fn done(peer: &RawPeer, request: &Received) {
    peer.answer(request, &[]);
}

#[test]
fn b12_reset_is_started_without_waiting_and_all_else_is_busy_until_its_answer_came() {
    let (client, go, answered, thread) = held(Client::start_reset, done);
    let start = Instant::now();
    assert_eq!(read(&client), Err(BUSY));
    let write = client.region_write(RegionIndex::BAR0, 0, &[0]);
    assert!(matches!(write, Err(ClientError::Busy { .. })));
    let query = client.irq_info(IrqIndex::MSI);
    assert!(matches!(query, Err(ClientError::Busy { .. })));
    let disable = client.disable_irqs(IrqIndex::MSI);
    assert!(matches!(disable, Err(ClientError::Busy { .. })));
    let second = client.start_reset();
    assert!(matches!(second, Err(ClientError::Busy { .. })));
    assert!(client.is_busy());
    assert_eq!(client.take_reset_outcome(), None);
    assert!(start.elapsed() < DEADLINE, "nothing waits");
    go.send(()).unwrap();
    answered.recv().unwrap();
    // The first access behind the answer takes it and is served.
    expect_alive(&client);
    assert!(!client.is_busy());
    assert_eq!(client.take_reset_outcome(), Some(Ok(())));
    assert_eq!(client.take_reset_outcome(), None, "said once");
    drop(client);
    thread.join().unwrap();
}

#[test]
fn answer_to_a_reset_is_taken_by_the_event_loop() {
    let (client, go, answered, thread) = held(Client::start_reset, done);
    client.service().unwrap();
    assert!(client.is_busy());
    go.send(()).unwrap();
    answered.recv().unwrap();
    client.service().unwrap();
    assert_eq!(client.take_reset_outcome(), Some(Ok(())));
    drop(client);
    thread.join().unwrap();
}

#[test]
fn thread_that_waits_for_a_reset_hears_how_it_ended() {
    let (client, go, _answered, thread) =
        held(Client::start_reset, |peer, request| peer.refuse(request, 5));
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.finish_reset());
        assert_eq!(read(&client), Err(BUSY));
        go.send(()).unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(
        waiting,
        Err(ClientError::Refused {
            command: CommandCode::DEVICE_RESET,
            errno: Errno::IO
        })
    );
    assert_eq!(client.finish_reset(), Ok(()), "none is in flight any more");
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
}

#[test]
fn slow_write_whose_answer_makes_no_sense_says_so() {
    let flr = |client: &Client| client.start_region_write(RegionIndex::CONFIG, 0x70, &[0, 0x80]);
    let (client, go, answered, thread) = held(flr, |peer, request| {
        let mut body = request.body[..16].to_vec();
        body[0] ^= 1;
        peer.answer(request, &body);
    });
    go.send(()).unwrap();
    answered.recv().unwrap();
    assert!(!client.is_busy());
    let outcome = client.take_reset_outcome();
    assert!(
        matches!(outcome, Some(Err(ClientError::BadAnswer { .. }))),
        "{outcome:?}"
    );
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
}

#[test]
fn reset_that_is_never_answered_loses_the_device_at_its_own_deadline() {
    let looks: [fn(&Client) -> bool; 3] = [
        |client| client.service().is_err(),
        |client| matches!(read(client), Err(ClientError::Lost(_))),
        |client| client.finish_reset().is_err(),
    ];
    for (who, is_lost) in looks.into_iter().enumerate() {
        let start = Instant::now();
        let (client, go, _answered, thread) = held(Client::start_reset, done);
        if who == 0 {
            client.rely_on_service().unwrap();
        }
        while !is_lost(&client) {
            assert!(start.elapsed() < 8 * DEADLINE, "{who} never sees it");
            std::thread::yield_now();
        }
        let late = LostCause::Deadline {
            command: CommandCode::DEVICE_RESET,
        };
        assert_eq!(client.lost(), Some(late));
        assert!(start.elapsed() >= 4 * DEADLINE);
        assert!(start.elapsed() < 4 * DEADLINE + 2 * limits::WATCH_PERIOD);
        drop(client);
        drop(go);
        thread.join().unwrap();
    }
}
