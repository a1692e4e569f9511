//! One client's session: wait, give the request to the device, answer.
//!
//! The thread blocks in the read of the next message, so that a register access costs two system calls. What else can
//! happen meanwhile: shutdown, which ends the connection from outside; and an event of the device itself
//! (`EventSource`), for which the thread polls, but only while the device has such a thing.

use std::fmt;
use std::time::Instant;

use protocol::limits;
use protocol::messages::write_multi::WriteMultiEntry;
use protocol::server::{CloseReason, Connection, DmaError, Event, Request, RequestToken};
use protocol::transport::SocketError;
use protocol::{BadField, Command, Errno, Iova, ReceivedFd, Refusal, Reply};
use rustix::event::{PollFd, PollFlags};

use crate::backend::{Backend, MessageDma};
use crate::server::ServeConfig;
use crate::server::dispatch::{Dispatcher, Refused, Write};
use crate::server::notices::Notices;
use crate::server::shutdown::{Shutdown, Watched};

/// A client that is connected.
pub(super) struct Session<'s> {
    connection: Connection,
    config: &'s ServeConfig,
    shutdown: &'s Shutdown,
    /// Ends the connection when the process is told to stop.
    _watched: Watched<'s>,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The connection is over.
    Closed(CloseReason),
    /// The process is told to stop.
    Shutdown,
    /// The device may still reach memory that the client took back.
    DeviceKeptMemory,
    /// The device or the socket cannot be waited for.
    Wait(Errno),
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Closed(reason) => write!(formatter, "{reason}"),
            Ending::Shutdown => formatter.write_str("the process is told to stop"),
            Ending::DeviceKeptMemory => {
                formatter.write_str("the device could not let go of memory of the client")
            }
            Ending::Wait(errno) => write!(formatter, "poll failed: {errno}"),
        }
    }
}

