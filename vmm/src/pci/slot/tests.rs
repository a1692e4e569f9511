use super::bits::{SLTCTL_PIC_BLINK, SLTCTL_PIC_OFF, SLTCTL_PIC_ON};
use super::*;

/// What Linux's pciehp has enabled once it drives the slot.
const PCIEHP: u16 =
    SLTCTL_ABPE | SLTCTL_PDCE | SLTCTL_CCIE | SLTCTL_HPIE | SLTCTL_DLLSCE | SLTCTL_AIC_OFF;

fn run(slot: Slot, events: &[Event]) -> (Slot, Vec<Action>) {
    events
        .iter()
        .fold((slot, Vec::new()), |(slot, mut all), event| {
            let (next, actions) = slot.on(*event);
            all.extend(actions);
            (next, all)
        })
}

fn driven(power_indicator: u16) -> Slot {
    run(
        Slot::occupied(),
        &[
            Event::ControlWritten(PCIEHP | power_indicator),
            Event::StatusWritten(0xffff),
        ],
    )
    .0
}

#[test]
fn plug_into_driven_slot_shows_presence_and_never_presses_the_button() {
    let (empty, _) = run(
        Slot::empty(),
        &[
            Event::ControlWritten(PCIEHP | SLTCTL_PCC | SLTCTL_PIC_OFF),
            Event::StatusWritten(0xffff),
        ],
    );
    let (slot, actions) = empty.on(Event::Occupied);
    assert_eq!(slot.status(), SLTSTA_PDS | SLTSTA_PDC | SLTSTA_DLLSC);
    assert_eq!(actions, [Action::Interrupt]);
    assert!(!slot.link_active());
}

#[test]
fn guest_powering_the_slot_brings_the_link_up() {
    let (empty, _) = run(
        Slot::empty(),
        &[Event::ControlWritten(PCIEHP | SLTCTL_PCC | SLTCTL_PIC_OFF)],
    );
    let (slot, actions) = run(
        empty,
        &[
            Event::Occupied,
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_BLINK),
        ],
    );
    assert!(slot.link_active());
    assert!(actions.contains(&Action::PowerOn));
}

#[test]
fn eject_presses_the_button_and_ends_in_release_when_power_and_indicator_are_off() {
    let (slot, actions) = driven(SLTCTL_PIC_ON).on(Event::EjectRequested);
    assert_eq!(actions, [Action::StartTimer, Action::Interrupt]);
    assert_eq!(slot.status() & SLTSTA_ABP, SLTSTA_ABP);
    let (slot, actions) = run(
        slot,
        &[
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_BLINK),
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_BLINK | SLTCTL_PCC),
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_OFF | SLTCTL_PCC),
        ],
    );
    assert_eq!(slot.phase(), Phase::Empty);
    assert_eq!(slot.status() & SLTSTA_PDS, 0);
    let order: Vec<Action> = actions
        .into_iter()
        .filter(|action| *action != Action::Interrupt)
        .collect();
    assert_eq!(
        order,
        [Action::PowerOff, Action::StopTimer, Action::Release]
    );
}

#[test]
fn eject_while_the_indicator_blinks_waits_for_a_steady_one() {
    let (slot, actions) = driven(SLTCTL_PIC_BLINK).on(Event::EjectRequested);
    assert_eq!(
        (slot.phase(), slot.status() & SLTSTA_ABP),
        (Phase::EjectWaiting, 0)
    );
    assert_eq!(actions, [Action::StartTimer]);
    let (slot, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PIC_ON));
    assert_eq!(
        (slot.phase(), slot.status() & SLTSTA_ABP),
        (Phase::Ejecting, SLTSTA_ABP)
    );
    assert!(actions.contains(&Action::Interrupt));
}

#[test]
fn repeated_eject_does_not_press_again() {
    let (slot, _) = run(
        driven(SLTCTL_PIC_ON),
        &[Event::EjectRequested, Event::StatusWritten(SLTSTA_ABP)],
    );
    let (slot, actions) = slot.on(Event::EjectRequested);
    assert_eq!((slot.status() & SLTSTA_ABP, actions), (0, vec![]));
}

