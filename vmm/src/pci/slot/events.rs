//! What can be said of a slot: its phase, what happens to it, what follows.

/// How far the slot is with its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No device.
    Empty,
    /// No device any more; the guest has not turned the slot off yet.
    Gone,
    /// As `Gone`, and the next device waits for the guest to do so.
    Queued,
    /// A device is in the slot; the guest may or may not have powered it yet.
    Present,
    /// Removal was asked for; the guest is busy with the slot, so the button is not pressed yet.
    EjectWaiting,
    /// The button is pressed; the guest has not let go yet.
    Ejecting,
    /// As `Ejecting`, and the operator was told that the guest did not answer in time.
    EjectOverdue,
}

/// What happens to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host put a device into the slot.
    Occupied,
    /// The operator asks for the device.
    EjectRequested,
    /// The operator's patience is over (`unplug-timeout`).
    EjectTimedOut,
    /// The device is gone without the guest's consent.
    Vanished,
    /// The guest wrote Slot Control.
    ControlWritten(u16),
    /// The guest wrote Slot Status: ones clear events.
    StatusWritten(u16),
    /// The machine was reset: the guest has let go of everything.
    MachineReset,
}

/// What the caller has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the port's interrupt.
    Interrupt,
    /// The guest powered the slot: its device answers from now on.
    PowerOn,
    /// The slot lost power: its device answers no more.
    PowerOff,
    /// The slot is empty: take the device away and tell the operator when it is free.
    Release,
    /// Start the unplug timer; when it fires, [`Event::EjectTimedOut`].
    StartTimer,
    /// Stop the unplug timer.
    StopTimer,
    /// Tell the operator that the guest refused or did not answer (DEVICE_UNPLUG_GUEST_ERROR).
    ReportGuestError,
}
