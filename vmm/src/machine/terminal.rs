//! The operator's terminal while the guest has it: raw, and put back as it was.
//!
//! In raw mode Ctrl-C and the like go to the guest; Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends one Ctrl-A.
//! A process that is killed cannot put its terminal back; the supervisor outlives this process and does.

use std::os::fd::OwnedFd;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

#[cfg(test)]
mod tests;

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// A terminal in raw mode; as it was when dropped.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Makes `input` raw, if it is a terminal.
    pub fn enter(input: &OwnedFd) -> Option<RawTerminal> {
        if !isatty(input) {
            return None;
        }
        let terminal = input.try_clone().ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Output stays as it is: log lines and the guest's console share the terminal.
        raw.output_modes = before.output_modes;
        tcsetattr(&terminal, OptionalActions::Now, &raw).ok()?;
        Some(RawTerminal { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell then.
        let _restored = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Finds Ctrl-A x in what is typed.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// What of `typed` the guest gets, and whether the operator asked to end the machine.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if !std::mem::replace(&mut self.escaped, false) {
                if byte == ESCAPE {
                    self.escaped = true;
                } else {
                    passed.push(byte);
                }
                continue;
            }
            match byte {
                b'x' | b'X' => return (passed, true),
                ESCAPE => passed.push(ESCAPE),
                other => passed.extend([ESCAPE, other]),
            }
        }
        (passed, false)
    }
}