#[test]
fn refused_eject_is_reported_and_can_be_asked_again() {
    let (slot, actions) = run(
        driven(SLTCTL_PIC_ON),
        &[
            Event::EjectRequested,
            Event::StatusWritten(0xffff),
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_BLINK),
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_ON),
        ],
    );
    assert_eq!(slot.phase(), Phase::Present);
    assert!(actions.contains(&Action::ReportGuestError));
    assert_eq!(slot.on(Event::EjectRequested).0.phase(), Phase::Ejecting);
}

#[test]
fn release_after_the_timeout_still_releases() {
    let (slot, actions) = run(
        driven(SLTCTL_PIC_ON),
        &[Event::EjectRequested, Event::EjectTimedOut],
    );
    assert_eq!(slot.phase(), Phase::EjectOverdue);
    assert!(actions.contains(&Action::ReportGuestError));
    let (slot, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PIC_OFF | SLTCTL_PCC));
    assert_eq!(slot.phase(), Phase::Empty);
    assert!(actions.contains(&Action::Release));
}

#[test]
fn guest_powering_the_slot_off_itself_is_an_orderly_removal() {
    let (slot, actions) = run(
        driven(SLTCTL_PIC_ON),
        &[
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_BLINK | SLTCTL_PCC),
            Event::ControlWritten(PCIEHP | SLTCTL_PIC_OFF | SLTCTL_PCC),
        ],
    );
    assert_eq!(slot.phase(), Phase::Empty);
    assert!(actions.contains(&Action::Release));
}

#[test]
fn eject_without_a_listening_guest_is_a_surprise_removal() {
    let (slot, actions) = Slot::occupied().on(Event::EjectRequested);
    assert_eq!(slot.phase(), Phase::Empty);
    assert_eq!(actions, [Action::PowerOff, Action::Release]);
}

#[test]
fn vanished_device_changes_presence_and_link() {
    let (slot, actions) = driven(SLTCTL_PIC_ON).on(Event::Vanished);
    assert_eq!(
        slot.status() & (SLTSTA_PDS | SLTSTA_PDC | SLTSTA_DLLSC),
        SLTSTA_PDC | SLTSTA_DLLSC
    );
    assert_eq!(
        actions,
        [Action::PowerOff, Action::Release, Action::Interrupt]
    );
    assert_eq!(slot.on(Event::Vanished).1, []);
}

#[test]
fn machine_reset_keeps_a_device_and_releases_one_that_was_asked_for() {
    assert_eq!(
        driven(SLTCTL_PIC_ON).on(Event::MachineReset).0,
        Slot::occupied()
    );
    let (ejecting, _) = driven(SLTCTL_PIC_ON).on(Event::EjectRequested);
    let (slot, actions) = ejecting.on(Event::MachineReset);
    assert_eq!(slot, Slot::empty());
    assert_eq!(
        actions,
        [Action::StopTimer, Action::PowerOff, Action::Release]
    );
}

#[test]
fn plug_before_the_guest_listens_raises_the_interrupt_when_it_enables_it() {
    let (slot, actions) = Slot::empty().on(Event::Occupied);
    assert_eq!(actions, []);
    let (_, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PCC | SLTCTL_PIC_OFF));
    assert!(actions.contains(&Action::Interrupt));
    assert!(
        !actions.contains(&Action::Release),
        "an occupied slot that never had power is not let go"
    );
}

fn has_device(slot: &Slot) -> bool {
    !matches!(slot.phase(), Phase::Empty | Phase::Gone)
}

