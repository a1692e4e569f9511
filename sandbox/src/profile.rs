//! How a process is confined, how much a missing mechanism matters, and what is in force in the end.

use std::fmt;
use std::str::FromStr;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything, or no start.
    On,
    /// Whatever the kernel and the rights of this process allow; what is missing is said.
    BestEffort,
    /// A service manager has confined this process: that is looked at, and completed, or there is no start.
    Inherited,
    /// Nothing. For debugging.
    Off,
}

/// How a process begins to confine itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// What the operator wants.
    pub mode: Mode,
    /// The user and group to become, where the parent has chosen one; otherwise it is made from the process id.
    pub uid: Option<u32>,
    /// Whether the parent has made a pid namespace for this process alone.
    pub alone: bool,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "on" => Ok(Mode::On),
            "best-effort" => Ok(Mode::BestEffort),
            "inherited" => Ok(Mode::Inherited),
            "off" => Ok(Mode::Off),
            _ => Err(format!("{text}: write on, best-effort, inherited or off")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::On => "on",
            Mode::BestEffort => "best-effort",
            Mode::Inherited => "inherited",
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
        if self.active.is_empty() {
            f.write_str("nothing")?;
        }
        f.write_str(&list(&self.active))?;
        if !self.missing.is_empty() {
            write!(f, "; NOT ENFORCED: {}", list(&self.missing))?;
        }
        Ok(())
    }
}
