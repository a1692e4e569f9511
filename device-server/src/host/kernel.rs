//! The writes to sysfs that move a device between drivers.
//!
//! Linux `Documentation/ABI/testing/sysfs-bus-pci`: driver_override, driver/unbind, drivers_probe, sriov_numvfs. The last
//! three block for as long as a driver takes, and cannot be interrupted then: a helper process does them (`helper.rs`).
//! A trait, so that tests can play the kernel.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::PciAddress;

use super::device::{Sysfs, folder};
use super::error::HostError;
use super::helper::{self, Patience};
use super::notes::{Before, Lock};
use super::roots::Roots;

/// A write that takes as long as a driver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Take the device from its driver.
    Unbind,
    /// Let the kernel find a driver for it.
    Probe,
    /// Change the number of its virtual functions.
    VirtualFunctions {
        /// How many it has.
        from: u32,
        /// How many it is to have.
        to: u32,
    },
}

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum StepError {
    /// The driver took longer than it may. The helper process waits on, then puts the device back.
    TooSlow,
    /// The operator pressed Ctrl-C. As above.
    Interrupted,
    /// The write failed.
    Write(io::Error),
    /// There is no helper process.
    Helper(io::Error),
}

/// What can be done to a device.
pub(super) trait Kernel {
    /// Says which driver may take the device; empty: any that fits.
    fn set_override(&self, address: PciAddress, driver: &str) -> io::Result<()>;
    /// Does a step. Gives up waiting at a deadline; then `before` is what the device goes back to, as soon as it can:
    /// until then the kernel lets nobody write to the device, not even its driver_override.
    fn step(
        &self,
        address: PciAddress,
        step: Step,
        before: &Before,
        lock: &Lock,
    ) -> Result<(), StepError>;
    /// Tries to get vfio-pci into the kernel.
    fn load_vfio_pci(&self);
}

/// The kernel that runs.
#[derive(Debug)]
pub(super) struct RunningKernel {
    sysfs: Sysfs,
    patience: Patience,
}

impl RunningKernel {
    /// The host's, waited for with `patience`.
    pub(super) fn new(roots: &Roots, patience: Patience) -> RunningKernel {
        RunningKernel {
            sysfs: roots.sysfs.clone(),
            patience,
        }
    }
}

impl Kernel for RunningKernel {
    fn set_override(&self, address: PciAddress, driver: &str) -> io::Result<()> {
        write(&override_path(&self.sysfs, address), &format!("{driver}\n"))
    }

    fn step(
        &self,
        address: PciAddress,
        step: Step,
        before: &Before,
        lock: &Lock,
    ) -> Result<(), StepError> {
        helper::run(address, step, before, lock, &self.patience)
    }

    fn load_vfio_pci(&self) {
        // Whether it helped shows in sysfs.
        let _ = Command::new("modprobe").arg("vfio-pci").status();
    }
}

/// The file that says which driver may take a device.
pub(super) fn override_path(sysfs: &Sysfs, address: PciAddress) -> PathBuf {
    folder(sysfs, address).join("driver_override")
}

/// The file that a step writes.
pub(super) fn step_path(sysfs: &Sysfs, address: PciAddress, step: Step) -> PathBuf {
    let device = folder(sysfs, address);
    match step {
        Step::Unbind => device.join("driver/unbind"),
        Step::Probe => sysfs.path("bus/pci/drivers_probe"),
        Step::VirtualFunctions { .. } => device.join("sriov_numvfs"),
    }
}

/// Does a step, for as long as it takes.
pub(super) fn carry_out(sysfs: &Sysfs, address: PciAddress, step: Step) -> io::Result<()> {
    let path = step_path(sysfs, address, step);
    match step {
        Step::Unbind | Step::Probe => write(&path, &address.to_string()),
        Step::VirtualFunctions { from, to } => {
            change_count(from, to, &mut |count| write(&path, &count.to_string()))
        }
    }
}

/// The kernel takes only 0 or, from 0, another number. What it refuses leaves the device with as many as it had.
fn change_count(from: u32, to: u32, set: &mut dyn FnMut(u32) -> io::Result<()>) -> io::Result<()> {
    if from != 0 {
        set(0)?;
    }
    if to == 0 {
        return Ok(());
    }
    let made = set(to);
    if made.is_err() && from != 0 {
        // Whether this helps shows in sysfs, where the caller looks.
        let _ = set(from);
    }
    made
}

/// Whether the files that a step needs could be written. Nothing is.
pub(super) fn check_writable(path: PathBuf, address: PciAddress) -> Result<(), HostError> {
    match OpenOptions::new().write(true).open(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(HostError::NotPermitted(path))
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Err(HostError::ReadOnly(path))
        }
        Err(source) => Err(HostError::Sysfs {
            address,
            path,
            source,
        }),
    }
}

/// Writes `text` in one write, as sysfs wants it.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written on the way, when the kernel refuses `refused`.
    fn written(from: u32, to: u32, refused: u32) -> (Vec<u32>, io::Result<()>) {
        let mut written = Vec::new();
        let result = change_count(from, to, &mut |count| {
            written.push(count);
            if count == refused {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(())
        });
        (written, result)
    }

    #[test]
    fn count_goes_through_zero_and_back_when_it_is_refused() {
        const NONE: u32 = 99;
        assert_eq!(written(0, 4, NONE).0, [4]);
        assert_eq!(written(4, 0, NONE).0, [0]);
        assert_eq!(written(4, 2, NONE).0, [0, 2]);
        let (steps, result) = written(4, 2, 2);
        assert_eq!(steps, [0, 2, 4]);
        result.unwrap_err();
        let (steps, result) = written(0, 2, 2);
        assert_eq!(steps, [2]);
        result.unwrap_err();
    }
}