#[test]
fn any_sequence_of_events_releases_at_most_once_per_device() {
    let events = [
        Event::Occupied,
        Event::EjectRequested,
        Event::EjectTimedOut,
        Event::Vanished,
        Event::ControlWritten(PCIEHP | SLTCTL_PIC_ON),
        Event::ControlWritten(PCIEHP | SLTCTL_PIC_BLINK),
        Event::ControlWritten(PCIEHP | SLTCTL_PIC_OFF | SLTCTL_PCC),
        Event::ControlWritten(SLTCTL_PIC_ON),
        Event::MachineReset,
    ];
    let mut frontier = vec![(Slot::empty(), 0_i32)];
    for _ in 0..6 {
        frontier = frontier
            .iter()
            .flat_map(|(slot, devices)| {
                events.iter().map(move |event| {
                    let (next, actions) = slot.on(*event);
                    let arrived = i32::from(!has_device(slot) && has_device(&next));
                    let left = actions
                        .iter()
                        .filter(|action| **action == Action::Release)
                        .count();
                    (next, devices + arrived - i32::try_from(left).unwrap())
                })
            })
            .collect();
        for (slot, devices) in &frontier {
            assert_eq!(*devices, i32::from(has_device(slot)));
        }
        frontier.dedup();
    }
}

#[test]
fn plug_interrupts_linux_which_listens_to_the_link_and_not_to_presence() {
    let listens = SLTCTL_ABPE | SLTCTL_CCIE | SLTCTL_HPIE | SLTCTL_DLLSCE | SLTCTL_AIC_OFF;
    let off = listens | SLTCTL_PIC_OFF | SLTCTL_PCC;
    let (empty, _) = Slot::empty().on(Event::ControlWritten(off));
    let (empty, _) = empty.on(Event::StatusWritten(SLTSTA_EVENTS));
    let (_, actions) = empty.on(Event::Occupied);
    assert_eq!(actions, [Action::Interrupt]);
}

#[test]
fn device_plugged_before_the_guest_is_done_with_a_vanished_one_is_not_let_go_of() {
    let (slot, actions) = driven(SLTCTL_PIC_ON).on(Event::Vanished);
    assert!(actions.contains(&Action::Release));
    assert_eq!(slot.phase(), Phase::Gone);
    let (slot, actions) = slot.on(Event::Occupied);
    assert_eq!((slot.phase(), actions), (Phase::Queued, Vec::new()));
    assert_eq!(
        slot.status() & SLTSTA_PDS,
        0,
        "the guest does not see it yet"
    );
    // Linux turns power off first, the indicator a second later.
    let (slot, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PIC_ON | SLTCTL_PCC));
    assert!(!actions.contains(&Action::Release));
    let (slot, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PIC_OFF | SLTCTL_PCC));
    assert!(!actions.contains(&Action::Release), "{actions:?}");
    assert_eq!(slot.phase(), Phase::Present);
    assert_ne!(slot.status() & SLTSTA_PDS, 0);
    let (slot, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PIC_ON));
    assert!(slot.link_active() && actions.contains(&Action::PowerOn));
}

#[test]
fn device_that_waits_for_the_guest_leaves_at_once() {
    let (slot, _) = driven(SLTCTL_PIC_ON).on(Event::Vanished);
    let (slot, _) = slot.on(Event::Occupied);
    for event in [Event::EjectRequested, Event::Vanished] {
        let (slot, actions) = slot.on(event);
        assert_eq!(
            (slot.phase(), actions),
            (Phase::Gone, vec![Action::Release])
        );
    }
    let (slot, _) = slot.on(Event::MachineReset);
    assert!(slot.link_active(), "a reset gives it to the guest");
}

#[test]
fn guest_that_is_done_with_a_vanished_device_has_an_empty_slot() {
    let (slot, _) = driven(SLTCTL_PIC_ON).on(Event::Vanished);
    let (slot, actions) = slot.on(Event::ControlWritten(PCIEHP | SLTCTL_PIC_OFF | SLTCTL_PCC));
    assert_eq!(slot.phase(), Phase::Empty);
    assert!(!actions.contains(&Action::Release));
}

#[test]
fn guest_whose_driver_leaves_the_slot_is_done_with_a_vanished_device() {
    let unbound = Event::ControlWritten(SLTCTL_AIC_OFF | SLTCTL_PIC_ON);
    let (gone, _) = driven(SLTCTL_PIC_ON).on(Event::Vanished);
    assert_eq!(gone.on(unbound).0.phase(), Phase::Empty);

    let (queued, _) = gone.on(Event::Occupied);
    let (slot, actions) = queued.on(unbound);
    assert_eq!(slot.phase(), Phase::Present);
    assert!(!actions.contains(&Action::Release), "{actions:?}");
}
