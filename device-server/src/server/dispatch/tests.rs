use std::os::fd::OwnedFd;

use protocol::messages::region_info::RegionInfoRequest;
use protocol::{DmaMapFlags, Iova, IrqAction, IrqData, IrqInfoFlags, ReceivedFd};

use super::*;
use crate::backend::{DeviceDescription, Irq, Region};

/// A device that writes down what it is asked, and fails when told to.
#[derive(Debug)]
struct Recorder {
    description: DeviceDescription,
    calls: Vec<String>,
    fails_with: Option<Errno>,
    /// What it says of being open.
    opened: Result<(), Errno>,
}

struct NoMessages;

impl MessageDma for NoMessages {
    fn read(&mut self, _iova: Iova, _data: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::IO)
    }

    fn write(&mut self, _iova: Iova, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::IO)
    }
}

impl Recorder {
    /// BAR0 readable only, BAR2 writable only, no reset, MSI-X with 4 vectors that cannot be masked, no INTx.
    fn new() -> Recorder {
        let mut regions: Vec<Region> = (0..9).map(|_| Region::absent()).collect();
        regions[0] = Region {
            flags: RegionFlags::READ,
            ..Region::trapped(64)
        };
        regions[2] = Region {
            flags: RegionFlags::WRITE,
            ..Region::trapped(64)
        };
        let mut irqs = vec![Irq::absent(); 5];
        irqs[2] = Irq {
            flags: IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE,
            count: 4,
        };
        let description = DeviceDescription {
            reset: false,
            regions,
            irqs,
        };
        Recorder {
            description,
            calls: Vec::new(),
            fails_with: None,
            opened: Ok(()),
        }
    }

    fn record(&mut self, call: String) -> Result<(), Errno> {
        self.calls.push(call);
        self.fails_with.map_or(Ok(()), Err)
    }
}

impl Backend for Recorder {
    fn opened(&mut self) -> Result<(), Errno> {
        self.opened
    }

    fn describe(&self) -> &DeviceDescription {
        &self.description
    }

    fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno> {
        data.fill(0x5a);
        self.record(format!("read {region} {offset} {}", data.len()))
    }

    fn region_write(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
        _dma: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        self.record(format!("write {region} {offset} {data:?}"))
    }

    fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno> {
        self.record(format!(
            "irqs {} {} {}",
            request.index, request.start, request.count
        ))
    }

    fn dma_map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        self.record(format!("map {}", map.range))
    }

    fn dma_unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.record(format!("unmap {range}"))
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.record("reset".into())
    }

    fn client_gone(&mut self) -> Result<(), Errno> {
        self.record("gone".into())
    }
}

fn errno(result: Result<Reply<'_>, Refused>) -> Errno {
    result.map(drop).expect_err("refused").bad.errno
}

fn done(result: Result<Reply<'_>, Refused>) {
    result.map(drop).expect("done");
}

fn read(region: u32, offset: u64, count: u32) -> Command<'static> {
    Command::RegionRead(RegionAccess {
        region: RegionIndex(region),
        offset,
        count,
    })
}

fn irqs(index: IrqIndex, start: u32, count: u32, action: IrqAction) -> Command<'static> {
    Command::SetIrqs(SetIrqs {
        index,
        start,
        count,
        action,
        data: IrqData::None,
    })
}

fn map(start: u64, fd: Option<OwnedFd>) -> Command<'static> {
    let range = IovaRange::new(Iova(start), 0x1000).expect("range");
    Command::DmaMap(DmaMap {
        range,
        file_offset: 0,
        flags: DmaMapFlags::READ_WRITE,
        fd: fd.map(ReceivedFd::from),
    })
}

#[test]
fn r19_access_against_the_regions_flags_is_refused() {
    let mut device = Recorder::new();
    let mut dispatcher = Dispatcher::new(&mut device, 4);
    assert_eq!(errno(dispatcher.dispatch(read(2, 0, 4))), Errno::PERM);
    let write = Write {
        region: RegionIndex::BAR0,
        offset: 0,
        data: &[1],
    };
    assert_eq!(
        errno(dispatcher.region_write(write, &mut NoMessages)),
        Errno::PERM
    );
    assert!(device.calls.is_empty());
}

