//! A server that is started before its device is known, so that `device_add` need not wait for that.
//!
//! It leaves the host first, as far as that does not depend on the device, and then waits for its supervisor to name one. What it opens it is
//! given: it needs no file system and no privilege for that. The filter of system calls comes last, as with any server; but the device may
//! still be being opened then (`opener`).
//! While it waits it holds no device, reads nothing but the order, and is called `WAITS`.
//! Limits: one order, of one device.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signalfd::SignalFd;
use protocol::supervisor::{ControlSocket, Order, OrderFds, Ordered};
use rustix::event::{PollFd, PollFlags};
use sandbox::enter;
use sandbox::roles::vfio;
use telemetry::service::Notifier;

use crate::cli::Spare;
use crate::program_pages;
use crate::ready::ReadyLine;
use crate::serving::Held;

use super::ahead::Ahead;
use super::opener::Opener;
use super::{
    Confined, RunError, adopt, block_signals, clients, log_to_file, opening, set_up, warn_if_off,
};

/// The name of a process that waits, and of one that has its order: what `ps -o comm` shows.
const WAITS: &CStr = c"bulkhead-spare";
const SERVES: &CStr = c"bulkhead-server";
/// How many devices an order names.
const DEVICES: usize = 1;

/// Waits for an order, and serves its device. Ends without one when the supervisor has gone or a signal comes.
pub fn run(spare: Spare, ready: &mut Option<ReadyLine>) -> Result<(), RunError> {
    // 1. What is the same for every device, as in `super::run`.
    let signals = block_signals().map_err(|source| set_up("block SIGTERM and SIGINT", source))?;
    let orders = ControlSocket::from(adopt("--order-fd", spare.order_fd)?);
    let options = spare.options;
    let clients = clients(&spare.process, options.sandbox.sandbox)?;
    let manager = Notifier::connect()
        .map_err(|source| set_up("reach the service manager (NOTIFY_SOCKET)", source))?;
    // What a library reads once, from /proc on Linux before 6.4, and a device is described with.
    let _known = rustix::param::page_size();
    // 2. Give up the host.
    let start = options.sandbox.into();
    warn_if_off(start);
    let power = vfio::power(
        DEVICES,
        options.max_locked_memory,
        log_to_file()?,
        Vec::new(),
    );
    let sandbox = enter::leave_host(&power, start)?;
    let ahead = Ahead::make(options.iommu_backend);
    let held = Held::start(DEVICES).and_then(Held::with_a_device);
    let held = held.map_err(|source| set_up("start a thread", source))?;
    let opener = Opener::start().map_err(|source| set_up("start a thread", source))?;
    // 3. Wait, with as little memory as can be.
    name(WAITS);
    program_pages::let_go();
    let Some((mut order, fds)) = wait(&orders, &signals)? else {
        return Ok(());
    };
    order.early &= spare.early;
    name(SERVES);
    // 4. Open the device, or prepare for that.
    let _device = telemetry::device::span(&order.id, &order.host.to_string()).entered();
    tracing::debug!("The order of the supervisor is here");
    held.name(&order.id, &order.host.to_string());
    let ordered = opening::open_ordered(order, fds, options.iommu_backend, &clients)?;
    let opening = ordered.unopened.map(|unopened| opener.open(unopened));
    // Not before: its number would be free for what was opened (see `ahead`).
    drop(orders);
    // 5. The rest is as with any server.
    let confined = Confined {
        signals,
        sandbox,
        filtering: ahead.take(&ordered.descriptors),
        served: vec![ordered.served],
        opening,
        held: Some(held),
        exporter: None,
        files: Vec::new(),
        manager,
    };
    confined.serve(ready)
}

/// Until there is an order.
fn wait(
    orders: &ControlSocket,
    signals: &SignalFd,
) -> Result<Option<(Order, OrderFds<OwnedFd>)>, RunError> {
    loop {
        let mut poll = [
            PollFd::from_borrowed_fd(orders.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut poll, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(set_up("wait for an order", errno.into())),
        }
        let [_, signal] = &poll;
        if !signal.revents().is_empty() {
            return Ok(None);
        }
        match Order::receive(orders)? {
            Ordered::Device(order, fds) => return Ok(Some((order, fds))),
            Ordered::Nothing => {}
            Ordered::Closed => return Ok(None),
        }
    }
}

fn name(name: &CStr) {
    // Only people look at it.
    let _ = rustix::thread::set_name(name);
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::SfdFlags;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// Signals that never come, unless a test raises one for its own thread.
    fn signals() -> SignalFd {
        let mut set = SigSet::empty();
        set.add(Signal::SIGUSR1);
        set.thread_block().unwrap();
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).unwrap()
    }

    fn pair() -> (ControlSocket, ControlSocket) {
        let (supervisor, server) = ControlSocket::pair().unwrap();
        (supervisor, server.into())
    }

    #[test]
    fn order_ends_the_wait() {
        let (supervisor, server) = pair();
        let order = Order {
            host: "0000:1a:00.3".parse().unwrap(),
            id: "net".to_owned(),
            bar_mmap: false,
            allow_no_reset: false,
            allow_noncoherent: false,
            early: false,
        };
        let (socket, _client) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let fds = OrderFds {
            socket: socket.as_fd(),
            group: None,
            iommufd: None,
        };
        order.send(&supervisor, &fds).unwrap();
        let (found, _) = wait(&server, &signals()).unwrap().unwrap();
        assert_eq!(found, order);
    }

    #[test]
    fn supervisor_that_has_gone_ends_the_wait() {
        let (supervisor, server) = pair();
        drop(supervisor);
        assert!(wait(&server, &signals()).unwrap().is_none());
    }

    #[test]
    fn signal_ends_the_wait() {
        let (_supervisor, server) = pair();
        let signals = signals();
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        assert!(wait(&server, &signals).unwrap().is_none());
    }

    #[test]
    fn packet_that_is_no_order_is_an_error() {
        let (supervisor, server) = pair();
        supervisor.send(b"hello", None).unwrap();
        let error = wait(&server, &signals()).unwrap_err().to_string();
        assert_eq!(error, "take the order of the supervisor");
    }
}
