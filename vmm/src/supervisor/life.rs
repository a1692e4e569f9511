//! The life of one device server and of what it held: what happens when. Pure; the doing is in `server`.
//!
//! A server ends by itself once its sockets are closed. It is killed when it does not, or never got ready. Its end is not the
//! end of the matter: a mapping of a BAR that is left in the VMM keeps the device, its bus mastering and its DMA alive. So the
//! host has its devices back only when the kernel says that their group is free; a VMM that keeps it has its DMA stopped,
//! and is killed.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::deadline;

/// Where a device server is in its life, and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Opens and resets its devices; its ready line is awaited. The VMM may have its sockets already.
    Starting,
    /// The VMM has its sockets.
    Serving,
    /// Its sockets are closed: it resets its devices and exits.
    Ending,
    /// It was sent SIGKILL.
    Killed,
    /// It was killed and does not end: it is stuck in the kernel.
    Stuck,
    /// It has ended; the VMM has not said that it let go of the devices.
    Orphaned(Pressure),
    /// It has ended, and the VMM says that it let go: the kernel's word is awaited.
    Freeing(Pressure),
    /// It has ended and the group is free, before the VMM said anything.
    Back {
        /// Whether the devices were reset, as far as is known.
        clean: bool,
    },
    /// The group is free, but the server could not take its devices back as they should be.
    Unclean,
    /// Nothing is left to do.
    Gone,
}

/// What was done to a VMM that does not let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    /// It has time.
    None,
    /// The devices' DMA is stopped.
    Braked,
    /// It was killed.
    Killed,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It said that its client is served, and that it still opens its device.
    Serving,
    /// It said that it is ready.
    Ready,
    /// It said that it cannot serve, or closed its ready pipe without a word.
    NotReady,
    /// The VMM uses none of its devices any more.
    LetGo,
    /// It has ended and was reaped.
    Exited,
    /// It has ended with success and was reaped: its clients had left.
    Finished,
    /// The group of its devices can be opened.
    Free {
        /// It did not say that it failed to take its devices back.
        clean: bool,
    },
    /// A deadline passed.
    Late,
    /// The operator is out of patience.
    StopNow,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Its sockets can go to the VMM, which is told that the device is not open yet.
    Connect,
    /// It serves: its sockets can go to the VMM, if they did not before.
    HandOver,
    /// Whoever asked for it is told that it failed.
    Fail,
    /// It died under the VMM: say so.
    ReportLoss,
    /// Its clients have left, and it ended.
    ReportFinish,
    /// The host has its devices back: say so to whoever released them.
    ReportEnd,
    /// It cannot even be killed: say so.
    ReportStuck,
    /// The host has its devices, but not as they should be: say so.
    ReportUnclean,
    /// Somebody still holds the devices, and nothing helps: say so.
    ReportKept,
    /// Send SIGKILL.
    Kill,
    /// Stop the devices' DMA without it.
    Brake,
    /// Kill the VMM.
    KillVmm,
    /// From now on there is this much time.
    Within(Duration),
    /// There is all the time in the world.
    NoDeadline,
}

impl Life {
    /// What `event` makes of it.
    pub(super) fn on(self, event: Event) -> (Life, &'static [Action]) {
        match self {
            Life::Starting | Life::Serving | Life::Ending | Life::Killed | Life::Stuck => {
                self.of_process(event)
            }
            Life::Orphaned(pressure) | Life::Freeing(pressure) => self.awaiting(pressure, event),
            Life::Back { .. } | Life::Unclean | Life::Gone => self.over(event),
        }
    }

    /// Whether the kernel is asked again and again whether the group is free.
    pub(super) fn awaits_free(self) -> bool {
        match self {
            Life::Orphaned(_) | Life::Freeing(_) => true,
            Life::Starting
            | Life::Serving
            | Life::Ending
            | Life::Killed
            | Life::Stuck
            | Life::Back { .. }
            | Life::Unclean
            | Life::Gone => false,
        }
    }

    /// Whether the end of the VM has to wait for it.
    pub(super) fn is_awaited(self) -> bool {
        match self {
            Life::Starting
            | Life::Serving
            | Life::Ending
            | Life::Killed
            | Life::Orphaned(_)
            | Life::Freeing(_)
            | Life::Back { .. } => true,
            Life::Stuck | Life::Unclean | Life::Gone => false,
        }
    }

