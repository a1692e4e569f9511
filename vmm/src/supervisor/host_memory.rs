//! Is there memory for the guest? A host device pins all of it, and `-mem-prealloc` fills all of it, at once: where there is
//! not enough, the kernel would kill somebody, maybe another tenant. Other guests take memory as they use it, and are
//! only held to what the machine has (see `memory/ram.rs`). Huge pages come from a pool of their own.

use std::fs;

use crate::config::{Config, DeviceConfig};

/// The guest does not fit.
#[derive(Debug, thiserror::Error)]
#[error(
    "-m {wanted_mib}M: {why}, and the host has {free_mib} MiB of memory and swap left; give less, or end something"
)]
pub(super) struct DoesNotFit {
    wanted_mib: u64,
    free_mib: u64,
    why: &'static str,
}

/// Refuses a guest whose memory is taken at once and is not there.
pub(super) fn check(config: &Config) -> Result<(), DoesNotFit> {
    let Some(why) = taken_at_once(config) else {
        return Ok(());
    };
    // Without /proc the kernel has the last word.
    let Some(free_kib) = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| free_kib(&text))
    else {
        return Ok(());
    };
    let wanted = config.memory.size_bytes;
    if wanted >> 10 <= free_kib {
        return Ok(());
    }
    Err(DoesNotFit {
        wanted_mib: wanted >> 20,
        free_mib: free_kib >> 10,
        why,
    })
}

fn taken_at_once(config: &Config) -> Option<&'static str> {
    if config.memory.hugetlb.is_some() {
        None
    } else if config.memory.prealloc {
        Some("-mem-prealloc fills all of it")
    } else if config
        .devices
        .iter()
        .any(|device| matches!(device, DeviceConfig::VfioPci(_)))
    {
        Some("a host device pins all of it")
    } else {
        None
    }
}

/// What /proc/meminfo says can still be had (Documentation/filesystems/proc.rst).
fn free_kib(meminfo: &str) -> Option<u64> {
    let value = |name: &str| {
        let mut rows = meminfo.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = rows.find(|(row, _)| *row == name)?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some(value("MemAvailable")? + value("SwapFree")?)
}

#[cfg(test)]
mod tests {
    use super::free_kib;

    #[test]
    fn free_memory_is_what_is_available_and_unused_swap() {
        let meminfo = "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 40 kB\nSwapTotal: 9 kB\nSwapFree: 2 kB\n";
        assert_eq!(free_kib(meminfo), Some(42));
        assert_eq!(free_kib("MemTotal: 100 kB\n"), None);
    }
}
