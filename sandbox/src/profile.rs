//! How much a missing mechanism matters, and what is in force in the end.

use std::fmt;
use std::str::FromStr;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything, or no start.
    On,
    /// Whatever the kernel and the rights of this process allow; what is missing is said.
    BestEffort,
    /// Nothing. For debugging.
    Off,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "on" => Ok(Mode::On),
            "best-effort" => Ok(Mode::BestEffort),
            "off" => Ok(Mode::Off),
            _ => Err(format!("{text}: write on, best-effort or off")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::On => "on",
            Mode::BestEffort => "best-effort",
            Mode::Off => "off",
        })
    }
}

/// What is in force, mechanism by mechanism, in the order in which they were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Mechanism and what of it.
    pub active: Vec<(&'static str, String)>,
    /// Mechanism and why it is not in force (best effort only).
    pub missing: Vec<(&'static str, String)>,
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |rows: &[(&str, String)]| {
            let rows: Vec<String> = rows
                .iter()
                .map(|(name, what)| format!("{name}: {what}"))
                .collect();
            rows.join("; ")
        };
        f.write_str(&list(&self.active))?;
        if !self.missing.is_empty() {
            write!(f, "; NOT ENFORCED: {}", list(&self.missing))?;
        }
        Ok(())
    }
}
