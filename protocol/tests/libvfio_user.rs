//! Our client against a script that does what libvfio-user's server does where it differs from the specification. The
//! numbers of pitfalls are those of vfio-user-facts.md, section 12.
//!
//! Reads a message as libvfio-user does: the header with its descriptors, then the body by one `recv` that does not
//! wait (pitfall 22).

#![cfg(test)]

mod peers;

use peers::script::config;
use peers::{ERROR, Probe, REPLY, RawPeer, Received, message, sized, version_body};
use protocol::{
    Client, ClientError, DmaMapFlags, Errno, Iova, IovaRange, IrqAction, IrqIndex, RegionIndex,
};
use rustix::net::{RecvFlags, recv};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

const EINVAL: u32 = 22;
const ENOENT: u32 = 2;
/// Vectors of INTx, MSI, MSI-X, ERR and REQ.
const VECTORS: [u32; 5] = [1, 0, 16, 0, 1];

/// What the server remembers.
#[derive(Default)]
struct LibvfioUser {
    /// Address to size.
    maps: BTreeMap<u64, u64>,
    /// One array for INTx, MSI and MSI-X (pitfall 18).
    eventfds: BTreeMap<u32, OwnedFd>,
    set_irqs: Vec<(u32, u32, usize)>,
    device: Device,
}

/// What kind of server it is.
#[derive(Clone, Copy, Default, PartialEq)]
enum Device {
    #[default]
    Ordinary,
    /// Its device was stopped for a migration (pitfall 26).
    Stopped,
    /// It takes maps that it has no use for: libvfio-user without a DMA controller (pitfall 29), SPDK where memory is not
    /// aligned to 2 MiB, not for reading and writing, or without descriptor (pitfall 30).
    WithoutUseForMaps,
}

fn u32_at(body: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(body[at..at + 4].try_into().unwrap())
}

fn u64_at(body: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(body[at..at + 8].try_into().unwrap())
}

impl LibvfioUser {
    /// Serves until the client leaves.
    fn serve(mut self, peer: &RawPeer) -> Self {
        while let Some(request) = receive(peer) {
            self.answer(peer, request);
        }
        self
    }

    fn answer(&mut self, peer: &RawPeer, request: Received) {
        let body = request.body.clone();
        if self.device == Device::Stopped && matches!(request.command, 2 | 3 | 8 | 13) {
            return peer.refuse(&request, EINVAL);
        }
        match request.command {
            1 => {
                let json = r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}"#;
                let minor = u16::from_ne_bytes([body[2], body[3]]).min(2);
                peer.answer(&request, &version_body(0, minor, json));
            }
            2 => {
                let errno = self.map(u64_at(&body, 16), u64_at(&body, 24));
                reply(peer, &request, errno, &[]);
            }
            3 => {
                let errno = self.unmap(u32_at(&body, 4), u64_at(&body, 8), u64_at(&body, 16));
                // Its output was prepared before it failed: an error reply with a payload (pitfall 1).
                reply(peer, &request, errno, &body);
            }
            5 => region_info(peer, &request),
            7 => {
                let index = u32_at(&body, 8);
                let irq = bytes![16u32, 1u32, index, VECTORS[index as usize]];
                peer.answer(&request, &irq);
            }
            8 => {
                let errno = self.set_irqs(&body, request.fds);
                let flags = if errno == 0 { REPLY } else { REPLY | ERROR };
                peer.send(&sized(request.id, 8, 16, flags, errno, &[]));
            }
            // Nothing but 4 bytes at 0 can be read or written.
            9 if u64_at(&body, 0) == 0 => {
                let mut data = body[..16].to_vec();
                data.extend([7; 4]);
                peer.answer(&request, &data);
            }
            9 | 10 => reply(peer, &request, EINVAL, &body[..16]),
            _ => peer.refuse(&request, EINVAL),
        }
    }

    /// Success for exactly what is mapped already; otherwise EINVAL for what overlaps (pitfall 2).
    fn map(&mut self, address: u64, size: u64) -> u32 {
        if self.device == Device::WithoutUseForMaps || self.maps.get(&address) == Some(&size) {
            return 0;
        }
        let overlaps =
            |(start, len): (&u64, &u64)| address < start + len && *start < address + size;
        if self.maps.iter().any(overlaps) {
            return EINVAL;
        }
        self.maps.insert(address, size);
        0
    }

    /// Flag 2 is unmap-all, with address and size 0 (pitfall 3).
    fn unmap(&mut self, flags: u32, address: u64, size: u64) -> u32 {
        match (flags, address, size) {
            _ if self.device == Device::WithoutUseForMaps => 0,
            (2, 0, 0) => {
                self.maps.clear();
                0
            }
            (0, ..) if self.maps.get(&address) == Some(&size) => {
                self.maps.remove(&address);
                0
            }
            (0, ..) => ENOENT,
            _ => EINVAL,
        }
    }

    fn set_irqs(&mut self, body: &[u8], fds: Vec<OwnedFd>) -> u32 {
        let (flags, index) = (u32_at(body, 4), u32_at(body, 8));
        let (start, count) = (u32_at(body, 12), u32_at(body, 16));
        // `start` must be below the number of vectors, also to disable an index (pitfall 17).
        if start >= VECTORS[index as usize] {
            return EINVAL;
        }
        self.set_irqs.push((index, start, fds.len()));
        if flags == 1 | 32 && count == 0 {
            self.eventfds.clear();
        }
        // Eventfds are taken away from vector 0 on, or not at all (pitfall 19).
        if flags == 4 | 32 && fds.is_empty() && start == 0 {
            self.eventfds.retain(|vector, _| *vector >= count);
        }
        self.eventfds.extend((start..).zip(fds));
        0
    }
}

