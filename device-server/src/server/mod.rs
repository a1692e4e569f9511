//! Serves one device to one client after another over vfio-user. Knows no concrete device and no process.
//!
//! `serve` owns the device for as long as it is served: accept, check who it is (`peer`), run the session
//! (`session`, which gives each request to `dispatch`), and make the device forget the client. The wire itself,
//! negotiation, framing, decoding and deadlines are `protocol::server`.
//! Limits: one client at a time; the others wait in the backlog of the listening socket.

mod session;
mod dispatch;
mod checks;
mod notices;
mod peer;
pub mod listener;
pub mod shutdown;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use protocol::messages::version::{Capabilities, TwinSocket};
use protocol::server::{ServerConfig, ServerDeadlines};
use protocol::{Errno, ReceivedFd, closing, limits};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::backend::Backend;
use crate::metrics::DeviceMetrics;
use crate::server::listener::Listener;
pub use crate::server::peer::Clients;
use crate::server::session::Session;
pub use crate::server::shutdown::Shutdown;

/// Pause before a client is accepted again when the host had no descriptor or memory for it.
const RESOURCE_RETRY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// How long the client of an inherited connection may take to say VERSION. It keeps nobody else waiting, and a VMM that
/// was started together with this process may first have to provide the memory of a large guest.
const INHERITED_NEGOTIATION: Duration = Duration::from_secs(300);

/// How one device is served.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// What the log calls the device.
    pub device: String,
    /// Its PCI address, or `telemetry::device::UNKNOWN`.
    pub pci: String,
    /// DMA maps that a client may have at the same time.
    pub max_dma_maps: u32,
    /// How long a client may take to say VERSION.
    pub negotiation: Duration,
    /// Let a client have a second socket for the messages by which the device reaches its memory.
    pub twin_socket: bool,
    /// Who is served on a listening socket.
    pub clients: Clients,
    /// What is counted, if anything is.
    pub metrics: Option<DeviceMetrics>,
}

/// Where clients come from.
#[derive(Debug)]
pub enum Source {
    /// One after another, from a socket that they connect to.
    Listening(Listener),
    /// One client, connected already. Whoever passed it has chosen the client: it is not asked who it is.
    Connected(OwnedFd),
}

/// Why a device is not served any longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No client can be accepted.
    #[error("accept a client of {device}")]
    Accept {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device could not be made to forget a client: the next one would inherit what the last one left.
    #[error("take {device} back from its client: it is not given to another")]
    TakeBack {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ServeConfig {
    /// With as many DMA maps as `protocol::limits` allows.
    pub fn new(
        (device, pci): (String, String),
        twin_socket: bool,
        clients: Clients,
        metrics: Option<DeviceMetrics>,
    ) -> ServeConfig {
        ServeConfig {
            device,
            pci,
            metrics,
            clients,
            max_dma_maps: limits::MAX_DMA_MAPS,
            negotiation: limits::NEGOTIATION_DEADLINE,
            twin_socket,
        }
    }

    /// The id and the PCI address of the device.
    pub fn names(&self) -> (&str, &str) {
        (&self.device, &self.pci)
    }

    fn count(&self, what: impl FnOnce(&DeviceMetrics)) {
        if let Some(metrics) = &self.metrics {
            what(metrics);
        }
    }

    fn connection(&self) -> ServerConfig {
        let twin_socket = if self.twin_socket {
            TwinSocket::Supported
        } else {
            TwinSocket::Unsupported
        };
        let capabilities = Capabilities {
            max_dma_maps: self.max_dma_maps,
            twin_socket,
            ..Capabilities::OURS
        };
        let standard = ServerConfig::standard();
        let deadlines = ServerDeadlines {
            negotiation: self.negotiation,
            ..standard.deadlines
        };
        ServerConfig {
            capabilities,
            deadlines,
        }
    }
}

impl Source {
    /// Judges an inherited socket: listening, or connected.
    pub fn from_inherited(socket: OwnedFd) -> io::Result<Source> {
        let is_unix_stream = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        if !is_unix_stream {
            let text = "the descriptor is not a Unix stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if sockopt::socket_acceptconn(&socket)? {
            return Ok(Source::Listening(Listener::from_listening(socket)?));
        }
        Ok(Source::Connected(socket))
    }
}

/// Serves the device until shutdown is requested, or, with a connected socket, until its client is gone.
pub fn serve(
    source: Source,
    mut backend: Box<dyn Backend>,
    config: &ServeConfig,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    match source {
        Source::Connected(stream) => {
            let patient = ServeConfig {
                negotiation: INHERITED_NEGOTIATION,
                ..config.clone()
            };
            serve_client(stream.into(), &mut *backend, &patient, shutdown)
        }
        Source::Listening(listener) => {
            while let Some(stream) = next_client(&listener, config, shutdown)? {
                if config.clients.admit(stream.as_fd(), config.names()) {
                    serve_client(stream, &mut *backend, config, shutdown)?;
                } else {
                    config.count(DeviceMetrics::client_refused);
                }
            }
            Ok(())
        }
    }
}

/// Waits for a client, or for the order to stop.
fn next_client(
    listener: &Listener,
    config: &ServeConfig,
    shutdown: &Shutdown,
) -> Result<Option<ReceivedFd>, ServeError> {
    let failed = |errno: Errno| ServeError::Accept {
        device: config.device.clone(),
        source: errno.into(),
    };
    loop {
        wait_for_closing(shutdown);
        let mut poll = [
            PollFd::new(shutdown, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match rustix::event::poll(&mut poll, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let [stop, _] = &poll;
        if !stop.revents().is_empty() {
            return Ok(None);
        }
        match listener.accept() {
            Ok(Some(stream)) => return Ok(Some(stream.into())),
            Ok(None) => {}
            // The host is short of something for a moment; the client waits in the backlog.
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                tracing::warn!(%errno, "A client cannot be accepted yet");
                wait_for_resources(shutdown);
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Waits while nothing that a client sends could be closed again, or until shutdown is requested.
fn wait_for_closing(shutdown: &Shutdown) {
    if !closing::is_full() {
        return;
    }
    tracing::error!(
        clients = limits::CLOSING_THREADS,
        "No client is accepted: file descriptors that earlier ones sent do not close. End the process of their file system \
         (/sys/fs/fuse/connections/N/abort)"
    );
    while closing::is_full() && !shutdown.requested() {
        closing::interrupt();
        wait_for_resources(shutdown);
    }
    tracing::info!("Clients are accepted again");
}

/// Waits a while, or until shutdown is requested.
fn wait_for_resources(shutdown: &Shutdown) {
    let mut poll = [PollFd::new(shutdown, PollFlags::IN)];
    // Whatever ends the wait, the caller looks at everything again.
    let _ = rustix::event::poll(&mut poll, Some(&RESOURCE_RETRY));
}

/// One client from its first byte until the device has forgotten it.
fn serve_client(
    stream: ReceivedFd,
    backend: &mut dyn Backend,
    config: &ServeConfig,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    match Session::new(stream, config, shutdown) {
        Ok(session) => {
            tracing::info!("A client is served");
            config.count(DeviceMetrics::client_came);
            let ending = session.run(backend);
            config.count(DeviceMetrics::client_left);
            tracing::info!(%ending, "The client is gone");
        }
        Err(error) => {
            tracing::warn!(%error, "A client cannot be served");
        }
    }
    backend.client_gone().map_err(|errno| ServeError::TakeBack {
        device: config.device.clone(),
        source: errno.into(),
    })
}