#[test]
fn read_of_the_device_is_the_reply() {
    let mut device = Recorder::new();
    let mut dispatcher = Dispatcher::new(&mut device, 4);
    let reply = dispatcher.dispatch(read(0, 60, 4)).expect("read");
    assert!(matches!(
        reply,
        Reply::RegionRead {
            offset: 60,
            data: [0x5a, 0x5a, 0x5a, 0x5a],
            ..
        }
    ));
    assert_eq!(errno(dispatcher.dispatch(read(0, 61, 4))), Errno::INVAL);
    assert_eq!(device.calls, ["read BAR0 60 4"]);
}

#[test]
fn device_that_is_not_open_is_asked_for_nothing_but_maps() {
    let mut device = Recorder::new();
    device.opened = Err(Errno::IO);
    let mut dispatcher = Dispatcher::new(&mut device, 4);
    let write = |region| Write {
        region,
        offset: 0,
        data: &[1],
    };
    for command in [
        Command::DeviceInfo,
        Command::IrqInfo(IrqIndex::MSIX),
        Command::DeviceReset,
        read(0, 0, 4),
        irqs(IrqIndex::MSIX, 0, 1, IrqAction::Trigger),
    ] {
        assert_eq!(errno(dispatcher.dispatch(command)), Errno::IO);
    }
    let bar2 = RegionIndex(2);
    let refused = dispatcher.region_write(write(bar2), &mut NoMessages);
    assert_eq!(errno(refused), Errno::IO);
    let writes = [write(bar2), write(bar2)];
    let refused = dispatcher.region_write_multi(writes.into_iter(), &mut NoMessages);
    assert_eq!(errno(refused), Errno::IO);
    done(dispatcher.dispatch(map(0x1000, None)));
    let range = IovaRange::new(Iova(0x1000), 0x1000).expect("range");
    assert_eq!(
        device.calls,
        [format!("map {range}")],
        "the device itself was asked for nothing"
    );
}

#[test]
fn error_of_the_device_is_the_reply_and_the_session_goes_on() {
    let mut device = Recorder::new();
    device.fails_with = Some(Errno::IO);
    let mut dispatcher = Dispatcher::new(&mut device, 4);
    let refused = dispatcher
        .dispatch(read(0, 0, 4))
        .map(drop)
        .expect_err("the device fails");
    assert_eq!((refused.bad.errno, refused.end_session), (Errno::IO, false));
}

#[test]
fn l08_l09_reset_that_is_not_there_or_fails() {
    let mut device = Recorder::new();
    assert_eq!(
        errno(Dispatcher::new(&mut device, 4).dispatch(Command::DeviceReset)),
        Errno::NOTSUP
    );
    assert!(device.calls.is_empty());
    device.description.reset = true;
    device.fails_with = Some(Errno::TIMEDOUT);
    assert_eq!(
        errno(Dispatcher::new(&mut device, 4).dispatch(Command::DeviceReset)),
        Errno::TIMEDOUT
    );
}

#[test]
fn q13_disabling_an_index_without_vectors_succeeds_and_does_nothing() {
    let mut device = Recorder::new();
    let mut dispatcher = Dispatcher::new(&mut device, 4);
    done(dispatcher.dispatch(irqs(IrqIndex::INTX, 0, 0, IrqAction::Trigger)));
    assert_eq!(
        errno(dispatcher.dispatch(irqs(IrqIndex::INTX, 0, 1, IrqAction::Trigger))),
        Errno::INVAL
    );
    assert!(device.calls.is_empty());
}

