use std::os::fd::OwnedFd;

use protocol::IrqIndex;
use rustix::event::EventfdFlags;

use super::*;

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

fn request(start: u32, count: u32, action: IrqAction, data: IrqData) -> SetIrqs {
    SetIrqs {
        index: IrqIndex::MSIX,
        start,
        count,
        action,
        data,
    }
}

/// How often the eventfd was fired since the last call.
fn fired(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

fn bound(count: u32) -> (Vectors, Vec<OwnedFd>) {
    let fds: Vec<OwnedFd> = (0..count).map(|_| eventfd()).collect();
    let copies = fds
        .iter()
        .map(|fd| fd.try_clone().expect("dup").into())
        .collect();
    let mut vectors = Vectors::new(
        count,
        &Arc::new(Signaller::new().expect("asynchronous I/O")),
    );
    vectors
        .apply(request(
            0,
            count,
            IrqAction::Trigger,
            IrqData::Eventfd(copies),
        ))
        .expect("bind");
    (vectors, fds)
}

#[test]
fn raise_fires_exactly_that_vector() {
    let (mut vectors, fds) = bound(3);
    vectors.raise(1).expect("raise");
    assert_eq!(fds.iter().map(fired).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn q34_raise_past_the_end_is_refused() {
    let (mut vectors, _fds) = bound(2);
    assert_eq!(vectors.raise(2), Err(Errno::INVAL));
}

#[test]
fn q35_masked_interrupts_fire_once_at_the_unmask() {
    let (mut vectors, fds) = bound(1);
    vectors
        .apply(request(0, 1, IrqAction::Mask, IrqData::None))
        .expect("mask");
    vectors.raise(0).expect("raise");
    vectors.raise(0).expect("raise");
    assert_eq!(fired(&fds[0]), 0);
    vectors
        .apply(request(0, 1, IrqAction::Unmask, IrqData::None))
        .expect("unmask");
    assert_eq!(fired(&fds[0]), 1);
}

#[test]
fn q22_unbind_of_a_range_leaves_the_others() {
    let (mut vectors, fds) = bound(3);
    vectors
        .apply(request(
            1,
            2,
            IrqAction::Trigger,
            IrqData::Eventfd(Vec::new()),
        ))
        .expect("unbind");
    vectors
        .apply(request(0, 3, IrqAction::Trigger, IrqData::None))
        .expect("trigger");
    assert_eq!(fds.iter().map(fired).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn q31_trigger_with_bools_fires_the_chosen() {
    let (mut vectors, fds) = bound(2);
    let chosen = IrqData::Bool(vec![false, true]);
    vectors
        .apply(request(0, 2, IrqAction::Trigger, chosen))
        .expect("trigger");
    assert_eq!(fds.iter().map(fired).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn bind_with_one_wrong_descriptor_keeps_the_old_bindings() {
    let (mut vectors, fds) = bound(2);
    let (pipe, _write) = rustix::pipe::pipe().expect("pipe");
    let wrong = IrqData::Eventfd(vec![eventfd().into(), pipe.into()]);
    assert_eq!(
        vectors.apply(request(0, 2, IrqAction::Trigger, wrong)),
        Err(Errno::INVAL)
    );
    vectors.raise(0).expect("raise");
    assert_eq!(fired(&fds[0]), 1);
}

#[test]
fn disable_forgets_masks_and_eventfds() {
    let (mut vectors, fds) = bound(1);
    vectors
        .apply(request(0, 1, IrqAction::Mask, IrqData::None))
        .expect("mask");
    vectors
        .apply(request(0, 0, IrqAction::Trigger, IrqData::None))
        .expect("disable");
    assert!(!vectors.enabled());
    vectors.raise(0).expect("raise");
    assert_eq!(fired(&fds[0]), 0);
}
