use super::*;

const KEPT: Seat = Seat::Kept;
const ASK: Event = Event::RemovalAsked { force: false };
const FORCE: Event = Event::RemovalAsked { force: true };
const RELEASED: Event = Event::Released { may_restart: true };

const STATES: [State; 13] = [
    State::Adding,
    State::Present,
    State::Recalled,
    State::Lost(After::Delete),
    State::Lost(After::Restart),
    State::Dead,
    State::Releasing(After::Delete),
    State::Releasing(After::Restart),
    State::Held(After::Delete),
    State::Held(After::Restart),
    State::Restarting,
    State::Unwanted,
    State::Gone,
];

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Placed,
        Event::NotPlaced,
        ASK,
        FORCE,
        Event::GuestError,
        Event::Out,
        RELEASED,
        Event::Released { may_restart: false },
        Event::HeldUp,
    ];
    for seat in [Seat::RootBus, Seat::Kept, Seat::Asked, Seat::Left] {
        events.push(Event::HostAsks(seat));
        for policy in [OnFailure::Remove, OnFailure::Restart, OnFailure::Stop] {
            events.push(Event::Lost(policy, seat));
        }
    }
    events
}

/// All events one after another: where it ends, and everything that was done.
fn run(start: State, events: &[Event]) -> (State, Vec<Action>) {
    events
        .iter()
        .fold((start, Vec::new()), |(state, mut done), event| {
            let (next, actions) = state.on(*event);
            done.extend_from_slice(actions);
            (next, done)
        })
}

#[test]
fn removal_asks_the_guest_and_is_told_when_the_host_has_the_device() {
    let (state, done) = run(State::Present, &[ASK, Event::Out, RELEASED]);
    assert_eq!(state, State::Gone);
    assert_eq!(done, [Action::AskGuest, Action::LetGo, Action::TellDeleted]);
}

#[test]
fn release_that_fails_is_told_and_is_no_end() {
    let (state, done) = run(
        State::Releasing(After::Delete),
        &[Event::HeldUp, Event::HeldUp],
    );
    assert_eq!(
        (state, done),
        (State::Held(After::Delete), vec![Action::TellHeld])
    );
    let (state, done) = run(state, &[ASK, RELEASED]);
    assert_eq!(state, State::Gone);
    assert_eq!(done, [Action::AskSupervisor, Action::TellDeleted]);
    assert_eq!(
        State::Held(After::Delete).on(RELEASED),
        (State::Gone, &[Action::TellDeleted][..])
    );
}

#[test]
fn lost_device_with_restart_comes_back() {
    let lost = Event::Lost(OnFailure::Restart, KEPT);
    let (state, done) = run(State::Present, &[lost, Event::Out, RELEASED, Event::Placed]);
    assert_eq!(state, State::Present);
    assert_eq!(
        done,
        [
            Action::TellLost,
            Action::Take,
            Action::LetGo,
            Action::Restart
        ]
    );
}

#[test]
fn device_that_was_restarted_too_often_is_deleted() {
    let refused = Event::Released { may_restart: false };
    assert_eq!(
        State::Releasing(After::Restart).on(refused),
        (State::Gone, &[Action::TellDeleted][..])
    );
}

#[test]
fn removal_asked_for_at_any_moment_of_a_restart_ends_in_deleted() {
    let steps = [
        Event::Lost(OnFailure::Restart, KEPT),
        Event::Out,
        RELEASED,
        Event::Placed,
        Event::Out,
        RELEASED,
    ];
    for at in 1..=4 {
        for ask in [ASK, FORCE] {
            let mut events = steps.to_vec();
            events.insert(at, ask);
            let (state, done) = run(State::Present, &events);
            assert_eq!(state, State::Gone, "asked before step {at}");
            let deleted = done.iter().filter(|action| **action == Action::TellDeleted);
            assert_eq!(deleted.count(), 1, "asked before step {at}: {done:?}");
        }
    }
}

#[test]
fn device_that_was_asked_for_while_it_began_anew_is_taken_when_it_is_back() {
    for asked in [ASK, FORCE, Event::HostAsks(KEPT)] {
        let (state, done) = run(State::Restarting, &[asked, Event::Placed]);
        assert_eq!((state, done), (State::Present, vec![Action::Take]));
    }
}

#[test]
fn device_that_the_operator_or_the_host_asked_for_does_not_come_back_when_it_is_lost() {
    let restart = OnFailure::Restart;
    let asked = State::Present.on(Event::Lost(restart, Seat::Asked)).0;
    assert_eq!(asked, State::Lost(After::Delete));
    let recalled = State::Recalled.on(Event::Lost(restart, KEPT)).0;
    assert_eq!(recalled, State::Lost(After::Delete));
}

#[test]
fn loss_of_a_device_that_has_left_its_slot_is_no_loss() {
    let left = Event::Lost(OnFailure::Restart, Seat::Left);
    assert_eq!(State::Present.on(left), (State::Present, &[][..]));
    assert_eq!(
        State::Releasing(After::Delete).on(left),
        (State::Releasing(After::Delete), &[][..])
    );
}

#[test]
fn device_lost_on_the_root_bus_is_let_go_of_and_stays() {
    let lost = Event::Lost(OnFailure::Restart, Seat::RootBus);
    let (state, done) = run(State::Present, &[lost, RELEASED, lost]);
    assert_eq!(state, State::Dead);
    assert_eq!(done, [Action::TellLost, Action::LetGo]);
}

#[test]
fn host_that_asks_gets_the_device_from_the_guest_or_without_it() {
    let ask = Event::HostAsks(KEPT);
    let (state, done) = run(State::Present, &[ask, ask]);
    assert_eq!(state, State::Recalled);
    assert_eq!(done, [Action::TellRecalled, Action::AskGuest]);
    let (state, done) = run(State::Recalled, &[Event::GuestError, Event::Out, RELEASED]);
    assert_eq!(state, State::Gone);
    assert_eq!(
        done,
        [
            Action::TellLost,
            Action::Take,
            Action::LetGo,
            Action::TellDeleted
        ]
    );
    let (state, done) = run(State::Present, &[Event::HostAsks(Seat::RootBus)]);
    assert_eq!(state, State::Dead);
    assert_eq!(done, [Action::TellLost, Action::LetGo]);
}

#[test]
fn stop_policy_stops_the_machine_and_takes_the_device() {
    let (_, done) = run(State::Present, &[Event::Lost(OnFailure::Stop, KEPT)]);
    assert_eq!(done, [Action::TellLost, Action::StopMachine, Action::Take]);
}

#[test]
fn deleted_is_told_exactly_when_the_operator_knew_the_device() {
    for state in STATES {
        for event in events() {
            let (next, actions) = state.on(event);
            let told = actions.contains(&Action::TellDeleted);
            let silent = (state, event) == (State::Adding, Event::NotPlaced);
            let ends = next == State::Gone && state != State::Gone;
            assert_eq!(told, ends && !silent, "{state:?} {event:?}");
        }
    }
}

#[test]
fn only_the_release_of_the_host_ends_a_device_that_was_in_its_place() {
    for state in STATES {
        for event in events() {
            let ends = state != State::Gone && state.on(event).0 == State::Gone;
            let released = matches!(event, Event::Released { .. });
            let never_placed = event == Event::NotPlaced;
            assert!(!ends || released || never_placed, "{state:?} {event:?}");
        }
    }
}