#[test]
fn q36_mask_of_an_index_that_cannot_be_masked_is_refused() {
    let mut device = Recorder::new();
    let mut dispatcher = Dispatcher::new(&mut device, 4);
    assert_eq!(
        errno(dispatcher.dispatch(irqs(IrqIndex::MSIX, 0, 1, IrqAction::Mask))),
        Errno::INVAL
    );
    done(dispatcher.dispatch(irqs(IrqIndex::MSIX, 0, 4, IrqAction::Trigger)));
    assert_eq!(
        errno(dispatcher.dispatch(irqs(IrqIndex::MSIX, 1, 4, IrqAction::Trigger))),
        Errno::INVAL
    );
    assert_eq!(device.calls, ["irqs MSI-X 0 4"]);
}

#[test]
fn m36_maps_beyond_the_maximum_do_not_reach_the_device() {
    let mut device = Recorder::new();
    let mut dispatcher = Dispatcher::new(&mut device, 2);
    done(dispatcher.dispatch(map(0x1000, None)));
    done(dispatcher.dispatch(map(0x2000, None)));
    assert_eq!(errno(dispatcher.dispatch(map(0x3000, None))), Errno::NOSPC);
    assert_eq!(errno(dispatcher.dispatch(map(0x1000, None))), Errno::EXIST);
    assert_eq!(device.calls, ["map 0x1000..0x2000", "map 0x2000..0x3000"]);
}

#[test]
fn map_that_the_device_refuses_is_not_remembered() {
    let mut device = Recorder::new();
    device.fails_with = Some(Errno::NOMEM);
    let mut dispatcher = Dispatcher::new(&mut device, 2);
    assert_eq!(errno(dispatcher.dispatch(map(0x1000, None))), Errno::NOMEM);
    let range = IovaRange::new(Iova(0x1000), 0x1000).expect("range");
    assert_eq!(
        errno(dispatcher.dispatch(Command::DmaUnmap(DmaUnmap::Range(range)))),
        Errno::NOENT
    );
}

#[test]
fn unmap_that_the_device_fails_ends_the_session() {
    let mut device = Recorder::new();
    device.fails_with = Some(Errno::IO);
    let mut dispatcher = Dispatcher::new(&mut device, 2);
    let range = IovaRange::new(Iova(0x1000), 0x1000).expect("range");
    dispatcher
        .maps
        .insert(range, ())
        .expect("as if it had been mapped");
    let refused = dispatcher
        .dispatch(Command::DmaUnmap(DmaUnmap::All))
        .map(drop)
        .expect_err("fails");
    assert_eq!((refused.bad.errno, refused.end_session), (Errno::IO, true));
}

#[test]
fn x07_multi_write_with_one_bad_entry_does_nothing() {
    let mut device = Recorder::new();
    let mut dispatcher = Dispatcher::new(&mut device, 2);
    let good = Write {
        region: RegionIndex::BAR2,
        offset: 0,
        data: &[1],
    };
    let bad = Write {
        region: RegionIndex::BAR2,
        offset: 64,
        data: &[1],
    };
    let refused = dispatcher.region_write_multi([good, bad, good].into_iter(), &mut NoMessages);
    assert_eq!(errno(refused), Errno::INVAL);
    done(dispatcher.region_write_multi([good, good].into_iter(), &mut NoMessages));
    assert_eq!(device.calls, ["write BAR2 0 [1]", "write BAR2 0 [1]"]);
}

#[test]
fn region_without_descriptor_is_not_mappable() {
    let mut device = Recorder::new();
    device.description.regions[0]
        .areas
        .push(protocol::SparseArea {
            offset: 0,
            size: 4096,
        });
    let mut dispatcher = Dispatcher::new(&mut device, 2);
    let request = RegionInfoRequest {
        index: RegionIndex::BAR0,
        argsz: 4096,
    };
    let reply = dispatcher
        .dispatch(Command::RegionInfo(request))
        .expect("info");
    assert!(
        matches!(reply, Reply::RegionInfo { info, fd: None, .. } if info.flags == RegionFlags::READ)
    );
}