impl<'s> Session<'s> {
    /// Takes over a connected socket.
    pub(super) fn new(
        stream: ReceivedFd,
        config: &'s ServeConfig,
        shutdown: &'s Shutdown,
    ) -> Result<Session<'s>, SocketError> {
        let connection = Connection::new(stream, config.connection())?;
        let watched = shutdown.watch(connection.socket().clone());
        Ok(Session {
            connection,
            config,
            shutdown,
            _watched: watched,
        })
    }

    /// Serves the client until the connection is over. The caller makes the device forget it.
    pub(super) fn run(mut self, backend: &mut dyn Backend) -> Ending {
        let max_dma_maps = usize::try_from(self.config.max_dma_maps).unwrap_or(usize::MAX);
        let mut dispatcher = Dispatcher::new(backend, max_dma_maps);
        let mut notices = Notices::new(self.config.names());
        let ending = self.serve(&mut dispatcher, &mut notices);
        notices.sum_up();
        ending
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`dispatch` names every command; only writes need the connection free"
    )]
    fn serve(&mut self, dispatcher: &mut Dispatcher<'_>, notices: &mut Notices<'_>) -> Ending {
        // Kept from message to message, as the connection keeps its buffers.
        let (mut copy, mut copies) = (Vec::new(), Vec::new());
        loop {
            if let Err(errno) = self.serve_events(dispatcher.backend()) {
                return Ending::Wait(errno);
            }
            let event = self.connection.next_event();
            let counted = self.config.metrics.as_ref();
            let counted = counted.map(|metrics| (metrics, Instant::now()));
            let (token, result) = match event {
                Event::Refused(refusal) => {
                    let Refusal {
                        errno,
                        field,
                        value,
                        ..
                    } = refusal;
                    if let Some((metrics, _)) = counted {
                        metrics.request_refused(refusal.command);
                    }
                    notices.refused(
                        refusal.command,
                        BadField {
                            errno,
                            field,
                            value,
                        },
                    );
                    continue;
                }
                Event::Closed(reason) => return self.ending(reason),
                Event::Request(Request { token, command }) => match command {
                    Command::RegionWrite(write) => {
                        copy.clear();
                        copy.extend_from_slice(write.data);
                        let (region, offset) = (write.region, write.offset);
                        let write = Write {
                            region,
                            offset,
                            data: &copy,
                        };
                        (
                            token,
                            dispatcher.region_write(write, &mut ClientMemory(&mut self.connection)),
                        )
                    }
                    Command::RegionWriteMulti(writes) => {
                        copies.clear();
                        copies.extend(writes.entries().map(CopiedWrite::of));
                        let writes = copies.iter().map(CopiedWrite::borrow);
                        let messages = &mut ClientMemory(&mut self.connection);
                        (token, dispatcher.region_write_multi(writes, messages))
                    }
                    other => (token, dispatcher.dispatch(other)),
                },
            };
            // Before the answer: a client that has it finds its request counted.
            if let Some((metrics, began)) = counted {
                metrics.request_answered(token.command(), result.is_ok(), began.elapsed());
            }
            if let Err(ending) = answer(&mut self.connection, token, result, notices) {
                return ending;
            }
        }
    }

    fn ending(&self, reason: CloseReason) -> Ending {
        if self.shutdown.requested() {
            Ending::Shutdown
        } else {
            Ending::Closed(reason)
        }
    }

    /// Lets the device handle its own events until the client has sent something.
    fn serve_events(&self, backend: &mut dyn Backend) -> Result<(), Errno> {
        if self.connection.agreement().is_none() {
            // Before VERSION only the connection itself knows how long the client may still take.
            return Ok(());
        }
        while let Some(source) = backend.event_source() {
            let Some(fd) = source.readable_fd() else {
                return Ok(());
            };
            if self.connection.has_begun() {
                return Ok(());
            }
            let mut poll = [
                PollFd::new(self.connection.socket(), PollFlags::IN),
                PollFd::from_borrowed_fd(fd, PollFlags::IN),
            ];
            match rustix::event::poll(&mut poll, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let [client, device] = poll.map(|entry| !entry.revents().is_empty());
            if device {
                source.handle();
            }
            if client {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Sends the reply to a request, or the errno of its refusal.
fn answer(
    connection: &mut Connection,
    token: RequestToken,
    result: Result<Reply<'_>, Refused>,
    notices: &mut Notices<'_>,
) -> Result<(), Ending> {
    match result {
        Ok(reply) => connection.reply(token, reply).map_err(Ending::Closed),
        Err(refused) => {
            notices.refused(token.command(), refused.bad);
            connection
                .reply(token, Reply::Error(refused.bad.errno))
                .map_err(Ending::Closed)?;
            if refused.end_session {
                Err(Ending::DeviceKeptMemory)
            } else {
                Ok(())
            }
        }
    }
}

/// Client memory by DMA_READ and DMA_WRITE on the connection of the session.
struct ClientMemory<'c>(&'c mut Connection);

impl MessageDma for ClientMemory<'_> {
    fn read(&mut self, iova: Iova, data: &mut [u8]) -> Result<(), Errno> {
        self.0.dma_read(iova, data).map_err(dma_errno)
    }

    fn write(&mut self, iova: Iova, data: &[u8]) -> Result<(), Errno> {
        self.0.dma_write(iova, data).map_err(dma_errno)
    }
}

fn dma_errno(error: DmaError) -> Errno {
    match error {
        DmaError::Refused(errno) => errno,
        DmaError::Range => Errno::INVAL,
        DmaError::Closed(_) => Errno::IO,
    }
}

/// One write of a REGION_WRITE_MULTI, copied out of its message.
struct CopiedWrite {
    region: protocol::RegionIndex,
    offset: u64,
    data: [u8; limits::MAX_WRITE_MULTI_BYTES as usize],
    count: usize,
}

impl CopiedWrite {
    fn of(entry: WriteMultiEntry<'_>) -> CopiedWrite {
        let mut data = [0; limits::MAX_WRITE_MULTI_BYTES as usize];
        for (copy, byte) in data.iter_mut().zip(entry.data) {
            *copy = *byte;
        }
        CopiedWrite {
            region: entry.region,
            offset: entry.offset,
            count: entry.data.len(),
            data,
        }
    }

    fn borrow(&self) -> Write<'_> {
        Write {
            region: self.region,
            offset: self.offset,
            // Decoding has bounded the count.
            data: self.data.get(..self.count).unwrap_or(&self.data),
        }
    }
}
