//! A serial port: where console bytes go and come from.
//!
//! A 16550 (vm-superio) whose interrupt is an eventfd that KVM takes as an edge of its pin. Output goes out from the
//! vCPU that writes it, one byte at a time: a reader that is slow makes the guest slow, as a slow line would, but one that
//! stands still for a second loses what comes until it reads again, and a machine that is being stopped loses the byte
//! instead of waiting. Input comes from the event loop, never more than
//! the receive buffer holds.
//!
//! A Unix socket port serves one client; another one is let in when it has left. Without a client, output is dropped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::closing::is_full;
use protocol::transport::ByteStream;
use rustix::net::SocketFlags;
use vm_superio::Serial;

use self::line::{Interrupt, Line, Output, Reader};
use super::terminal::{EscapeFilter, make_raw};
use crate::address_space::{AddressRange, AddressSpace, Trap};
use crate::event_loop::{EventLoop, Interest, Source, Token};
use crate::kvm::{Gsi, IrqRouting};

mod line;

#[cfg(test)]
mod tests;

/// Address and interrupt of COM1 and COM2.
pub const PORTS: [(AddressRange, Gsi); 2] = [
    (
        AddressRange {
            start: 0x3f8,
            len: 8,
        },
        Gsi(4),
    ),
    (
        AddressRange {
            start: 0x2f8,
            len: 8,
        },
        Gsi(3),
    ),
];
/// Register that takes the byte to send (and, while LCR says so, a part of the divisor).
const TRANSMIT: u64 = 0;
/// Before the next try where a client cannot be let in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Receive buffer of the device.
const BUFFER_BYTES: usize = 64;

/// The two ends of a port on the host's side.
#[derive(Debug)]
pub enum SerialWire {
    /// Standard input and output.
    Stdio {
        /// Where typed bytes come from.
        input: OwnedFd,
        /// Where console bytes go.
        output: OwnedFd,
    },
    /// Output only.
    File(OwnedFd),
    /// A socket that clients connect to.
    Listener(OwnedFd),
    /// A connected socket.
    Stream(OwnedFd),
    /// Nowhere.
    None,
}

/// One serial port of the machine.
pub struct SerialPort {
    device: Mutex<Device>,
    /// Who reads the output, where that is a file.
    reader: Option<Arc<Reader>>,
    line: Arc<Line>,
    /// Bytes typed and where they come from; changed only on the event loop's thread.
    input: Mutex<Input>,
}

type Device = Serial<Interrupt, Arc<Line>, Output>;

#[derive(Default)]
struct Input {
    source: Option<Arc<OwnedFd>>,
    /// Set while the source is watched.
    watched: Option<Token>,
    is_socket: bool,
    escape: Option<EscapeFilter>,
}

impl SerialPort {
    /// Makes port number `index` (0 is COM1) and puts it into the port space. `started` is when the process began, for
    /// the time of the first byte.
    pub fn install(
        index: usize,
        wire: SerialWire,
        ports: &AddressSpace,
        irq: &IrqRouting,
        started: Instant,
    ) -> io::Result<Arc<SerialPort>> {
        let (range, gsi) = PORTS
            .get(index)
            .copied()
            .ok_or(io::ErrorKind::InvalidInput)?;
        let interrupt = Interrupt::new()?;
        irq.attach(interrupt.0.as_fd(), gsi)
            .map_err(io::Error::other)?;
        let port = Arc::new(SerialPort::new(wire, interrupt, started)?);
        ports
            .insert(range, Arc::clone(&port) as Arc<dyn Trap>)
            .map_err(io::Error::other)?;
        Ok(port)
    }

    fn new(wire: SerialWire, interrupt: Interrupt, started: Instant) -> io::Result<SerialPort> {
        let line = Line::new(started)?;
        let mut input = Input::default();
        let mut reader = None;
        let mut read_by = |file| Output::File(Arc::clone(reader.insert(Reader::new(file))));
        let output = match wire {
            SerialWire::Stdio {
                input: source,
                output,
            } => {
                input.escape = make_raw(&source).then(EscapeFilter::default);
                input.source = Some(Arc::new(source));
                read_by(output)
            }
            SerialWire::File(output) => read_by(output),
            SerialWire::Listener(listener) => {
                input.source = Some(Arc::new(listener));
                input.is_socket = true;
                Output::Client(Arc::clone(&line))
            }
            SerialWire::Stream(stream) => {
                *line.lock() = Some(Arc::new(ByteStream::new(stream)));
                input.is_socket = true;
                Output::Client(Arc::clone(&line))
            }
            SerialWire::None => Output::Dropped,
        };
        let device = Mutex::new(Serial::with_events(interrupt, Arc::clone(&line), output));
        Ok(SerialPort {
            device,
            reader,
            line,
            input: Mutex::new(input),
        })
    }

