use super::*;

const FREE: Event = Event::Free { clean: true };
const UNCLEAN: Event = Event::Free { clean: false };
const EVENTS: [Event; 10] = [
    Event::Finished,
    Event::Serving,
    Event::Ready,
    Event::NotReady,
    Event::LetGo,
    Event::Exited,
    FREE,
    UNCLEAN,
    Event::Late,
    Event::StopNow,
];
const LIVES: [Life; 15] = [
    Life::Starting,
    Life::Serving,
    Life::Ending,
    Life::Killed,
    Life::Stuck,
    Life::Orphaned(Pressure::None),
    Life::Orphaned(Pressure::Braked),
    Life::Orphaned(Pressure::Killed),
    Life::Freeing(Pressure::None),
    Life::Freeing(Pressure::Braked),
    Life::Freeing(Pressure::Killed),
    Life::Back { clean: true },
    Life::Back { clean: false },
    Life::Unclean,
    Life::Gone,
];

/// All events one after another: where it ends, and what was done but for deadlines.
fn run(start: Life, events: &[Event]) -> (Life, Vec<Action>) {
    let timeless = |action: &&Action| !matches!(action, Action::Within(_) | Action::NoDeadline);
    events
        .iter()
        .fold((start, Vec::new()), |(life, mut done), event| {
            let (next, actions) = life.on(*event);
            done.extend(actions.iter().filter(timeless));
            (next, done)
        })
}

#[test]
fn server_that_is_let_go_has_time_to_end_and_is_then_killed() {
    let (life, actions) = Life::Serving.on(Event::LetGo);
    assert_eq!(
        (life, actions),
        (Life::Ending, &[Action::Within(deadline::SERVER_END)][..])
    );
    let (life, actions) = life.on(Event::Late);
    assert_eq!((life, actions[0]), (Life::Killed, Action::Kill));
    let (life, done) = run(life, &[Event::Exited, FREE]);
    assert_eq!((life, done), (Life::Gone, vec![Action::ReportEnd]));
}

#[test]
fn host_has_its_devices_only_when_the_kernel_says_so() {
    for end in [Event::Exited, Event::Finished] {
        let (life, done) = run(Life::Ending, &[end]);
        assert_eq!((life, done), (Life::Freeing(Pressure::None), vec![]));
        assert_eq!(life.on(FREE), (Life::Gone, &[Action::ReportEnd][..]));
    }
}

#[test]
fn server_that_could_not_take_its_devices_back_is_told_and_then_accepted() {
    let (life, done) = run(Life::Ending, &[Event::Exited, UNCLEAN]);
    assert_eq!((life, done), (Life::Unclean, vec![Action::ReportUnclean]));
    assert_eq!(
        life.on(Event::LetGo),
        (Life::Gone, &[Action::ReportEnd][..])
    );
    let (life, done) = run(Life::Serving, &[Event::Exited, UNCLEAN, Event::LetGo]);
    assert_eq!(life, Life::Unclean);
    assert_eq!(done, [Action::ReportLoss, Action::ReportUnclean]);
}

#[test]
fn server_that_serves_early_is_still_starting_and_can_fail() {
    let (life, done) = run(Life::Starting, &[Event::Serving]);
    assert_eq!((life, done), (Life::Starting, vec![Action::Connect]));
    let (ready, done) = run(life, &[Event::Ready]);
    assert_eq!((ready, done), (Life::Serving, vec![Action::HandOver]));
    let (failed, done) = run(life, &[Event::NotReady]);
    assert_eq!(
        (failed, done),
        (Life::Killed, vec![Action::Fail, Action::Kill])
    );
}

#[test]
fn server_that_never_gets_ready_is_killed_and_reported() {
    let (life, actions) = Life::Starting.on(Event::Late);
    assert_eq!(life, Life::Killed);
    assert!(actions.contains(&Action::Fail) && actions.contains(&Action::Kill));
}

#[test]
fn vmm_that_keeps_the_devices_of_a_dead_server_is_braked_and_then_killed() {
    let late = [Event::Exited, Event::Late, Event::Late];
    let (life, done) = run(Life::Serving, &late);
    assert_eq!(life, Life::Orphaned(Pressure::Killed));
    assert_eq!(done, [Action::ReportLoss, Action::Brake, Action::KillVmm]);
    // Its word does not stop the clock.
    let lies = [Event::Exited, Event::LetGo, Event::Late, Event::Late];
    let (life, done) = run(Life::Serving, &lies);
    assert_eq!(life, Life::Freeing(Pressure::Killed));
    assert_eq!(done, [Action::ReportLoss, Action::Brake, Action::KillVmm]);
    // Its end lets go.
    let (life, done) = run(life, &[Event::LetGo, FREE]);
    assert_eq!((life, done), (Life::Gone, vec![Action::ReportEnd]));
}

#[test]
fn vmm_that_lets_go_of_the_devices_of_a_dead_server_lives() {
    for events in [[Event::LetGo, FREE], [FREE, Event::LetGo]] {
        let (life, done) = run(Life::Orphaned(Pressure::None), &events);
        assert_eq!((life, done), (Life::Gone, vec![Action::ReportEnd]));
    }
}

#[test]
fn server_that_ends_after_its_clients_is_no_loss() {
    let (_, done) = run(Life::Serving, &[Event::Finished]);
    assert_eq!(done, [Action::ReportFinish]);
}

#[test]
fn server_that_cannot_be_killed_is_told_to_each_who_asks_and_found_when_it_ends() {
    let (life, done) = run(Life::Killed, &[Event::Late, Event::LetGo]);
    assert_eq!(life, Life::Stuck);
    assert_eq!(done, [Action::ReportStuck, Action::ReportStuck]);
    let (life, done) = run(life, &[Event::Exited, FREE]);
    assert_eq!((life, done), (Life::Gone, vec![Action::ReportEnd]));
}

#[test]
fn nothing_brings_a_dead_server_back() {
    for life in LIVES {
        for event in EVENTS {
            let ran = |life| matches!(life, Life::Starting | Life::Serving | Life::Ending);
            let next = life.on(event).0;
            assert!(!ran(next) || ran(life), "{life:?} {event:?}");
        }
    }
    for event in EVENTS {
        assert_eq!(Life::Gone.on(event), (Life::Gone, &[][..]), "{event:?}");
    }
}

#[test]
fn every_way_into_waiting_sets_a_deadline() {
    let waits = |life| {
        matches!(
            life,
            Life::Ending | Life::Killed | Life::Orphaned(_) | Life::Freeing(_)
        )
    };
    for life in LIVES {
        for event in EVENTS {
            let (next, actions) = life.on(event);
            let timed = actions
                .iter()
                .any(|action| matches!(action, Action::Within(_)));
            let still_timed = event == Event::LetGo && life.awaits_free();
            assert!(
                next == life || !waits(next) || timed || still_timed,
                "{life:?} {event:?}"
            );
        }
    }
}

#[test]
fn last_resort_is_reached_from_every_state_in_finite_time() {
    for start in LIVES {
        let (life, _) = run(
            start,
            &[
                Event::LetGo,
                Event::Late,
                Event::Exited,
                Event::Late,
                Event::Late,
                Event::Late,
            ],
        );
        assert!(
            !life.is_awaited() || matches!(life, Life::Back { .. }),
            "{start:?} {life:?}"
        );
    }
}
