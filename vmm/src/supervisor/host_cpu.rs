//! Whether the host's CPU could leak memory through BARs that a guest maps: MMIO Stale Data (CVE-2022-21123 and others).
//!
//! Linux clears the CPU's buffers when such a guest is entered. Before 6.17 it does so only for a VM that KVM_DEV_VFIO told of a
//! passed device, which Bulkhead never does; since then for every VM with mapped device memory.

use std::path::Path;

/// Below sysfs: what the kernel knows of the CPU.
const MMIO_STALE_DATA: &str = "devices/system/cpu/vulnerabilities/mmio_stale_data";
/// The first release that needs no KVM_DEV_VFIO for this.
const MITIGATED_SINCE: (u32, u32) = (6, 17);

/// Why BARs should not be mapped on this host, if so. `sysfs` is the mount point, `release` what uname says.
pub(super) fn bars_leak(sysfs: &Path, release: &str) -> Option<String> {
    if version(release).is_some_and(|version| version >= MITIGATED_SINCE) {
        return None;
    }
    // No such file: a kernel before 5.19, which does not know.
    let state = std::fs::read_to_string(sysfs.join(MMIO_STALE_DATA)).unwrap_or_default();
    let state = state.trim();
    if state == "Not affected" {
        return None;
    }
    let shown = if state.is_empty() { "unknown" } else { state };
    Some(format!(
        "this CPU may leak other memory through mapped BARs (mmio_stale_data: {shown}), and Linux {release} clears its buffers \
         for a VM like this one only since 6.17"
    ))
}

/// "6.1.0-32-cloud-amd64" is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaks(name: &str, state: Option<&str>, release: &str) -> bool {
        let root = std::env::temp_dir().join(format!("bulkhead-cpu-{}-{name}", std::process::id()));
        let file = root.join(MMIO_STALE_DATA);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        if let Some(state) = state {
            std::fs::write(file, state).unwrap();
        }
        let reason = bars_leak(&root, release);
        std::fs::remove_dir_all(&root).unwrap();
        reason.is_some()
    }

    #[test]
    fn affected_cpu_leaks_before_linux_6_17_only() {
        for (name, state, release, expected) in [
            ("a", Some("Not affected\n"), "6.1.0-32-cloud-amd64", false),
            (
                "b",
                Some("Mitigation: Clear CPU buffers; SMT vulnerable\n"),
                "6.1.0-32-cloud-amd64",
                true,
            ),
            ("c", Some("Vulnerable\n"), "6.16.9", true),
            ("d", Some("Vulnerable\n"), "6.17.0-rc1", false),
            ("e", Some("Vulnerable\n"), "7.3.0-bulkhead-lab", false),
            ("f", Some("Unknown: No mitigations\n"), "6.12.1", true),
            ("g", None, "5.10.0", true),
            ("h", None, "nonsense", true),
        ] {
            assert_eq!(leaks(name, state, release), expected, "{state:?} {release}");
        }
    }
}