    /// Starts to take input. `on_end` is called when the operator types Ctrl-A x.
    pub fn watch(
        self: &Arc<Self>,
        events: &EventLoop,
        on_end: Arc<dyn Fn() + Send + Sync>,
    ) -> io::Result<()> {
        let port = Arc::clone(self);
        let end = Arc::clone(&on_end);
        let drained = move |events: &EventLoop| {
            let mut counter = [0; 8];
            let _drained = rustix::io::read(&*port.line.drained, &mut counter);
            port.rewatch(events, &end);
        };
        let fd = Arc::clone(&self.line.drained);
        events.add(fd, Interest::Readable, Arc::new(drained))?;
        self.rewatch(events, &on_end);
        Ok(())
    }

    /// Puts the registers back to their state after power-on.
    pub fn reset(&self) {
        // The registers are private to vm-superio; writing what power-on would hold does it. LCR first: it selects the
        // divisor. An interrupt that this raises finds no handler yet.
        for (register, value) in [(3, 0x03), (1, 0), (4, 0x08), (7, 0)] {
            let _written = self.device().write(register, value);
        }
        for _ in 0..BUFFER_BYTES {
            self.device().read(0);
        }
    }

    /// Waits for what comes next: a client, its bytes, or bytes from standard input.
    fn rewatch(self: &Arc<Self>, events: &EventLoop, on_end: &Arc<dyn Fn() + Send + Sync>) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = input.watched.take() {
            events.remove(token);
        }
        let client = self.line.lock().clone().map(|client| client as Source);
        let listener = || input.source.clone().map(|source| source as Source);
        let Some(source) = client.or_else(listener) else {
            return;
        };
        let port = Arc::clone(self);
        let on_end = Arc::clone(on_end);
        let ready = move |events: &EventLoop| port.ready(events, &on_end);
        // Regular files cannot be waited for: such an input simply has nothing to say.
        input.watched = events.add(source, Interest::Readable, Arc::new(ready)).ok();
    }

    fn ready(self: &Arc<Self>, events: &EventLoop, on_end: &Arc<dyn Fn() + Send + Sync>) {
        let client = self.line.lock().clone();
        let (is_socket, room) = (
            self.input
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_socket,
            self.device().fifo_capacity(),
        );
        if is_socket && client.is_none() {
            self.accept();
            self.rewatch(events, on_end);
        } else if room == 0 {
            // Nothing is watched until the guest has read the buffer empty.
            let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(token) = input.watched.take() {
                events.remove(token);
            }
        } else {
            self.take_input(client.as_deref(), room, events, on_end);
        }
    }

    fn take_input(
        self: &Arc<Self>,
        client: Option<&ByteStream>,
        room: usize,
        events: &EventLoop,
        on_end: &Arc<dyn Fn() + Send + Sync>,
    ) {
        // An escape that was held back may add one byte.
        let mut typed = vec![0; room.saturating_sub(1).max(1)];
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match (client, &input.source) {
            (Some(client), _) => client.read(&mut typed),
            (None, Some(source)) => rustix::io::read(&**source, typed.as_mut_slice()),
            (None, None) => Ok(0),
        };
        match result {
            Ok(0) | Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::IO) => {
                if client.is_some() {
                    *self.line.lock() = None;
                } else {
                    input.source = None;
                }
                drop(input);
                self.rewatch(events, on_end);
            }
            Ok(read) => {
                typed.truncate(read);
                let (typed, ended) = match &mut input.escape {
                    Some(escape) => escape.filter(&typed),
                    None => (typed, false),
                };
                // Only an interrupt can fail here, and an eventfd that is full is set already.
                let _queued = self.device().enqueue_raw_bytes(&typed);
                if ended {
                    on_end();
                }
            }
            Err(_) => {}
        }
    }

    fn accept(&self) {
        // Not while nothing that a client sends could be closed again. The listener stays readable.
        if is_full() {
            std::thread::park_timeout(ACCEPT_PAUSE);
            return;
        }
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &input.source
            && let Ok(client) = rustix::net::accept_with(&**listener, SocketFlags::CLOEXEC)
        {
            *self.line.lock() = Some(Arc::new(ByteStream::new(client)));
        }
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trap for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut device = self.device();
        for (byte, register) in data.iter_mut().zip(offset..) {
            *byte = u8::try_from(register).map_or(0xff, |register| device.read(register));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (byte, register) in data.iter().zip(offset..) {
            if register == TRANSMIT
                && let Some(reader) = &self.reader
            {
                reader.wait();
            }
            let mut device = self.device();
            // Output that cannot be written is lost, as on a line that nobody listens to.
            let _written = u8::try_from(register).map(|register| device.write(register, *byte));
        }
    }
}

impl SerialWire {
    /// Whether a socket listens or is connected.
    pub fn from_socket(socket: OwnedFd) -> io::Result<SerialWire> {
        if rustix::net::sockopt::socket_acceptconn(&socket)? {
            // A client may be gone again before it is accepted; that must not stop the event loop.
            rustix::io::ioctl_fionbio(&socket, true)?;
            return Ok(SerialWire::Listener(socket));
        }
        Ok(SerialWire::Stream(socket))
    }
}

impl std::fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}
