//! The process that runs a guest.
//!
//! Its threads do different things, so each kind has a table of its own.

/// The kinds of threads. All exist before the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thread {
    /// Starts the machine, waits for its own events, resets it.
    Main,
    /// Runs a virtual CPU.
    Vcpu,
    /// Watches the connections to device servers.
    Connections,
    /// Receives the supervisor's answers.
    Supervisor,
    /// Attaches devices: the only one that maps what a device server lends.
    Attach,
    /// Does what hot-plug slots decide, and keeps their timers.
    HotPlug,
    /// Lets devices go.
    Release,
    /// Serves QMP sockets.
    Qmp,
    /// Runs QMP commands.
    QmpCommands,
}