/// The first answer, to an `argsz` of 32, has the MMAP flag but neither areas nor file (pitfall 11).
fn region_info(peer: &RawPeer, request: &Received) {
    let (argsz, index) = (u32_at(&request.body, 0), u32_at(&request.body, 8));
    let (full, size, area) = (32u32 + 32, 0x4000u64, 0x2000u64);
    if argsz < full {
        let body = bytes![full, 7u32, index, 0u32, size, 0u64];
        return peer.answer(request, &body);
    }
    let mut body = bytes![full, 15u32, index, 32u32, size, 0u64];
    body.extend(bytes![1u16, 1u16, 0u32, 1u32, 0u32, area, area]);
    let file = peers::device::memfd(size);
    let bytes = message(request.id, request.command, REPLY, &body);
    peer.send_with_fds(&bytes, &[std::os::fd::AsFd::as_fd(&file)]);
}

fn reply(peer: &RawPeer, request: &Received, errno: u32, body: &[u8]) {
    let flags = if errno == 0 { REPLY } else { REPLY | ERROR };
    let size = 16 + u32::try_from(body.len()).unwrap();
    let (id, command) = (request.id, request.command);
    peer.send(&sized(id, command, size, flags, errno, body));
}

fn receive(peer: &RawPeer) -> Option<Received> {
    let mut request = peer.try_recv_header()?;
    let (_, received) = if request.body.is_empty() {
        (0, 0)
    } else {
        recv(&peer.stream, &mut request.body[..], RecvFlags::DONTWAIT).unwrap()
    };
    assert_eq!(
        received,
        request.body.len(),
        "the body came later than the header"
    );
    Some(request)
}

fn client() -> (Client, JoinHandle<LibvfioUser>) {
    client_of(Device::Ordinary)
}

fn client_of(device: Device) -> (Client, JoinHandle<LibvfioUser>) {
    let (peer, socket) = RawPeer::pair();
    let server = LibvfioUser {
        device,
        ..LibvfioUser::default()
    };
    let thread = std::thread::spawn(move || server.serve(&peer));
    (Client::connect(socket, config()).unwrap(), thread)
}

fn errno(error: ClientError) -> Errno {
    if let ClientError::Refused { errno, .. } = error {
        return errno;
    }
    panic!("{error}");
}

fn range(page: u64, pages: u64) -> IovaRange {
    IovaRange::new(Iova(page << 12), pages << 12).unwrap()
}

#[test]
fn capabilities_come_with_the_second_answer() {
    let (client, _thread) = client();
    assert_eq!(client.server_capabilities().max_msg_fds, 8);
    let info = client.region_info(RegionIndex::BAR0).unwrap();
    assert_eq!((info.areas[0].offset, info.areas[0].size), (0x2000, 0x2000));
    assert!(info.fd.is_some());
}

#[test]
fn maps_have_errors_of_their_own() {
    let (client, thread) = client();
    let map = |range| client.dma_map(range, DmaMapFlags::READ_WRITE, None);
    map(range(1, 2)).unwrap();
    map(range(1, 2)).unwrap();
    assert_eq!(errno(map(range(2, 2)).unwrap_err()), Errno::INVAL);
    // With a payload, which is drained: the connection stays in step.
    assert_eq!(
        errno(client.dma_unmap(range(1, 1)).unwrap_err()),
        Errno::NOENT
    );
    client.dma_unmap(range(1, 2)).unwrap();
    map(range(8, 1)).unwrap();
    client.dma_unmap_all().unwrap();
    drop(client);
    assert!(thread.join().unwrap().maps.is_empty());
}

#[test]
fn refused_write_with_payload_leaves_the_connection_in_step() {
    let (client, _thread) = client();
    let refused = client.region_write(RegionIndex::CONFIG, 4, &[0; 4]);
    assert_eq!(errno(refused.unwrap_err()), Errno::INVAL);
    let mut data = [0; 4];
    client.region_read(RegionIndex::BAR0, 0, &mut data).unwrap();
    assert_eq!(data, [7; 4]);
}

/// Pitfall 16: an access of 0 bytes is answered with a header alone. It is not sent at all.
#[test]
fn access_of_no_bytes_is_not_sent() {
    let (client, _thread) = client();
    let before = client.counters();
    client.region_read(RegionIndex::BAR0, 0, &mut []).unwrap();
    client.region_write(RegionIndex::BAR0, 0, &[]).unwrap();
    assert_eq!(client.counters(), before);
}

