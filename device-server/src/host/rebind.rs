//! Moves one device to vfio-pci and back. What fails is undone: the device is then with the driver it had.
//!
//! driver_override, not new_id: only this device, not every one with its ids. Not here: whether it may be moved (`bind`).

use protocol::PciAddress;

use super::device::{HostDevice, attribute, is_vfio_driver};
use super::error::HostError;
use super::kernel::{Kernel, Step, StepError, override_path, step_path};
use super::notes::{self, Before, Lock};
use super::roots::Roots;

/// The driver that takes devices.
pub(super) const VFIO_PCI: &str = "vfio-pci";

/// Moves devices, with the kernel or one that a test plays.
pub(super) struct Mover<'a> {
    pub(super) roots: &'a Roots,
    pub(super) kernel: &'a dyn Kernel,
    /// For messages: how long a driver gets.
    pub(super) limit_seconds: u64,
}

impl Mover<'_> {
    /// Gives `address` to vfio-pci, and returns how it was before.
    pub(super) fn take(&self, address: PciAddress, lock: &Lock) -> Result<Before, HostError> {
        let now = self.state(address)?;
        let before = match notes::load(self.roots, address) {
            Some(noted) if is_half_moved(&now, Some(&noted)) => completed(&now, noted),
            Some(_) | None => now.clone(),
        };
        notes::save(self.roots, address, &before.to_give_back())?;
        let moved = self
            .let_go(address, VFIO_PCI, (now.driver.as_deref(), &before), lock)
            .and_then(|()| self.probe(address, VFIO_PCI, &before, lock))
            .and_then(|()| self.check_taken(address, VFIO_PCI));
        match moved {
            Ok(()) => Ok(before),
            Err(error) => {
                let error = self.undone(error, address, &before, lock);
                if !matches!(error, HostError::NotRestored { .. }) {
                    notes::remove(self.roots, address);
                }
                Err(error)
            }
        }
    }

    /// Gives `address` back to the driver it had; returns how it was just before that. The note stays.
    pub(super) fn give_back(&self, address: PciAddress, lock: &Lock) -> Result<Before, HostError> {
        let now = self.state(address)?;
        let noted = notes::load(self.roots, address);
        let moved = match self.give_back_to(&now, noted) {
            Some(before) => self.put_back(address, &before, &now, lock),
            None => self
                .let_go(address, "", (now.driver.as_deref(), &now), lock)
                .and_then(|()| self.probe(address, "any driver", &now, lock))
                .and_then(|()| self.check_left(address)),
        };
        match moved {
            Ok(()) => Ok(now),
            Err(error) => Err(self.undone(error, address, &now, lock)),
        }
    }

    /// What a device that is like `now` goes back to; `None`: whatever driver fits.
    fn give_back_to(&self, now: &Before, noted: Option<Before>) -> Option<Before> {
        if now.has_host_driver() {
            let noted = noted.unwrap_or_else(|| now.to_give_back());
            return Some(completed(now, noted));
        }
        // A driver may have been unloaded since.
        let loaded = |driver: &String| {
            let folder = format!("bus/pci/drivers/{driver}");
            self.roots.sysfs.path(&folder).exists()
        };
        noted.filter(|noted| noted.driver.as_ref().is_none_or(loaded))
    }

    /// Whether a bind or an unbind of `address` was begun and not ended, by a process that was killed or by hand.
    pub(super) fn is_half_moved(&self, address: PciAddress) -> Result<bool, HostError> {
        let noted = notes::load(self.roots, address);
        Ok(is_half_moved(&self.state(address)?, noted.as_ref()))
    }

    /// Makes the device as it was in `before`; if a driver is too slow, it ends up as in `fallback`.
    pub(super) fn put_back(
        &self,
        address: PciAddress,
        before: &Before,
        fallback: &Before,
        lock: &Lock,
    ) -> Result<(), HostError> {
        let now = self.state(address)?;
        if now.driver != before.driver {
            self.set_override(address, before.override_to_probe())?;
            if let Some(driver) = &now.driver {
                self.step((address, Step::Unbind), driver, fallback, lock)?;
            }
            if let Some(driver) = &before.driver {
                self.probe(address, driver, fallback, lock)?;
                self.check_taken(address, driver)?;
            }
        }
        self.set_override(address, &before.driver_override)
    }

    /// Makes the device as it was, after `error`; where a driver was too slow, a helper process does.
    fn undone(
        &self,
        error: HostError,
        address: PciAddress,
        before: &Before,
        lock: &Lock,
    ) -> HostError {
        if error.leaves_a_helper() {
            return error;
        }
        match self.put_back(address, before, before, lock) {
            Ok(()) => error,
            Err(second) => HostError::not_restored(&error, &second),
        }
    }

    fn let_go(
        &self,
        address: PciAddress,
        driver_override: &str,
        (driver, fallback): (Option<&str>, &Before),
        lock: &Lock,
    ) -> Result<(), HostError> {
        self.set_override(address, driver_override)?;
        match driver {
            Some(driver) => self.step((address, Step::Unbind), driver, fallback, lock),
            None => Ok(()),
        }
    }

    fn probe(
        &self,
        address: PciAddress,
        driver: &str,
        before: &Before,
        lock: &Lock,
    ) -> Result<(), HostError> {
        self.step((address, Step::Probe), driver, before, lock)
    }

    /// Does a step, on which `driver` is the one that takes its time.
    pub(super) fn step(
        &self,
        (address, step): (PciAddress, Step),
        driver: &str,
        before: &Before,
        lock: &Lock,
    ) -> Result<(), HostError> {
        self.kernel
            .step(address, step, before, lock)
            .map_err(|error| match error {
                StepError::TooSlow => HostError::DriverSlow {
                    address,
                    driver: driver.to_owned(),
                    what: match step {
                        Step::Unbind => "let it go",
                        Step::Probe => "take it",
                        Step::VirtualFunctions { .. } => "set its virtual functions",
                    },
                    seconds: self.limit_seconds,
                },
                StepError::Interrupted => HostError::Interrupted {
                    address,
                    driver: driver.to_owned(),
                },
                StepError::Write(source) => HostError::Sysfs {
                    address,
                    path: step_path(&self.roots.sysfs, address, step),
                    source,
                },
                StepError::Helper(source) => HostError::Helper { address, source },
            })
    }

    fn check_taken(&self, address: PciAddress, wanted: &str) -> Result<(), HostError> {
        let actual = self.state(address)?.driver;
        let taken = actual.as_deref().is_some_and(|actual| {
            // A variant driver such as mlx5_vfio_pci may have taken it.
            actual == wanted || wanted == VFIO_PCI && is_vfio_driver(actual)
        });
        if taken {
            return Ok(());
        }
        Err(HostError::NotTaken {
            address,
            driver: wanted.to_owned(),
            actual,
        })
    }

    fn check_left(&self, address: PciAddress) -> Result<(), HostError> {
        let actual = self.state(address)?.driver;
        if actual.as_deref().is_some_and(is_vfio_driver) {
            return Err(HostError::NotTaken {
                address,
                driver: "a driver of the host".to_owned(),
                actual,
            });
        }
        Ok(())
    }

    fn set_override(&self, address: PciAddress, driver: &str) -> Result<(), HostError> {
        self.kernel
            .set_override(address, driver)
            .map_err(|source| HostError::Sysfs {
                address,
                path: override_path(&self.roots.sysfs, address),
                source,
            })
    }

    /// How the device is now.
    pub(super) fn state(&self, address: PciAddress) -> Result<Before, HostError> {
        let device = HostDevice::read(&self.roots.sysfs, address)?;
        let text = attribute(&self.roots.sysfs, address, "driver_override").unwrap_or_default();
        Ok(Before {
            driver: device.driver,
            // The kernel shows "(null)" where there is none.
            driver_override: if text == "(null)" {
                String::new()
            } else {
                text
            },
        })
    }
}

fn is_half_moved(now: &Before, noted: Option<&Before>) -> bool {
    if now.driver.as_deref().is_some_and(is_vfio_driver) {
        return false;
    }
    let to_vfio = is_vfio_driver(&now.driver_override);
    let from_vfio = now.driver.is_none() && noted.is_some_and(|noted| noted.driver.is_some());
    to_vfio || from_vfio
}

/// How a device was that is half moved: with the driver it still has, or with the one that is noted.
fn completed(now: &Before, noted: Before) -> Before {
    Before {
        driver: now.driver.clone().or(noted.driver),
        driver_override: noted.driver_override,
    }
}
