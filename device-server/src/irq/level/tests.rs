use std::os::fd::OwnedFd;

use protocol::IrqIndex;
use rustix::event::EventfdFlags;

use super::*;

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

fn fired(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

fn request(count: u32, action: IrqAction, data: IrqData) -> SetIrqs {
    SetIrqs {
        index: IrqIndex::INTX,
        start: 0,
        count,
        action,
        data,
    }
}

fn line() -> (LevelLine, OwnedFd) {
    let trigger = eventfd();
    let mut line = LevelLine::new(&Arc::new(Signaller::new().expect("asynchronous I/O")));
    let copy = trigger.try_clone().expect("dup");
    line.apply(request(
        1,
        IrqAction::Trigger,
        IrqData::Eventfd(vec![copy.into()]),
    ))
    .expect("bind");
    (line, trigger)
}

#[test]
fn high_line_fires_once_until_it_is_unmasked() {
    let (mut line, trigger) = line();
    line.drive(true);
    line.drive(true);
    assert_eq!(fired(&trigger), 1);
    line.apply(request(1, IrqAction::Unmask, IrqData::None))
        .expect("unmask");
    assert_eq!(fired(&trigger), 1, "still high: again");
    line.drive(false);
    line.apply(request(1, IrqAction::Unmask, IrqData::None))
        .expect("unmask");
    assert_eq!(fired(&trigger), 0);
}

#[test]
fn unmask_eventfd_unmasks() {
    let (mut line, trigger) = line();
    let resample = eventfd();
    let copy = resample.try_clone().expect("dup");
    line.apply(request(
        1,
        IrqAction::Unmask,
        IrqData::Eventfd(vec![copy.into()]),
    ))
    .expect("resample");
    line.drive(true);
    assert_eq!(fired(&trigger), 1);
    assert!(line.readable_fd().is_some());
    line.handle();
    assert_eq!(fired(&trigger), 0, "nobody signalled");
    rustix::io::write(&resample, &1u64.to_ne_bytes()).expect("end of interrupt");
    line.handle();
    assert_eq!(fired(&trigger), 1);
    assert_eq!(fired(&resample), 0, "consumed");
}

#[test]
fn line_that_was_high_before_fires_when_bound() {
    let mut line = LevelLine::new(&Arc::new(Signaller::new().expect("asynchronous I/O")));
    line.drive(true);
    let trigger = eventfd();
    let copy = trigger.try_clone().expect("dup");
    line.apply(request(
        1,
        IrqAction::Trigger,
        IrqData::Eventfd(vec![copy.into()]),
    ))
    .expect("bind");
    assert_eq!(fired(&trigger), 1);
}

#[test]
fn masked_line_waits_for_the_unmask() {
    let (mut line, trigger) = line();
    line.apply(request(1, IrqAction::Mask, IrqData::None))
        .expect("mask");
    line.drive(true);
    assert_eq!(fired(&trigger), 0);
    line.apply(request(1, IrqAction::Unmask, IrqData::Bool(vec![true])))
        .expect("unmask");
    assert_eq!(fired(&trigger), 1);
}
