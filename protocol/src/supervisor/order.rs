//! What a supervisor sends to a device server that waits for its device: which device, how it is served, and its descriptors.
//!
//! One JSON text in one packet of a SOCK_SEQPACKET pair, with the descriptors in the order of `OrderFds`. Nothing is sent back
//! on it. The supervisor is trusted by its device server, which checks an order all the same: a packet that is none is an error.
//! A new form of this text needs a new option of the device server's, since a supervisor may outlive an upgrade of that program.
//! Limits: `MAX_CONTROL_BYTES` and `MAX_ORDER_FDS` per order.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::channel::{ControlError, ControlSocket, Packet};
use crate::pci::PciAddress;

/// Descriptors of an order. Source: the socket, the two of a group, and the two of a device with an iommufd.
pub const MAX_ORDER_FDS: usize = 5;

/// Serve this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its address.
    pub host: PciAddress,
    /// What the log calls it.
    pub id: String,
    /// Whether its client may map its BARs.
    pub bar_mmap: bool,
    /// Serve it even if it cannot be reset.
    pub allow_no_reset: bool,
    /// Serve it even if its DMA bypasses caches that the guest cannot bypass.
    pub allow_noncoherent: bool,
    /// Serve its client before it is open: its DMA is off, so it may have memory before it is reset.
    pub early: bool,
}

/// What comes with an order.
#[derive(Debug)]
pub struct OrderFds<F> {
    /// The connected vfio-user socket.
    pub socket: F,
    /// /dev/vfio/vfio and /dev/vfio/GROUP.
    pub group: Option<(F, F)>,
    /// /dev/iommu and the device's own node.
    pub iommufd: Option<(F, F)>,
}

