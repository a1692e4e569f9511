//! What a serial port is wired to: its interrupt, its output, and what the two directions share.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use protocol::transport::ByteStream;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::SendFlags;
use vm_superio::serial::SerialEvents;

/// What the two directions share.
pub(super) struct Line {
    /// The client of a socket port.
    pub(super) client: Mutex<Option<Arc<ByteStream>>>,
    /// Set when the receive buffer has run empty.
    pub(super) drained: Arc<OwnedFd>,
    started: Instant,
    first_byte: Once,
}

pub(super) struct Interrupt(pub(super) OwnedFd);

/// How long a reader of the output may stand still before it loses bytes.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The file that console bytes go to, and whether its reader keeps up.
pub(super) struct Reader {
    file: File,
    stalled: AtomicBool,
}

pub(super) enum Output {
    File(Arc<Reader>),
    Client(Arc<Line>),
    Dropped,
}

impl Interrupt {
    pub(super) fn new() -> io::Result<Interrupt> {
        Ok(Interrupt(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }
}

impl Reader {
    pub(super) fn new(file: OwnedFd) -> Arc<Reader> {
        Arc::new(Reader {
            file: File::from(file),
            stalled: AtomicBool::new(false),
        })
    }

    /// Waits until a byte can be written. A reader that stood still once is not waited for until it reads again; a kick (the
    /// machine is being stopped) ends the wait too. Called without a lock: input goes on meanwhile.
    pub(super) fn wait(&self) {
        let patience = if self.stalled.load(Ordering::Relaxed) {
            Timespec::default()
        } else {
            PATIENCE
        };
        let mut wanted = [PollFd::new(&self.file, PollFlags::OUT)];
        let ready = poll(&mut wanted, Some(&patience)).is_ok_and(|count| count > 0);
        self.stalled.store(!ready, Ordering::Relaxed);
    }
}

impl vm_superio::Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // Full: the interrupt is pending.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Line {
    pub(super) fn new(started: Instant) -> io::Result<Arc<Line>> {
        let drained = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Line {
            client: Mutex::new(None),
            drained: Arc::new(drained),
            started,
            first_byte: Once::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Arc<ByteStream>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SerialEvents for Line {
    fn buffer_read(&self) {}

    fn out_byte(&self) {
        self.first_byte.call_once(|| {
            let ms = self.started.elapsed().as_secs_f64() * 1000.0;
            tracing::info!(stage = "first-serial-byte", ms, "first byte from the guest");
        });
    }

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        let _woken = rustix::io::write(&*self.drained, &1u64.to_ne_bytes());
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Output::File(reader) if reader.stalled.load(Ordering::Relaxed) => Ok(data.len()),
            Output::File(reader) => match (&reader.file).write(data) {
                // A kick: the machine is being stopped while its reader sleeps.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(data.len()),
                result => result,
            },
            Output::Client(line) => {
                let client = line.lock().clone();
                if let Some(client) = client {
                    // A client that does not read loses bytes.
                    let _sent = rustix::net::send(
                        &*client,
                        data,
                        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                    );
                }
                Ok(data.len())
            }
            Output::Dropped => Ok(data.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
