//! The operator's terminal while the guest has it: raw.
//!
//! In raw mode Ctrl-C and the like go to the guest; Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends one Ctrl-A.
//! The supervisor, which outlives this process, puts the terminal back as it was.

use std::os::fd::OwnedFd;

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

#[cfg(test)]
mod tests;

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// Makes `input` raw, if it is a terminal; true if it is.
pub fn make_raw(input: &OwnedFd) -> bool {
    let Ok(before) = tcgetattr(input) else {
        return false;
    };
    let mut raw = before.clone();
    raw.make_raw();
    // Output stays as it is: log lines and the guest's console share the terminal.
    raw.output_modes = before.output_modes;
    tcsetattr(input, OptionalActions::Now, &raw).is_ok()
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
