//! How this VM's processes are confined: `-sandbox`, `-sandbox-uids`, `-sandbox-cgroup`.

use std::path::PathBuf;

use sandbox::profile::Mode;
use serde::{Deserialize, Serialize};

use super::ConfigError;

#[cfg(test)]
mod tests;

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// `-sandbox`.
    #[serde(with = "SerializedMode")]
    pub mode: Mode,
    /// `-sandbox-uids`.
    pub uids: Option<UidRange>,
    /// `-sandbox-cgroup`.
    pub cgroup: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode", rename_all = "kebab-case")]
enum SerializedMode {
    On,
    BestEffort,
    Inherited,
    Off,
}

/// Users and groups that processes may become, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidRange {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
}

/// Numbers that mean somebody else on every machine: root, the users that stand for none (16 and 32 bits), and "no change".
const TAKEN: [u32; 4] = [0, 65_534, 65_535, u32::MAX];

impl SandboxConfig {
    /// From the options' values.
    pub fn parse(
        mode: Option<&str>,
        uids: Option<&str>,
        cgroup: Option<PathBuf>,
    ) -> Result<SandboxConfig, ConfigError> {
        let mode = mode.map_or(Ok(Mode::On), |text| {
            text.parse()
                .map_err(|reason: String| ConfigError::option("sandbox", text, reason))
        })?;
        let uids = uids
            .map(|text| {
                UidRange::parse(text)
                    .map_err(|reason| ConfigError::option("sandbox-uids", text, reason))
            })
            .transpose()?;
        if matches!(mode, Mode::Off | Mode::Inherited)
            && let Some(range) = uids
        {
            let reason = format!("with -sandbox {mode} no process changes its user");
            return Err(ConfigError::option(
                "sandbox-uids",
                &range.to_string(),
                reason,
            ));
        }
        Ok(SandboxConfig { mode, uids, cgroup })
    }
}

impl UidRange {
    fn parse(text: &str) -> Result<UidRange, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(UidRange { first, last })
        });
        let form = "write FIRST-LAST, for example 200000-200063: numbers that no user and no group of this host has";
        let range = range.ok_or(form)?;
        match TAKEN.iter().find(|uid| range.contains(**uid)) {
            Some(taken) => Err(format!("{taken} belongs to others everywhere; {form}")),
            None => Ok(range),
        }
    }

    fn contains(self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }
}

impl std::fmt::Display for UidRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}
