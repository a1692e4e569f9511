//! Register writes that the server hears of by an eventfd, which KVM signals: no message, no exit to this process.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_GET_REGION_IO_FDS".
//! Only servers that announced a capability which came with that command or later are asked: others are known to end at
//! the question (the `vfio_user` crate).
//! Not supported: ioregionfds, which no kernel has. What KVM does not take stays trapped, and the server gets messages.
//! KVM checks that a descriptor is an eventfd; this process neither reads nor writes it.
//! Limits: [`protocol::limits::MAX_IO_FDS`] per BAR, as many descriptors as we take in one message.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use protocol::client::{Client, ClientError};
use protocol::messages::version::TwinSocket;
use protocol::{IoFd, IoFdKind, IoFds, ReceivedFd, RegionInfo};

use super::notices::Notices;
use crate::kvm::{IoEvent, Vm};
use crate::pci::bar::{Decoded, ROM};

/// What rings.
#[derive(Clone, Debug)]
pub(super) struct Doorbell {
    bar: u8,
    offset: u64,
    width: u8,
    datamatch: Option<u64>,
    eventfd: Arc<ReceivedFd>,
}

/// Asks for the doorbells of all BARs; none in `reserved`, which this process answers itself.
pub(super) fn ask(
    client: &Client,
    regions: &[RegionInfo],
    reserved: &[(u8, Range<u64>)],
) -> Result<Vec<Doorbell>, ClientError> {
    let server = client.server_capabilities();
    let knows_the_command =
        server.write_multiple || matches!(server.twin_socket, TwinSocket::Fd(_));
    let mut doorbells = Vec::new();
    for region in regions.iter().filter(|_| knows_the_command) {
        let [bar, ..] = region.index.0.to_le_bytes();
        if bar >= ROM {
            continue;
        }
        match client.region_io_fds(region.index, region.size) {
            Ok(found) => doorbells.extend(of_bar(bar, found, reserved)),
            // A server without any.
            Err(ClientError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(doorbells)
}

fn of_bar(bar: u8, found: IoFds, reserved: &[(u8, Range<u64>)]) -> impl Iterator<Item = Doorbell> {
    let fds: Vec<_> = found.fds.into_iter().map(Arc::new).collect();
    let entries = found.entries.into_iter().filter(move |entry| {
        let end = entry.offset.saturating_add(entry.size.max(1));
        let touches = |range: &Range<u64>| entry.offset < range.end && range.start < end;
        !reserved
            .iter()
            .any(|(owner, range)| *owner == bar && touches(range))
    });
    let doorbells: Vec<_> = entries
        .filter_map(|entry| doorbell(bar, entry, &fds))
        .collect();
    doorbells.into_iter()
}

fn doorbell(bar: u8, entry: IoFd, fds: &[Arc<ReceivedFd>]) -> Option<Doorbell> {
    let IoFdKind::IoEventFd { datamatch } = entry.kind else {
        return None;
    };
    let eventfd = fds.get(usize::try_from(entry.fd_index).ok()?)?;
    Some(Doorbell {
        bar,
        offset: entry.offset,
        width: u8::try_from(entry.size).ok()?,
        datamatch: (entry.flags & IoFd::DATAMATCH != 0).then_some(datamatch),
        eventfd: Arc::clone(eventfd),
    })
}

/// A doorbell where the guest reaches it now.
#[derive(Debug)]
pub(super) struct Wired {
    event: IoEvent,
    eventfd: Arc<ReceivedFd>,
}

/// Wires the doorbells of a BAR that decodes; what KVM refuses stays trapped.
pub(super) fn wire(
    vm: &Vm,
    doorbells: &[Doorbell],
    decoded: &Decoded,
    notices: &Notices,
) -> Vec<Wired> {
    let mut wired = Vec::new();
    for doorbell in doorbells.iter().filter(|bell| bell.bar == decoded.index) {
        let event = IoEvent {
            address: decoded.range.start + doorbell.offset,
            pio: decoded.io,
            width: doorbell.width,
            datamatch: doorbell.datamatch,
        };
        let eventfd = Arc::clone(&doorbell.eventfd);
        match vm.attach_ioevent(&event, eventfd.as_fd()) {
            Ok(()) => wired.push(Wired { event, eventfd }),
            Err(error) => notices.failed("a doorbell stays trapped", &error),
        }
    }
    wired
}

/// Writes are trapped again.
pub(super) fn unwire(vm: &Vm, wired: &[Wired], notices: &Notices) {
    for Wired { event, eventfd } in wired {
        if let Err(error) = vm.detach_ioevent(event, eventfd.as_fd()) {
            notices.failed("a doorbell is not taken out of the guest", &error);
        }
    }
}

#[cfg(test)]
mod tests;
