//! Moves one device to vfio-pci and back. What fails is undone: the device is then with the driver it had.
//!
//! driver_override, not new_id: only this device, not every one with its ids. Not here: whether it may be moved (`bind`).

use protocol::PciAddress;

use super::device::{HostDevice, attribute, is_vfio_driver};
use super::error::HostError;
use super::kernel::{Kernel, Step, StepError, override_path, step_write};
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
        let before = self.state(address)?;
        notes::save(self.roots, address, &before)?;
        let moved = self
            .let_go(address, VFIO_PCI, &before, lock)
            .and_then(|()| self.probe(address, VFIO_PCI, &before, lock))
            .and_then(|()| self.check_taken(address, VFIO_PCI));
        match moved {
            Ok(()) => Ok(before),
            Err(error) => Err(self.undone(error, address, &before, lock)),
        }
    }

    /// Gives `address`, which is with vfio-pci, back to the driver it had; returns that which it has now.
    pub(super) fn give_back(
        &self,
        address: PciAddress,
        lock: &Lock,
    ) -> Result<Option<String>, HostError> {
        let now = self.state(address)?;
        let noted = notes::load(self.roots, address);
        let moved = match &noted {
            Some(before) => self.put_back(address, before, &now, lock),
            None => self
                .let_go(address, "", &now, lock)
                .and_then(|()| self.probe(address, "any driver", &now, lock)),
        };
        if let Err(error) = moved {
            return Err(self.undone(error, address, &now, lock));
        }
        notes::remove(self.roots, address);
        Ok(self.state(address)?.driver)
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
        if now.driver == before.driver {
            return self.set_override(address, &before.driver_override);
        }
        self.set_override(address, &before.driver_override)?;
        if let Some(driver) = &now.driver {
            self.step((address, Step::Unbind), driver, fallback, lock)?;
        }
        let Some(driver) = &before.driver else {
            return Ok(());
        };
        self.probe(address, driver, fallback, lock)?;
        self.check_taken(address, driver)
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
        now: &Before,
        lock: &Lock,
    ) -> Result<(), HostError> {
        self.set_override(address, driver_override)?;
        match &now.driver {
            Some(driver) => self.step((address, Step::Unbind), driver, now, lock),
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
                        Step::VirtualFunctions(_) => "set its virtual functions",
                    },
                    seconds: self.limit_seconds,
                },
                StepError::Interrupted => HostError::Interrupted {
                    address,
                    driver: driver.to_owned(),
                },
                StepError::Write(source) => HostError::Sysfs {
                    address,
                    path: step_write(&self.roots.sysfs, address, step).0,
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
