//! `host bind` and `host unbind`: several devices or whole groups, all of them or none.
//!
//! First everything is looked at and nothing touched: does the device exist, is there an IOMMU, may we write, who uses
//! it or its group. Then each device is locked, and moved; after a failure those that were moved go back.

use std::io::Write;

use protocol::PciAddress;

use super::device::{HostDevice, is_bridge};
use super::error::HostError;
use super::group::{is_noiommu, leaves_dma_alone, pci_members};
use super::kernel::{Kernel, check_writable, override_path};
use super::notes::{self, Before, Lock};
use super::rebind::{Mover, VFIO_PCI};
use super::roots::Roots;
use super::usage::{Usage, Use};

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The devices.
    pub addresses: Vec<PciAddress>,
    /// And all that share their groups.
    pub whole_groups: bool,
    /// Also what the host uses.
    pub force: bool,
}

/// Gives devices to vfio-pci.
pub(super) fn bind(
    mover: &Mover<'_>,
    request: &Request,
    out: &mut dyn Write,
) -> Result<(), HostError> {
    let roots = mover.roots;
    let devices = select(roots, request)?;
    for address in &devices {
        if is_bridge(&roots.sysfs, *address) {
            return Err(HostError::Bridge(*address));
        }
        check_iommu(roots, *address)?;
    }
    check_writable_all(roots, &devices)?;
    load_vfio_pci(roots, mover.kernel)?;
    let locks = lock_all(roots, &devices)?;
    check_free(roots, request, &devices)?;
    let mut moved: Vec<(PciAddress, Before, &Lock)> = Vec::new();
    for (address, lock) in &locks {
        if HostDevice::read(&roots.sysfs, *address)?.bound_to_vfio {
            say(out, &format!("{address}: is with vfio-pci already"));
            continue;
        }
        match mover.take(*address, lock) {
            Ok(before) => {
                say_moved(out, *address, before.driver.as_deref(), Some(VFIO_PCI));
                moved.push((*address, before, lock));
            }
            Err(error) => return Err(roll_back(mover, moved, Notes::Forget, error, out)),
        }
    }
    say_groups(roots, &devices, out);
    Ok(())
}

/// Gives devices back to the drivers they had.
pub(super) fn unbind(
    mover: &Mover<'_>,
    request: &Request,
    out: &mut dyn Write,
) -> Result<(), HostError> {
    let roots = mover.roots;
    let devices = select(roots, request)?;
    check_writable_all(roots, &devices)?;
    let locks = lock_all(roots, &devices)?;
    if !request.force {
        check_not_served(roots, &devices)?;
    }
    let mut moved: Vec<(PciAddress, Before, &Lock)> = Vec::new();
    for (address, lock) in &locks {
        let device = HostDevice::read(&roots.sysfs, *address)?;
        if !device.bound_to_vfio && !mover.is_half_moved(*address)? {
            let driver = device.driver.as_deref().unwrap_or("no driver");
            say(
                out,
                &format!("{address}: is not with vfio-pci, but with {driver}"),
            );
            continue;
        }
        match mover.give_back(*address, lock) {
            Ok(before) => {
                let now = mover.state(*address)?.driver;
                say_moved(out, *address, device.driver.as_deref(), now.as_deref());
                moved.push((*address, before, lock));
            }
            Err(error) => return Err(roll_back(mover, moved, Notes::Keep, error, out)),
        }
    }
    for (address, _, _) in moved {
        notes::remove(roots, address);
    }
    Ok(())
}

/// The devices that are meant, each once and in order, when all of them exist.
fn select(roots: &Roots, request: &Request) -> Result<Vec<PciAddress>, HostError> {
    let sysfs = &roots.sysfs;
    let mut devices = Vec::new();
    for address in &request.addresses {
        let device = HostDevice::read(sysfs, *address)?;
        devices.push(*address);
        if let (true, Some(group)) = (request.whole_groups, device.group) {
            let members = pci_members(sysfs, group);
            devices.extend(
                members
                    .into_iter()
                    .filter(|member| !is_bridge(sysfs, *member)),
            );
        }
    }
    devices.sort();
    devices.dedup();
    Ok(devices)
}

fn check_iommu(roots: &Roots, address: PciAddress) -> Result<(), HostError> {
    match HostDevice::read(&roots.sysfs, address)?.group {
        Some(group) if !is_noiommu(&roots.sysfs, group) => Ok(()),
        Some(_) | None => Err(HostError::NoIommu(address)),
    }
}

fn check_writable_all(roots: &Roots, devices: &[PciAddress]) -> Result<(), HostError> {
    for address in devices {
        check_writable(override_path(&roots.sysfs, *address), *address)?;
        check_writable(roots.sysfs.path("bus/pci/drivers_probe"), *address)?;
    }
    Ok(())
}

fn load_vfio_pci(roots: &Roots, kernel: &dyn Kernel) -> Result<(), HostError> {
    let driver = roots.sysfs.path("bus/pci/drivers/vfio-pci");
    if !driver.exists() {
        kernel.load_vfio_pci();
    }
    if driver.exists() {
        Ok(())
    } else {
        Err(HostError::NoVfioPci)
    }
}

