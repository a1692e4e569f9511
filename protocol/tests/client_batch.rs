//! The client that waits no more than it has to: it asks several questions at once, of servers that answer them in every way, and no
//! question whose answer it has.

#![cfg(test)]

mod peers;

use peers::device::memfd;
use peers::script::{client_of, expect_alive};
use peers::{ERROR, REPLY, RawPeer, Received, message, sized};
use protocol::{ClientError, Errno, IrqIndex, IrqInfo, LostCause, RegionIndex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;

const IRQS: [IrqIndex; 3] = [IrqIndex::INTX, IrqIndex::MSI, IrqIndex::MSIX];
const BARS: [RegionIndex; 3] = [RegionIndex(0), RegionIndex(1), RegionIndex(2)];

/// How long a question that should not come may take to come.
const SOON: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

type Irqs = Result<Vec<IrqInfo>, (IrqIndex, ClientError)>;

/// All three questions, which come before any is answered.
fn questions(peer: &RawPeer) -> [Received; 3] {
    [peer.recv(), peer.recv(), peer.recv()]
}

/// The index that a question about interrupts names is its third number; what it has is 10 more.
fn irq_answer(question: &Received) -> Vec<u8> {
    let index = u32::from_ne_bytes(question.body[8..12].try_into().unwrap());
    message(
        question.id,
        question.command,
        REPLY,
        &bytes![16u32, 1u32, index, index % 2],
    )
}

/// Asks for three kinds of interrupts.
fn irqs(answer: impl FnOnce(&RawPeer, [Received; 3]) + Send + 'static) -> Irqs {
    let (client, thread) = client_of(|peer| {
        let asked = questions(peer);
        answer(peer, asked);
        peer.serve_reads();
    });
    let found = client.irq_infos(&IRQS);
    if !matches!(found, Err((_, ClientError::Lost(_)))) {
        expect_alive(&client);
    }
    drop(client);
    thread.join().unwrap();
    found
}

fn counts(found: Irqs) -> Vec<(u32, u32)> {
    let found = found.unwrap().into_iter();
    found.map(|info| (info.index.0, info.count)).collect()
}

#[test]
fn questions_are_all_sent_before_the_first_answer() {
    let found = irqs(|peer, asked| {
        asked
            .iter()
            .for_each(|question| peer.send(&irq_answer(question)));
    });
    assert_eq!(counts(found), [(0, 0), (1, 1), (2, 0)]);
}

#[test]
fn answers_in_another_order_are_those_of_their_questions() {
    let found = irqs(|peer, asked| {
        asked
            .iter()
            .rev()
            .for_each(|question| peer.send(&irq_answer(question)));
    });
    assert_eq!(counts(found), [(0, 0), (1, 1), (2, 0)]);
}

#[test]
fn refused_question_is_named_and_the_others_are_read() {
    let found = irqs(|peer, [first, second, third]| {
        peer.send(&irq_answer(&first));
        let refusal = sized(second.id, second.command, 16, REPLY | ERROR, 22, &[]);
        peer.send(&refusal);
        peer.send(&irq_answer(&third));
    });
    let (index, error) = found.unwrap_err();
    assert_eq!(index, IrqIndex::MSI);
    assert!(matches!(error, ClientError::Refused { errno, .. } if errno == Errno::INVAL));
}

#[test]
fn answer_that_makes_no_sense_is_named_and_the_others_are_read() {
    let found = irqs(|peer, [first, second, third]| {
        peer.send(&irq_answer(&first));
        peer.send(&irq_answer(&second));
        peer.send(&message(third.id, third.command, REPLY, &[1, 2, 3]));
    });
    let (index, error) = found.unwrap_err();
    assert_eq!(index, IrqIndex::MSIX);
    assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
}

#[test]
fn answer_that_does_not_come_loses_the_device() {
    let found = irqs(|peer, [first, _, third]| {
        peer.send(&irq_answer(&first));
        peer.send(&irq_answer(&third));
        while peer.try_recv().is_some() {}
    });
    let (index, error) = found.unwrap_err();
    assert_eq!(index, IrqIndex::MSI);
    assert!(
        matches!(error, ClientError::Lost(LostCause::Deadline { .. })),
        "{error}"
    );
}

#[test]
fn answer_that_comes_twice_loses_the_device() {
    let (client, thread) = client_of(|peer| {
        let [first, second, _] = questions(peer);
        // In one piece: the client hangs up at the second.
        let answers = [&first, &first, &second].map(irq_answer);
        peer.send(&answers.concat());
        while peer.try_recv().is_some() {}
    });
    let (_, error) = client.irq_infos(&IRQS).unwrap_err();
    assert!(
        matches!(error, ClientError::Lost(LostCause::Protocol { .. })),
        "{error}"
    );
    drop(client);
    thread.join().unwrap();
}

#[test]
fn end_of_the_server_loses_the_device() {
    let (client, thread) = client_of(|peer| {
        let [first, ..] = questions(peer);
        peer.send(&irq_answer(&first));
    });
    let (_, error) = client.irq_infos(&IRQS).unwrap_err();
    assert!(matches!(error, ClientError::Lost(_)), "{error}");
    drop(client);
    thread.join().unwrap();
}

/// A BAR of 16 KiB that can be read and written, and mapped if it has a descriptor.
fn region_answer(question: &Received, flags: u32) -> Vec<u8> {
    let index = u32::from_ne_bytes(question.body[8..12].try_into().unwrap());
    let body = bytes![32u32, flags, index, 0u32, 0x4000u64, 0u64];
    message(question.id, question.command, REPLY, &body)
}

#[test]
fn descriptors_stay_with_their_regions_in_any_order() {
    for backwards in [false, true] {
        let (client, thread) = client_of(move |peer| {
            let mut asked = questions(peer);
            if backwards {
                asked.reverse();
            }
            for question in asked {
                let index = question.body[8];
                let file = memfd(0x1000 * (u64::from(index) + 1));
                // Read, write, map.
                let (flags, fds) = if index == 1 {
                    (3, vec![])
                } else {
                    (7, vec![file.as_fd()])
                };
                peer.send_with_fds(&region_answer(&question, flags), &fds);
            }
            peer.serve_reads();
        });
        let regions = client.region_infos(&BARS).unwrap();
        let sizes: Vec<Option<u64>> = regions
            .iter()
            .map(|region| {
                let file = region.fd.as_ref()?;
                Some(rustix::fs::fstat(file).unwrap().st_size.cast_unsigned())
            })
            .collect();
        assert_eq!(sizes, [Some(0x1000), None, Some(0x3000)]);
        expect_alive(&client);
        drop(client);
        thread.join().unwrap();
    }
}

#[test]
fn more_questions_than_may_be_in_flight_are_asked_in_turns() {
    let most = protocol::limits::MAX_QUESTIONS;
    let (client, thread) = client_of(move |peer| {
        for batch in [most, 2] {
            let asked: Vec<Received> = (0..batch).map(|_| peer.recv()).collect();
            // The next is not sent before the first of these is answered.
            let mut nothing = [PollFd::new(&peer.stream, PollFlags::IN)];
            assert_eq!(poll(&mut nothing, Some(&SOON)), Ok(0));
            asked
                .iter()
                .for_each(|question| peer.send(&irq_answer(question)));
        }
        peer.serve_reads();
    });
    let all = vec![IrqIndex::MSI; most + 2];
    assert_eq!(client.irq_infos(&all).unwrap().len(), most + 2);
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
}

#[test]
fn region_without_io_fds_is_asked_about_once() {
    let (client, thread) = client_of(|peer| {
        let asked = peer.recv();
        let none = bytes![16u32, 0u32, 0u32, 0u32];
        peer.send(&message(asked.id, asked.command, REPLY, &none));
        peer.serve_reads();
    });
    let found = client.region_io_fds(RegionIndex::BAR0, 0x1000).unwrap();
    assert!(found.entries.is_empty() && found.fds.is_empty());
    expect_alive(&client);
    drop(client);
    thread.join().unwrap();
}