#[test]
fn eventfds_come_in_chunks_and_an_index_without_vectors_cannot_be_disabled() {
    let (client, thread) = client();
    assert_eq!(client.irq_info(IrqIndex::MSI).unwrap().count, 0);
    assert_eq!(
        errno(client.disable_irqs(IrqIndex::MSI).unwrap_err()),
        Errno::INVAL
    );
    let probe = Probe::new();
    client
        .set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &[probe.fd(); 10])
        .unwrap();
    drop(client);
    let chunks = [(2, 0, 8), (2, 8, 2)];
    assert_eq!(thread.join().unwrap().set_irqs, chunks);
}

/// Pitfall 18: disabling one kind takes the eventfds of the other. So the old kind goes before the new one comes; that
/// the VMM does so is tested there (`pin_is_unbound_before_msix_is_bound`).
#[test]
fn interrupt_kinds_share_their_eventfds() {
    let (client, thread) = client();
    let (pin, vector) = (Probe::new(), Probe::new());
    let bind = |index, probe: &Probe| {
        client
            .set_irqs_eventfds(index, 0, IrqAction::Trigger, &[probe.fd()])
            .unwrap();
    };
    bind(IrqIndex::INTX, &pin);
    client.disable_irqs(IrqIndex::INTX).unwrap();
    pin.expect_closed();
    bind(IrqIndex::MSIX, &vector);
    client.disable_irqs(IrqIndex::INTX).unwrap();
    vector.expect_closed();
    drop(client);
    assert!(thread.join().unwrap().eventfds.is_empty());
}

/// Pitfall 19: the server answers success and keeps the eventfd. Only disabling the index takes it.
#[test]
fn eventfd_of_a_later_vector_goes_only_with_its_index() {
    let (client, thread) = client();
    let (first, second) = (Probe::new(), Probe::new());
    let fds = [first.fd(), second.fd()];
    client
        .set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &fds)
        .unwrap();
    client.clear_irqs_eventfds(IrqIndex::MSIX, 0, 1).unwrap();
    first.expect_closed();
    client.clear_irqs_eventfds(IrqIndex::MSIX, 1, 1).unwrap();
    client.disable_irqs(IrqIndex::MSIX).unwrap();
    second.expect_closed();
    drop(client);
    let server = thread.join().unwrap();
    let asked = [(2, 0, 2), (2, 0, 0), (2, 1, 0), (2, 0, 0)];
    assert_eq!(server.set_irqs, asked);
}

/// Pitfall 26: each refusal is an error of its own call; the device can still be read.
#[test]
fn stopped_device_refuses_all_but_accesses_and_stays_in_step() {
    let (client, _thread) = client_of(Device::Stopped);
    let probe = Probe::new();
    let vectors = [probe.fd()];
    let refused = [
        client.dma_map(range(1, 1), DmaMapFlags::READ_WRITE, None),
        client.dma_unmap(range(1, 1)),
        client.dma_unmap_all(),
        client.set_irqs_eventfds(IrqIndex::MSIX, 0, IrqAction::Trigger, &vectors),
        client.disable_irqs(IrqIndex::MSIX),
        client.reset(),
    ];
    for result in refused {
        assert_eq!(errno(result.unwrap_err()), Errno::INVAL);
    }
    let mut data = [0; 4];
    client.region_read(RegionIndex::BAR0, 0, &mut data).unwrap();
    assert_eq!(data, [7; 4]);
}

/// Pitfall 29: the server says success to any map and remembers none.
#[test]
fn maps_of_a_device_without_dma_are_taken_and_given_back() {
    let (client, thread) = client_of(Device::WithoutUseForMaps);
    for _ in 0..2 {
        let map = client.dma_map(range(1, 2), DmaMapFlags::READ_WRITE, None);
        map.unwrap();
    }
    client.dma_unmap(range(1, 2)).unwrap();
    client.dma_unmap_all().unwrap();
    drop(client);
    assert!(thread.join().unwrap().maps.is_empty());
}

/// Pitfall 30: success does not say that the server will use the memory. Such maps are sent as they are, and taken back.
#[test]
fn maps_that_spdk_does_not_use_are_sent_as_they_are() {
    let (client, _thread) = client_of(Device::WithoutUseForMaps);
    let memory = peers::device::memfd(0x3000);
    let fd = Some((std::os::fd::AsFd::as_fd(&memory), 0));
    let ranges = [range(1, 3), range(0x1000, 3), range(0x2000, 1)];
    let flags = [DmaMapFlags::READ_WRITE, DmaMapFlags::READ];
    client.dma_map(ranges[0], flags[0], fd).unwrap();
    client.dma_map(ranges[1], flags[1], fd).unwrap();
    client.dma_map(ranges[2], flags[0], None).unwrap();
    for range in ranges {
        client.dma_unmap(range).unwrap();
    }
    let mut data = [0; 4];
    client.region_read(RegionIndex::BAR0, 0, &mut data).unwrap();
    assert_eq!(data, [7; 4]);
}