/// Locks in the order of addresses; nobody waits for a lock.
fn lock_all(roots: &Roots, devices: &[PciAddress]) -> Result<Vec<(PciAddress, Lock)>, HostError> {
    devices
        .iter()
        .map(|address| Ok((*address, Lock::take(roots, *address)?)))
        .collect()
}

/// Refuses what the host uses: the devices themselves, and those in their groups that stay with the host.
fn check_free(roots: &Roots, request: &Request, devices: &[PciAddress]) -> Result<(), HostError> {
    if request.force {
        return Ok(());
    }
    let usage = Usage::read(roots).with_claims();
    for address in devices {
        let device = HostDevice::read(&roots.sysfs, *address)?;
        if device.bound_to_vfio {
            continue;
        }
        let uses = usage.of(&device);
        if !uses.is_empty() {
            return Err(blame(request, &device, *address, uses));
        }
        for member in others_on_host_drivers(roots, &device) {
            let uses = usage.of(&member);
            if !uses.is_empty() {
                return Err(blame(request, &device, member.address, uses));
            }
        }
    }
    Ok(())
}

/// `user` is in use, which keeps `device` from being taken.
fn blame(request: &Request, device: &HostDevice, user: PciAddress, uses: Vec<Use>) -> HostError {
    let asked = if request.addresses.contains(&device.address) {
        Some(device.address)
    } else {
        request.addresses.first().copied()
    };
    match (asked, device.group) {
        (Some(address), Some(group)) if address != user => HostError::GroupInUse {
            address,
            group,
            member: user,
            uses,
        },
        (_, _) => HostError::InUse {
            address: user,
            uses,
        },
    }
}

fn others_on_host_drivers(roots: &Roots, device: &HostDevice) -> Vec<HostDevice> {
    let Some(group) = device.group else {
        return Vec::new();
    };
    pci_members(&roots.sysfs, group)
        .into_iter()
        .filter(|member| *member != device.address)
        .filter_map(|member| HostDevice::read(&roots.sysfs, member).ok())
        .filter(|member| {
            let driver = member.driver.as_deref();
            driver.is_some_and(|driver| !leaves_dma_alone(driver))
        })
        .collect()
}

fn check_not_served(roots: &Roots, devices: &[PciAddress]) -> Result<(), HostError> {
    let usage = Usage::read(roots);
    for address in devices {
        let device = HostDevice::read(&roots.sysfs, *address)?;
        let mut uses = usage.of(&device);
        uses.retain(|found| matches!(found, Use::Vfio { .. }));
        uses.extend(usage.unseen_by_proc(&device));
        if !uses.is_empty() {
            return Err(HostError::InUse {
                address: *address,
                uses,
            });
        }
    }
    Ok(())
}

/// Whether the old driver of a device that is put back is still to be remembered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Notes {
    Keep,
    Forget,
}

fn roll_back(
    mover: &Mover<'_>,
    moved: Vec<(PciAddress, Before, &Lock)>,
    notes: Notes,
    error: HostError,
    out: &mut dyn Write,
) -> HostError {
    let mut error = error;
    for (address, before, lock) in moved.into_iter().rev() {
        let now = mover.state(address).ok().and_then(|now| now.driver);
        match mover.put_back(address, &before, &before, lock) {
            Ok(()) => {
                if notes == Notes::Forget {
                    notes::remove(mover.roots, address);
                }
                say_moved(out, address, now.as_deref(), before.driver.as_deref());
            }
            Err(second) => error = HostError::not_restored(&error, &second),
        }
    }
    error
}

fn say_moved(out: &mut dyn Write, address: PciAddress, from: Option<&str>, to: Option<&str>) {
    let name = |driver: Option<&str>| driver.unwrap_or("no driver").to_owned();
    say(out, &format!("{address}: {} -> {}", name(from), name(to)));
}

/// Which nodes are there now, and what is still missing.
fn say_groups(roots: &Roots, devices: &[PciAddress], out: &mut dyn Write) {
    let mut said = Vec::new();
    for device in devices
        .iter()
        .filter_map(|address| HostDevice::read(&roots.sysfs, *address).ok())
    {
        let Some(group) = device.group.filter(|group| !said.contains(group)) else {
            continue;
        };
        said.push(group);
        let missing: Vec<String> = others_on_host_drivers(roots, &device)
            .iter()
            .map(|other| {
                let driver = other.driver.as_deref().unwrap_or_default();
                format!("{} ({driver})", other.address)
            })
            .collect();
        if missing.is_empty() {
            say(out, &format!("group {group}: ready as /dev/vfio/{group}"));
        } else {
            say(
                out,
                &format!(
                    "group {group}: not usable before {} is bound too: `bulkhead-device-server host bind --group {}`",
                    missing.join(", "),
                    device.address
                ),
            );
        }
    }
}

fn say(out: &mut dyn Write, line: &str) {
    // The devices are moved whether or not somebody reads about it.
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests;
