//! How long the kernel took to reset devices, which nobody who passes a device can make shorter: 100 ms for each FLR.
//!
//! Two kprobes at `pci_try_reset_function`, which VFIO calls when a device is opened and when it is asked for a reset.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const TRACING: &str = "/sys/kernel/tracing";
const PROBES: &str =
    "p:bulkhead/begin pci_try_reset_function\nr:bulkhead/end pci_try_reset_function\n";

/// Watches from `start` on.
pub(crate) struct Resets;

impl Resets {
    pub(crate) fn watch() -> Result<Self> {
        if !Path::new(TRACING).join("kprobe_events").exists() {
            let mounted = Command::new("mount")
                .args(["-t", "tracefs", "tracefs", TRACING])
                .status()?;
            ensure!(mounted.success(), "mount tracefs: {mounted}");
        }
        write("kprobe_events", PROBES)?;
        write("events/bulkhead/enable", "1")?;
        write("tracing_on", "1")?;
        Ok(Self)
    }

    /// Forgets those until now.
    pub(crate) fn forget(&self) -> Result<()> {
        write("trace", "")
    }

    /// Seconds of all resets since then that have ended, and how many these are.
    pub(crate) fn seconds(&self) -> Result<(f64, usize)> {
        let trace =
            fs::read_to_string(Path::new(TRACING).join("trace")).context("read the trace")?;
        sum(&trace)
    }
}

impl Drop for Resets {
    fn drop(&mut self) {
        // The lab machine ends with the bench: what is left would trouble nobody.
        let _ = write("events/bulkhead/enable", "0");
        let _ = write("kprobe_events", "");
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = Path::new(TRACING).join(file);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Lines such as "  server-812   [000] .....   41.250312: begin: (pci_try_reset_function+0x0/0x80)".
fn sum(trace: &str) -> Result<(f64, usize)> {
    let mut begun = BTreeMap::new();
    let (mut seconds, mut count) = (0.0, 0);
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let (task, rest) = line.split_once('[').context(line.to_owned())?;
        let mut words = rest.split_whitespace().skip(2);
        let (time, event) = (words.next(), words.next());
        let time: f64 = time
            .context(line.to_owned())?
            .trim_end_matches(':')
            .parse()?;
        if event == Some("begin:") {
            begun.insert(task.trim().to_owned(), time);
        } else if let Some(begin) = begun.remove(task.trim()) {
            seconds += time - begin;
            count += 1;
        }
    }
    Ok((seconds, count))
}
