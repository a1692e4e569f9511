//! The terminal as it was, put back when the supervisor ends: a VMM that is killed cannot do that itself.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings of standard input's terminal, restored on drop.
#[derive(Debug)]
pub(super) struct TerminalGuard(Option<Termios>);

impl TerminalGuard {
    /// Remembers the settings, if standard input is a terminal.
    pub(super) fn new() -> TerminalGuard {
        TerminalGuard(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if let Some(saved) = &self.0 {
            // A terminal that went away needs no settings.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, saved);
        }
    }
}
