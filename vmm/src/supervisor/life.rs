//! The life of one device server: what happens when. Pure; the doing is in `servers`.
//!
//! A server ends by itself once its sockets are closed. It is killed when it does not, or never got ready.

use std::time::Duration;

use super::deadline;

/// Where a device server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Opens and resets its devices; its ready line is awaited.
    Starting,
    /// The VMM has its sockets.
    Serving,
    /// Its sockets are closed: it resets its devices and exits.
    Ending,
    /// It was sent SIGKILL.
    Killed,
    /// Reaped, or stuck in the kernel and given up.
    Gone,
}

/// What can happen to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It said that it is ready.
    Ready,
    /// It said that it cannot serve, or closed its ready pipe without a word.
    NotReady,
    /// Nobody will use its sockets any more.
    LetGo,
    /// It has ended and was reaped.
    Exited,
    /// It has ended with success and was reaped: its clients had left.
    Finished,
    /// Its deadline passed.
    Late,
    /// The operator is out of patience.
    StopNow,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Its sockets can go to the VMM.
    HandOver,
    /// Whoever asked for it is told that it failed.
    Fail,
    /// It died under the VMM: say so.
    ReportLoss,
    /// Its clients have left, and it ended: the host has its devices back, though nobody asked for that here.
    ReportFinish,
    /// It is gone as it should: the host has its devices back.
    ReportEnd,
    /// It cannot even be killed: say so.
    ReportStuck,
    /// Send SIGKILL.
    Kill,
    /// From now on it has this long.
    Within(Duration),
    /// It has all the time in the world.
    NoDeadline,
}

impl Life {
    /// What `event` makes of it.
    pub(super) fn on(self, event: Event) -> (Life, &'static [Action]) {
        const KILL: &[Action] = &[Action::Kill, Action::Within(deadline::KILLED)];
        const FAIL_AND_KILL: &[Action] =
            &[Action::Fail, Action::Kill, Action::Within(deadline::KILLED)];
        match (self, event) {
            (Life::Starting, Event::Ready) => {
                (Life::Serving, &[Action::HandOver, Action::NoDeadline])
            }
            (Life::Starting, Event::NotReady | Event::Late | Event::LetGo | Event::StopNow) => {
                (Life::Killed, FAIL_AND_KILL)
            }
            (Life::Starting, Event::Exited | Event::Finished) => (Life::Gone, &[Action::Fail]),
            (Life::Serving, Event::LetGo) => {
                (Life::Ending, &[Action::Within(deadline::SERVER_END)])
            }
            (Life::Serving, Event::Exited) => (Life::Gone, &[Action::ReportLoss]),
            (Life::Serving, Event::Finished) => (Life::Gone, &[Action::ReportFinish]),
            (Life::Serving | Life::Ending, Event::StopNow) | (Life::Ending, Event::Late) => {
                (Life::Killed, KILL)
            }
            (Life::Ending | Life::Killed, Event::Exited | Event::Finished) => {
                (Life::Gone, &[Action::ReportEnd])
            }
            (Life::Killed, Event::Late) => (Life::Gone, &[Action::ReportStuck]),
            (Life::Serving | Life::Ending | Life::Killed, Event::Ready | Event::NotReady)
            | (Life::Serving, Event::Late)
            | (Life::Ending | Life::Killed, Event::LetGo)
            | (Life::Killed, Event::StopNow)
            | (Life::Gone, _) => (self, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 7] = [
        Event::Finished,
        Event::Ready,
        Event::NotReady,
        Event::LetGo,
        Event::Exited,
        Event::Late,
        Event::StopNow,
    ];
    const LIVES: [Life; 5] = [
        Life::Starting,
        Life::Serving,
        Life::Ending,
        Life::Killed,
        Life::Gone,
    ];

    #[test]
    fn server_that_is_let_go_has_time_to_end_and_is_then_killed() {
        let (life, actions) = Life::Serving.on(Event::LetGo);
        assert_eq!(
            (life, actions),
            (Life::Ending, &[Action::Within(deadline::SERVER_END)][..])
        );
        let (life, actions) = life.on(Event::Late);
        assert_eq!((life, actions[0]), (Life::Killed, Action::Kill));
        assert_eq!(
            life.on(Event::Exited),
            (Life::Gone, &[Action::ReportEnd][..])
        );
    }

    #[test]
    fn server_that_never_gets_ready_is_killed_and_reported() {
        let (life, actions) = Life::Starting.on(Event::Late);
        assert_eq!(life, Life::Killed);
        assert!(actions.contains(&Action::Fail) && actions.contains(&Action::Kill));
    }

    #[test]
    fn server_that_dies_while_serving_is_a_loss() {
        assert_eq!(
            Life::Serving.on(Event::Exited),
            (Life::Gone, &[Action::ReportLoss][..])
        );
    }

    #[test]
    fn server_that_ends_after_its_clients_is_no_loss() {
        assert_eq!(
            Life::Serving.on(Event::Finished),
            (Life::Gone, &[Action::ReportFinish][..])
        );
    }

    #[test]
    fn exit_always_ends_the_life() {
        for life in LIVES {
            assert_eq!(life.on(Event::Exited).0, Life::Gone, "{life:?}");
            assert_eq!(life.on(Event::Finished).0, Life::Gone, "{life:?}");
        }
    }

    #[test]
    fn nothing_brings_a_dead_server_back() {
        for event in EVENTS {
            assert_eq!(Life::Gone.on(event), (Life::Gone, &[][..]), "{event:?}");
            assert!(
                matches!(Life::Killed.on(event).0, Life::Killed | Life::Gone),
                "{event:?}"
            );
        }
    }

    #[test]
    fn every_way_into_waiting_sets_a_deadline() {
        for life in LIVES {
            for event in EVENTS {
                let (next, actions) = life.on(event);
                let timed = actions
                    .iter()
                    .any(|action| matches!(action, Action::Within(_)));
                assert!(
                    next == life || !matches!(next, Life::Ending | Life::Killed) || timed,
                    "{life:?} {event:?}"
                );
            }
        }
    }
}
