use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use super::*;

/// Client memory reached by messages: one page at every address.
#[derive(Default)]
struct Messages {
    reads: Vec<(u64, usize)>,
    writes: Vec<(u64, Vec<u8>)>,
}

impl MessageDma for Messages {
    fn read(&mut self, iova: Iova, data: &mut [u8]) -> Result<(), Errno> {
        self.reads.push((iova.0, data.len()));
        data.fill(0x5a);
        Ok(())
    }

    fn write(&mut self, iova: Iova, data: &[u8]) -> Result<(), Errno> {
        self.writes.push((iova.0, data.to_vec()));
        Ok(())
    }
}

fn memfd() -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("memfd");
    rustix::fs::ftruncate(&fd, 0x4000).expect("size");
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("seal");
    fd
}

fn map(start: u64, file_offset: u64, flags: DmaMapFlags, fd: Option<&OwnedFd>) -> DmaMap {
    let fd = fd.map(|fd| fd.try_clone().expect("dup").into());
    DmaMap {
        range: IovaRange::new(Iova(start), 0x1000).expect("range"),
        file_offset,
        flags,
        fd,
    }
}

#[test]
fn write_then_read_goes_to_the_file() {
    let fd = memfd();
    let mut dma = SharedDma::new(8);
    dma.map(&map(0x10000, 0x1000, DmaMapFlags::READ_WRITE, Some(&fd)))
        .expect("map");
    let mut messages = Messages::default();
    dma.write(Iova(0x10010), b"hello", &mut messages)
        .expect("write");
    let mut file = [0; 5];
    rustix::io::pread(fd.as_fd(), &mut file, 0x1010).expect("pread");
    assert_eq!(&file, b"hello");
    let mut back = [0; 5];
    dma.read(Iova(0x10010), &mut back, &mut messages)
        .expect("read");
    assert_eq!(&back, b"hello");
    assert!(messages.reads.is_empty() && messages.writes.is_empty());
}

#[test]
fn access_across_two_maps_is_split() {
    let fd = memfd();
    let mut dma = SharedDma::new(8);
    dma.map(&map(0x1000, 0x3000, DmaMapFlags::READ_WRITE, Some(&fd)))
        .expect("map");
    dma.map(&map(0x2000, 0, DmaMapFlags::READ_WRITE, None))
        .expect("map");
    let mut messages = Messages::default();
    dma.write(Iova(0x1ffe), &[1, 2, 3, 4], &mut messages)
        .expect("write");
    assert_eq!(messages.writes, [(0x2000, vec![3, 4])]);
    let mut back = [0; 4];
    dma.read(Iova(0x1ffe), &mut back, &mut messages)
        .expect("read");
    assert_eq!(back, [1, 2, 0x5a, 0x5a]);
}

#[test]
fn m43_access_outside_or_against_the_flags_touches_nothing() {
    let fd = memfd();
    let mut dma = SharedDma::new(8);
    dma.map(&map(0x1000, 0, DmaMapFlags::READ_WRITE, Some(&fd)))
        .expect("map");
    dma.map(&map(0x2000, 0x1000, DmaMapFlags::READ, Some(&fd)))
        .expect("map");
    let mut messages = Messages::default();
    let mut buffer = [0; 8];
    assert_eq!(
        dma.read(Iova(0xffc), &mut buffer, &mut messages),
        Err(Errno::FAULT)
    );
    assert_eq!(
        dma.read(Iova(0x2ffc), &mut buffer, &mut messages),
        Err(Errno::FAULT)
    );
    assert_eq!(
        dma.write(Iova(0x1ffc), &[9; 8], &mut messages),
        Err(Errno::PERM)
    );
    let mut file = [7; 4];
    rustix::io::pread(fd.as_fd(), &mut file, 0xffc).expect("pread");
    assert_eq!(file, [0; 4], "nothing of the refused write was done");
}

#[test]
fn unmapped_memory_is_out_of_reach() {
    let fd = memfd();
    let mut dma = SharedDma::new(8);
    let request = map(0x1000, 0, DmaMapFlags::READ_WRITE, Some(&fd));
    dma.map(&request).expect("map");
    dma.unmap(request.range).expect("unmap");
    assert_eq!(
        dma.read(Iova(0x1000), &mut [0], &mut Messages::default()),
        Err(Errno::FAULT)
    );
}