    fn of_process(self, event: Event) -> (Life, &'static [Action]) {
        const KILL: &[Action] = &[Action::Kill, Action::Within(deadline::KILLED)];
        const FAIL_AND_KILL: &[Action] =
            &[Action::Fail, Action::Kill, Action::Within(deadline::KILLED)];
        const LOSS: &[Action] = &[Action::ReportLoss, Action::Within(deadline::BRAKE)];
        const FINISH: &[Action] = &[Action::ReportFinish, Action::Within(deadline::BRAKE)];
        match (self, event) {
            (Life::Starting, Event::Serving) => (Life::Starting, &[Action::Connect]),
            (Life::Starting, Event::Ready) => {
                (Life::Serving, &[Action::HandOver, Action::NoDeadline])
            }
            (Life::Starting, Event::NotReady | Event::Late | Event::LetGo | Event::StopNow) => {
                (Life::Killed, FAIL_AND_KILL)
            }
            (Life::Starting, Event::Exited | Event::Finished) => (
                Life::Freeing(Pressure::None),
                &[Action::Fail, Action::Within(deadline::BRAKE)],
            ),
            (Life::Serving, Event::LetGo) => {
                (Life::Ending, &[Action::Within(deadline::SERVER_END)])
            }
            (Life::Serving, Event::Exited) => (Life::Orphaned(Pressure::None), LOSS),
            (Life::Serving, Event::Finished) => (Life::Orphaned(Pressure::None), FINISH),
            (Life::Serving | Life::Ending, Event::StopNow) | (Life::Ending, Event::Late) => {
                (Life::Killed, KILL)
            }
            (Life::Ending | Life::Killed | Life::Stuck, Event::Exited | Event::Finished) => (
                Life::Freeing(Pressure::None),
                &[Action::Within(deadline::BRAKE)],
            ),
            (Life::Killed, Event::Late) => {
                (Life::Stuck, &[Action::ReportStuck, Action::NoDeadline])
            }
            // Whoever asks again is told again.
            (Life::Stuck, Event::LetGo) => (Life::Stuck, &[Action::ReportStuck]),
            (Life::Stuck, Event::StopNow) => (Life::Gone, &[]),
            (Life::Starting, Event::Free { .. })
            | (
                Life::Serving,
                Event::Serving | Event::Ready | Event::NotReady | Event::Free { .. } | Event::Late,
            )
            | (
                Life::Ending,
                Event::Serving | Event::Ready | Event::NotReady | Event::LetGo | Event::Free { .. },
            )
            | (
                Life::Killed,
                Event::Serving
                | Event::Ready
                | Event::NotReady
                | Event::LetGo
                | Event::Free { .. }
                | Event::StopNow,
            )
            | (
                Life::Stuck,
                Event::Serving | Event::Ready | Event::NotReady | Event::Free { .. } | Event::Late,
            )
            | (
                Life::Orphaned(_)
                | Life::Freeing(_)
                | Life::Back { .. }
                | Life::Unclean
                | Life::Gone,
                _,
            ) => (self, &[]),
        }
    }

    fn awaiting(self, pressure: Pressure, event: Event) -> (Life, &'static [Action]) {
        let is_orphan = self == Life::Orphaned(pressure);
        let with = |pressure| {
            if is_orphan {
                Life::Orphaned(pressure)
            } else {
                Life::Freeing(pressure)
            }
        };
        match event {
            Event::LetGo => (Life::Freeing(pressure), &[]),
            Event::Free { clean } if is_orphan => (Life::Back { clean }, &[Action::NoDeadline]),
            Event::Free { clean: true } => (Life::Gone, &[Action::ReportEnd]),
            Event::Free { clean: false } => {
                (Life::Unclean, &[Action::ReportUnclean, Action::NoDeadline])
            }
            Event::Late => match pressure {
                Pressure::None => (
                    with(Pressure::Braked),
                    &[Action::Brake, Action::Within(deadline::LET_GO)],
                ),
                Pressure::Braked => (
                    with(Pressure::Killed),
                    &[Action::KillVmm, Action::Within(deadline::KILLED)],
                ),
                Pressure::Killed => (Life::Gone, &[Action::ReportKept]),
            },
            Event::StopNow => (Life::Gone, &[]),
            Event::Serving | Event::Ready | Event::NotReady | Event::Exited | Event::Finished => {
                (self, &[])
            }
        }
    }

    fn over(self, event: Event) -> (Life, &'static [Action]) {
        match (self, event) {
            (Life::Back { clean: true } | Life::Unclean, Event::LetGo) => {
                (Life::Gone, &[Action::ReportEnd])
            }
            (Life::Back { clean: false }, Event::LetGo) => {
                (Life::Unclean, &[Action::ReportUnclean])
            }
            (_, Event::StopNow) => (Life::Gone, &[]),
            (
                _,
                Event::Serving
                | Event::Ready
                | Event::NotReady
                | Event::LetGo
                | Event::Exited
                | Event::Finished
                | Event::Free { .. }
                | Event::Late,
            ) => (self, &[]),
        }
    }
}
