//! Descriptors whose closing lasts as long as who made them likes, to either side: they cost who sends them, and nobody else.
//!
//! While a file is there that cannot be closed no process may be started: it would inherit the file, and never come to its program.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::bending_relay::Step;
use harness::deadline::{PROCESS, eventually};
use harness::device_server::DeviceServer;
use harness::raw_message::RawMessage;
use harness::raw_peer::unharmed::Held;
use harness::raw_peer::{RawPeer, bytes, fuse, lingering};
use harness::scratch::Scratch;
use protocol::Errno;
use protocol::limits::{CLOSE_DEADLINE, CLOSING_THREADS};

use crate::machine::{ID, ONES, Setup};

const VERSION: u16 = 1;
const SET_IRQS: u16 = 8;
const READ: u16 = 9;
const MSIX: u32 = 2;

/// A file that cannot be closed, where this machine can have one.
fn unclosable_file() -> Option<fuse::Held> {
    match fuse::unclosable_file() {
        Ok(file) => Some(file),
        Err(error) => {
            eprintln!("not sent: this machine has no file of FUSE ({error})");
            None
        }
    }
}

/// A server, the path of its socket, and what it holds.
fn server(scratch: &Scratch) -> Result<(DeviceServer, String, Held)> {
    let socket = scratch.file("server.sock");
    let server = DeviceServer::start(&["test", "--socket", &socket])?;
    let before = Held::by(&[server.pid()])?;
    Ok((server, socket, before))
}

/// Sends the file where an eventfd belongs.
fn bind(peer: &RawPeer, file: &fuse::Held) {
    let body = bytes::set_irqs(4 | 32, MSIX, 0, 1, &[]);
    let message = bytes::message(peer.id(), SET_IRQS, 0, &body);
    peer.send_with_fds(&message, &[file.as_fd()]);
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn f06_file_that_does_not_close_costs_its_connection_the_deadline_once() -> Result<()> {
    let scratch = Scratch::new()?;
    let (server, socket, before) = server(&scratch)?;
    let Some(file) = unclosable_file() else {
        return Ok(());
    };
    let peer = RawPeer::negotiated(&socket);
    let begun = Instant::now();
    bind(&peer, &file);
    peer.recv().failed(Errno::INVAL);
    ensure!(begun.elapsed() >= CLOSE_DEADLINE, "{:?}", begun.elapsed());
    peer.is_closed();
    before.by_server_after(socket.as_ref(), peer);
    file.release();
    ensure!(server.stop()?.success(), "it ends as it should");
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn f06_next_client_is_served_until_every_thread_that_closes_is_held() -> Result<()> {
    let scratch = Scratch::new()?;
    let (server, socket, before) = server(&scratch)?;
    let Some(file) = unclosable_file() else {
        return Ok(());
    };
    for _ in 0..CLOSING_THREADS {
        let peer = RawPeer::negotiated(&socket);
        bind(&peer, &file);
        peer.recv().failed(Errno::INVAL);
    }
    // The next one waits: what it sent could not be closed again.
    let next = RawPeer::connect(&socket);
    let version = bytes::version(0, 1, "{}");
    next.send(&bytes::message(
        next.id(),
        VERSION,
        bytes::COMMAND,
        &version,
    ));
    ensure!(!next.is_answered_within(CLOSE_DEADLINE / 5), "it is served");
    eventually("the log says so", PROCESS, || {
        server.log().contains("No client is accepted").then_some(())
    })?;
    file.release();
    next.recv().succeeded();
    before.by_server_after(socket.as_ref(), next);
    Ok(())
}

/// The answer with a descriptor that the VMM alone has when the answer is whole.
fn with_lingering_socket(
    mut reply: RawMessage,
    keep: &mut Vec<std::net::TcpStream>,
) -> Result<Vec<Step>> {
    let (socket, reader) = lingering::tcp_socket()?;
    keep.push(reader);
    let rest = RawMessage {
        bytes: reply.bytes.split_off(8),
        fds: Vec::new(),
    };
    reply.fds.push(socket);
    Ok(vec![Step::Send(reply), Step::Send(rest)])
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s22_socket_that_lingers_with_an_answer_holds_up_no_virtual_cpu() -> Result<()> {
    let mut readers = Vec::new();
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let bend = move |_: &RawMessage, reply: RawMessage| {
        if reply.command() == READ && is_armed.load(Ordering::Acquire) {
            return with_lingering_socket(reply, &mut readers);
        }
        Ok(vec![Step::Send(reply)])
    };
    let mut machine = Setup::new(&[])?.attached(bend)?;
    armed.store(true, Ordering::Release);
    for _ in 0..3 {
        machine.is_in_step()?;
    }
    Ok(())
}

/// A file that a relay sends once it is there. This process must not end while the relay has it.
#[derive(Default)]
struct Lent(Arc<Mutex<Option<Arc<fuse::Held>>>>);

impl Lent {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<fuse::Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(file) = self.lock().take() else {
            return;
        };
        file.release();
        let alone = || (Arc::strong_count(&file) == 1).then_some(());
        if let Err(error) = eventually("the relay lets go of the file", PROCESS, alone) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm: scripts/test"]
fn s22_file_that_does_not_close_costs_the_server_its_device() -> Result<()> {
    let lent = Lent::default();
    let sent = Arc::clone(&lent.0);
    let bend = move |_: &RawMessage, reply: RawMessage| {
        let file = sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(vec![match file.filter(|_| reply.command() == READ) {
            Some(file) => Step::SendWith(reply, file),
            None => Step::Send(reply),
        }])
    };
    let mut machine = Setup::new(&[])?.attached(bend)?;
    let Some(made) = unclosable_file() else {
        return Ok(());
    };
    *lent.lock() = Some(Arc::new(made));
    let begun = Instant::now();
    machine.register(ID).context("the first, which brings it")?;
    ensure!(
        begun.elapsed() < CLOSE_DEADLINE + Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    ensure!(machine.register(ID)? == ONES, "{}", machine.log());
    machine.has_lost_the_device()?;
    // Before the VM is killed, which could not end.
    drop(lent);
    Ok(())
}
