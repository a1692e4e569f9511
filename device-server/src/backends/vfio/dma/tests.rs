use std::os::fd::OwnedFd;

use protocol::Iova;
use rustix::fs::MemfdFlags;

use super::*;

const A: SessionId = SessionId(0);
const B: SessionId = SessionId(1);

/// Records what the kernel would be asked.
#[derive(Debug, Default)]
struct Recorder {
    calls: Vec<String>,
    refuse_unmap: bool,
}

impl Iommu for Recorder {
    fn map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        self.calls.push(format!("map {:#x}", map.range.start().0));
        Ok(())
    }

    fn unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.calls.push(format!("unmap {:#x}", range.start().0));
        if self.refuse_unmap {
            Err(Errno::IO)
        } else {
            Ok(())
        }
    }
}

fn memfd() -> OwnedFd {
    let fd = rustix::fs::memfd_create("ram", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, 0x10000).unwrap();
    fd
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

fn map(start: u64, len: u64, file: &OwnedFd, file_offset: u64) -> DmaMap {
    DmaMap {
        range: range(start, len),
        file_offset,
        flags: DmaMapFlags::READ | DmaMapFlags::WRITE,
        fd: Some(file.try_clone().unwrap().into()),
    }
}

fn space() -> DmaSpace<Recorder> {
    DmaSpace::new(Recorder::default())
}

#[test]
fn same_memory_of_two_sessions_is_mapped_once_and_unmapped_with_the_last() {
    let (mut space, file) = (space(), memfd());
    space.map(A, &map(0x1000, 0x2000, &file, 0)).unwrap();
    space.map(B, &map(0x1000, 0x2000, &file, 0)).unwrap();
    space.unmap(A, range(0x1000, 0x2000)).unwrap();
    assert_eq!(space.iommu.calls, ["map 0x1000"]);
    space.unmap(B, range(0x1000, 0x2000)).unwrap();
    assert_eq!(space.iommu.calls, ["map 0x1000", "unmap 0x1000"]);
}

#[test]
fn other_memory_at_a_mapped_range_is_eexist() {
    let (mut space, file) = (space(), memfd());
    space.map(A, &map(0x1000, 0x2000, &file, 0)).unwrap();
    assert_eq!(
        space.map(B, &map(0x1000, 0x2000, &memfd(), 0)),
        Err(Errno::EXIST)
    );
    assert_eq!(
        space.map(B, &map(0x1000, 0x2000, &file, 0x1000)),
        Err(Errno::EXIST)
    );
    assert_eq!(
        space.map(B, &map(0x1000, 0x1000, &file, 0)),
        Err(Errno::EXIST)
    );
    assert_eq!(
        space.map(B, &map(0x2000, 0x2000, &file, 0x1000)),
        Err(Errno::EXIST)
    );
    assert_eq!(space.iommu.calls, ["map 0x1000"]);
}

#[test]
fn same_memory_with_other_access_is_eexist() {
    let (mut space, file) = (space(), memfd());
    space.map(A, &map(0x1000, 0x1000, &file, 0)).unwrap();
    let read_only = DmaMap {
        flags: DmaMapFlags::READ,
        ..map(0x1000, 0x1000, &file, 0)
    };
    assert_eq!(space.map(B, &read_only), Err(Errno::EXIST));
}

#[test]
fn refused_claim_leaves_the_first_one_alone() {
    let (mut space, file) = (space(), memfd());
    space.map(A, &map(0x1000, 0x1000, &file, 0)).unwrap();
    space.map(B, &map(0x1000, 0x1000, &memfd(), 0)).unwrap_err();
    space.unmap_all(B).unwrap();
    assert_eq!(space.iommu.calls, ["map 0x1000"]);
    space.unmap(A, range(0x1000, 0x1000)).unwrap();
    assert_eq!(space.iommu.calls, ["map 0x1000", "unmap 0x1000"]);
}

#[test]
fn session_that_goes_takes_only_its_own_maps() {
    let (mut space, file) = (space(), memfd());
    space.map(A, &map(0x1000, 0x1000, &file, 0)).unwrap();
    space.map(A, &map(0x4000, 0x1000, &file, 0x1000)).unwrap();
    space.map(B, &map(0x4000, 0x1000, &file, 0x1000)).unwrap();
    space.map(B, &map(0x8000, 0x1000, &file, 0x2000)).unwrap();
    space.unmap_all(A).unwrap();
    assert_eq!(space.iommu.calls[3..], ["unmap 0x1000"]);
    space.unmap_all(B).unwrap();
    assert_eq!(space.iommu.calls[4..], ["unmap 0x4000", "unmap 0x8000"]);
}

#[test]
fn memory_by_messages_is_accepted_and_never_mapped() {
    let mut space = space();
    let message_only = DmaMap {
        fd: None,
        file_offset: 0,
        ..map(0x1000, 0x1000, &memfd(), 0)
    };
    space.map(A, &message_only).unwrap();
    space.unmap(A, range(0x1000, 0x1000)).unwrap();
    assert!(space.iommu.calls.is_empty());
}

#[test]
fn unmap_that_the_kernel_refuses_keeps_the_range_taken() {
    let (mut space, file) = (space(), memfd());
    space.map(A, &map(0x1000, 0x1000, &file, 0)).unwrap();
    space.iommu.refuse_unmap = true;
    assert_eq!(space.unmap(A, range(0x1000, 0x1000)), Err(Errno::IO));
    assert_eq!(
        space.map(B, &map(0x1000, 0x1000, &memfd(), 0)),
        Err(Errno::EXIST)
    );
}