/// What a look for an order found.
#[derive(Debug)]
pub enum Ordered {
    /// An order.
    Device(Order, OrderFds<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The supervisor needs no device server, or is gone.
    Closed,
}

/// Why there is no order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] ControlError),
    /// A packet that is no order.
    #[error(
        "not an order that this device server knows: supervisor and device server are of two versions"
    )]
    Unknown,
    /// Other descriptors than the packet says.
    #[error("an order came with {found} descriptors and not with {expected}")]
    Descriptors {
        /// How many came.
        found: usize,
        /// How many belong to it.
        expected: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WireOrder {
    host: String,
    id: String,
    bar_mmap: bool,
    allow_no_reset: bool,
    allow_noncoherent: bool,
    /// A supervisor that knows nothing of it does not wait for what follows from it.
    #[serde(default)]
    early: bool,
    group: bool,
    iommufd: bool,
}

impl Order {
    /// Sends it. The descriptors stay the caller's.
    pub fn send(
        &self,
        socket: &ControlSocket,
        fds: &OrderFds<BorrowedFd<'_>>,
    ) -> Result<(), ControlError> {
        let wire = WireOrder {
            host: self.host.to_string(),
            id: self.id.clone(),
            bar_mmap: self.bar_mmap,
            allow_no_reset: self.allow_no_reset,
            allow_noncoherent: self.allow_noncoherent,
            early: self.early,
            group: fds.group.is_some(),
            iommufd: fds.iommufd.is_some(),
        };
        let mut list = vec![fds.socket];
        for (first, second) in [fds.group, fds.iommufd].into_iter().flatten() {
            list.extend([first, second]);
        }
        // Strings and booleans always serialize.
        socket.send_with(&serde_json::to_vec(&wire).unwrap_or_default(), &list)
    }

    /// Takes an order, if there is one. Never blocks.
    pub fn receive(socket: &ControlSocket) -> Result<Ordered, OrderError> {
        let (packet, fds) = match socket.receive_all()? {
            Packet::Whole(packet, fds) => (packet, fds),
            Packet::Empty => return Ok(Ordered::Nothing),
            Packet::Closed => return Ok(Ordered::Closed),
        };
        let wire: WireOrder = serde_json::from_slice(&packet).map_err(|_| OrderError::Unknown)?;
        let fds = OrderFds::take(fds, wire.group, wire.iommufd)?;
        let order = Order {
            host: wire.host.parse().map_err(|_| OrderError::Unknown)?,
            id: wire.id,
            bar_mmap: wire.bar_mmap,
            allow_no_reset: wire.allow_no_reset,
            allow_noncoherent: wire.allow_noncoherent,
            early: wire.early,
        };
        Ok(Ordered::Device(order, fds))
    }
}

impl OrderFds<OwnedFd> {
    fn take(fds: Vec<OwnedFd>, group: bool, iommufd: bool) -> Result<Self, OrderError> {
        let pairs = usize::from(group).saturating_add(usize::from(iommufd));
        let (found, expected) = (fds.len(), pairs.saturating_mul(2).saturating_add(1));
        let mut fds = fds.into_iter();
        let (Some(socket), true) = (fds.next(), found == expected) else {
            return Err(OrderError::Descriptors { found, expected });
        };
        let mut pair = |wanted: bool| wanted.then(|| fds.next().zip(fds.next())).flatten();
        Ok(OrderFds {
            socket,
            group: pair(group),
            iommufd: pair(iommufd),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn order() -> Order {
        Order {
            host: "0000:1a:00.3".parse().unwrap(),
            id: "net".to_owned(),
            bar_mmap: true,
            allow_no_reset: false,
            allow_noncoherent: true,
            early: true,
        }
    }

    fn pair() -> (ControlSocket, ControlSocket) {
        let (supervisor, server) = ControlSocket::pair().unwrap();
        (supervisor, ControlSocket::from(server))
    }

    /// Pipes, to tell descriptors apart: what is written to the writer of one comes out of its reader.
    fn pipes(count: usize) -> (Vec<File>, Vec<OwnedFd>) {
        let pipes = (0..count).map(|_| rustix::pipe::pipe().unwrap());
        pipes
            .map(|(reader, writer)| (File::from(reader), writer))
            .unzip()
    }

    fn lend(fds: &[OwnedFd], group: bool, iommufd: bool) -> OrderFds<BorrowedFd<'_>> {
        let mut fds = fds.iter().map(AsFd::as_fd);
        let socket = fds.next().unwrap();
        let group = group.then(|| (fds.next().unwrap(), fds.next().unwrap()));
        let iommufd = iommufd.then(|| (fds.next().unwrap(), fds.next().unwrap()));
        OrderFds {
            socket,
            group,
            iommufd,
        }
    }

    #[test]
    fn order_golden_text() {
        let (supervisor, server) = pair();
        let (_, writers) = pipes(1);
        order()
            .send(&supervisor, &lend(&writers, false, false))
            .unwrap();
        let Packet::Whole(packet, _) = server.receive_all().unwrap() else {
            panic!("a packet expected");
        };
        let text = r#"{"host":"0000:1a:00.3","id":"net","bar-mmap":true,"allow-no-reset":false,"allow-noncoherent":true,"early":true,"group":false,"iommufd":false}"#;
        assert_eq!(String::from_utf8(packet).unwrap(), text);
    }

    #[test]
    fn order_of_a_supervisor_that_knows_of_no_early_client_has_none() {
        let (supervisor, server) = pair();
        let (_, writers) = pipes(1);
        let text = r#"{"host":"0000:1a:00.3","id":"net","bar-mmap":true,"allow-no-reset":false,"allow-noncoherent":true,"group":false,"iommufd":false}"#;
        let fds: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
        supervisor.send_with(text.as_bytes(), &fds).unwrap();
        let Ordered::Device(found, _) = Order::receive(&server).unwrap() else {
            panic!("an order expected");
        };
        let early = false;
        assert_eq!(found, Order { early, ..order() });
    }

    #[test]
    fn order_arrives_with_each_descriptor_in_its_place() {
        for (group, iommufd, count) in [(true, false, 3), (false, true, 3), (true, true, 5)] {
            let (supervisor, server) = pair();
            let (readers, writers) = pipes(count);
            order()
                .send(&supervisor, &lend(&writers, group, iommufd))
                .unwrap();
            drop(writers);
            let Ordered::Device(found, fds) = Order::receive(&server).unwrap() else {
                panic!("an order expected");
            };
            assert_eq!(found, order());
            assert_eq!(
                (fds.group.is_some(), fds.iommufd.is_some()),
                (group, iommufd)
            );
            let pairs = [fds.group, fds.iommufd].into_iter().flatten();
            let all = std::iter::once(fds.socket).chain(pairs.flat_map(<[_; 2]>::from));
            for (number, (mut reader, writer)) in (0_u8..).zip(readers.into_iter().zip(all)) {
                rustix::io::write(&writer, &[number]).unwrap();
                drop(writer);
                let mut found = Vec::new();
                reader.read_to_end(&mut found).unwrap();
                assert_eq!(found, [number]);
            }
        }
    }

    #[test]
    fn order_with_other_descriptors_than_it_says_is_refused_and_closes_them() {
        for (sent, group) in [(1, true), (3, false), (2, true), (0, false)] {
            let (supervisor, server) = pair();
            let (readers, writers) = pipes(sent);
            let text = format!(
                r#"{{"host":"0000:1a:00.3","id":"net","bar-mmap":true,"allow-no-reset":false,"allow-noncoherent":false,"group":{group},"iommufd":false}}"#
            );
            let fds: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
            supervisor.send_with(text.as_bytes(), &fds).unwrap();
            drop(writers);
            let error = Order::receive(&server).unwrap_err();
            assert!(
                matches!(error, OrderError::Descriptors { found, .. } if found == sent),
                "{error}"
            );
            for mut reader in readers {
                assert_eq!(reader.read(&mut [0]).unwrap(), 0, "it is closed");
            }
        }
    }

    #[test]
    fn packet_that_is_no_order_is_an_error_and_closes_what_came_with_it() {
        for text in [
            "x",
            "{}",
            "[]",
            r#"{"host":"0000:1a:00.9","id":"net","bar-mmap":true,"allow-no-reset":false,"allow-noncoherent":false,"group":false,"iommufd":false}"#,
            r#"{"host":"0000:1a:00.3","id":"net","bar-mmap":true,"allow-no-reset":false,"allow-noncoherent":false,"group":false,"iommufd":false,"more":1}"#,
        ] {
            let (supervisor, server) = pair();
            let (mut readers, writers) = pipes(1);
            supervisor
                .send(text.as_bytes(), writers.first().map(AsFd::as_fd))
                .unwrap();
            drop(writers);
            assert!(
                matches!(Order::receive(&server), Err(OrderError::Unknown)),
                "{text}"
            );
            assert_eq!(readers.remove(0).read(&mut [0]).unwrap(), 0, "it is closed");
        }
    }

    #[test]
    fn no_order_yet_and_no_supervisor_are_told_apart() {
        let (supervisor, server) = pair();
        assert!(matches!(Order::receive(&server), Ok(Ordered::Nothing)));
        drop(supervisor);
        assert!(matches!(Order::receive(&server), Ok(Ordered::Closed)));
    }
}
