//! What the server sends unasked: its requests, on the main socket or on the twin, and the end of the stream.

use super::engine::{Engine, Twin, lock};
use super::error::LostCause;
use super::serve::Served;
use super::session::{Action, Event, Socket};
use crate::frame::Frame;
use crate::limits;
use crate::transport::{FrameSender, Outgoing, Patience, RecvError, StreamSocket, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::os::fd::OwnedFd;

impl Engine {
    /// Answers one request of the server.
    pub(super) fn serve(
        &self,
        frame: &Frame<'_>,
        sender: &FrameSender,
        patience: Patience,
    ) -> Result<(), LostCause> {
        let command = frame.header.command;
        self.counters.count(command);
        let mut scratch = self.dma.scratch();
        let Served {
            flags,
            error,
            head,
            data,
        } = self.dma.serve(frame, &mut scratch);
        if frame.header.flags.no_reply() {
            return Ok(());
        }
        let message = Outgoing {
            id: frame.header.id,
            command,
            flags,
            error,
            head,
            data,
            fds: &[],
        };
        let sent = sender.send(&message, patience);
        sent.map_err(|error| self.lose(Event::Send { error, command }))
    }

    /// Answers what came on the twin socket; does not wait for more.
    pub(super) fn serve_twin(&self, twin: &Twin, patience: Patience) -> Result<(), LostCause> {
        let mut receiver = lock(&twin.receiver);
        for _ in 0..limits::MAX_SERVED_PER_CALL {
            let header = match receiver.wait(Wait::Now) {
                Ok(header) => header,
                Err(RecvError::NotYet) => return Ok(()),
                Err(error) => {
                    receiver.close_fds();
                    return Err(self.lose(Event::Receive {
                        error,
                        command: None,
                    }));
                }
            };
            let event = Event::Message {
                header,
                socket: Socket::Twin,
                fds: receiver.fd_count(),
                awaited: false,
            };
            if let Action::Lose(cause) = self.judge(event) {
                // The client may be kept for long.
                receiver.close_fds();
                return Err(cause);
            }
            self.serve(&receiver.take(header), &twin.sender, patience)?;
        }
        Ok(())
    }

    /// Answers what came, without waiting for anything. A server that asks and does not take the answers is lost at
    /// once: one thread may do this for many devices.
    pub(super) fn service(&self) -> Result<(), LostCause> {
        if let Some(cause) = self.lost() {
            return Err(cause);
        }
        if self.clock_has_ticked()? {
            self.in_flight.tick();
            self.look_for_late_ones()?;
        }
        if let Some(twin) = &self.twin {
            self.serve_twin(twin, Patience::None)?;
        }
        self.read_what_came()
    }

    /// From now on reads do not end by themselves: the timer makes the event loop call `service`, which looks.
    pub(super) fn rely_on_service(&self) -> Result<(), Errno> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &watch_period())?;
        epoll::add(
            &self.watch,
            &timer,
            epoll::EventData::new_u64(2),
            epoll::EventFlags::IN,
        )?;
        if self.twin.is_some() {
            // An end of the stream shows on the twin, too, and at the latest when the clock ticks and `service` reads. To be
            // watched costs an access a thirtieth.
            epoll::delete(&self.watch, &self.socket)?;
        }
        // In this order: a read that still relies on the socket's timer, and finds it gone, is one that `service` minds.
        self.clock.set(timer).map_err(|_| Errno::ALREADY)?;
        self.socket.remove_receive_timeout()
    }

    fn clock_has_ticked(&self) -> Result<bool, LostCause> {
        let Some(timer) = self.clock.get() else {
            return Ok(false);
        };
        let mut ticked = [PollFd::new(timer, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut ticked, Some(&now)) != Ok(1) {
            return Ok(false);
        }
        // Setting it anew takes its ticks away without a read: a client in its jail reads no descriptor that it got late.
        let set = timerfd_settime(timer, TimerfdTimerFlags::empty(), &watch_period());
        set.map_err(|errno| {
            self.lose(Event::Receive {
                error: RecvError::Io(errno),
                command: None,
            })
        })?;
        Ok(true)
    }

    /// Loses the device if a request in flight is late.
    pub(super) fn look_for_late_ones(&self) -> Result<(), LostCause> {
        match self.in_flight.late() {
            Some(command) => Err(self.lose(Event::Late { command })),
            None => Ok(()),
        }
    }
}

fn watch_period() -> Itimerspec {
    let period = Timespec {
        tv_sec: limits::WATCH_PERIOD.as_secs().cast_signed(),
        tv_nsec: limits::WATCH_PERIOD.subsec_nanos().into(),
    };
    Itimerspec {
        it_interval: period,
        it_value: period,
    }
}

/// An epoll that is readable when `service` has something to do. Answers to requests do not count where the server
/// cannot send requests: every access would wake the event loop.
pub(super) fn watch(
    main: &StreamSocket,
    twin: Option<&Twin>,
    requests_on_main: bool,
) -> Result<OwnedFd, Errno> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut events = epoll::EventFlags::RDHUP;
    if requests_on_main {
        events |= epoll::EventFlags::IN;
    }
    epoll::add(&watch, main, epoll::EventData::new_u64(0), events)?;
    if let Some(twin) = twin {
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&watch, &twin.socket, epoll::EventData::new_u64(1), events)?;
    }
    Ok(watch)
}
