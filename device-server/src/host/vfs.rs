//! `host vfs ADDR N`: the number of virtual functions (SR-IOV) of a device, and where they are.
//!
//! Linux `Documentation/PCI/pci-iov-howto.rst`. The kernel takes only 0 or, from 0, another number.

use std::io::Write;

use protocol::PciAddress;

use super::device::{HostDevice, attribute, folder, link_name};
use super::error::HostError;
use super::kernel::{Step, check_writable, step_write};
use super::notes::{self, Lock};
use super::rebind::Mover;
use super::roots::Roots;
use super::usage::{Usage, Use};

/// What the operator asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The physical function.
    pub address: PciAddress,
    /// How many virtual functions it is to have.
    pub count: u32,
    /// Also if the host uses those that it has.
    pub force: bool,
}

/// Sets the number and prints the functions.
pub(super) fn set(
    mover: &Mover<'_>,
    request: &Request,
    out: &mut dyn Write,
) -> Result<(), HostError> {
    let Request { address, count, .. } = *request;
    let roots = mover.roots;
    let device = HostDevice::read(&roots.sysfs, address)?;
    let number = |name| attribute(&roots.sysfs, address, name).and_then(|text| text.parse().ok());
    let (Some(total), Some(now)) = (number("sriov_totalvfs"), number("sriov_numvfs")) else {
        return Err(HostError::NotSriov(address));
    };
    if count > total {
        return Err(HostError::TooManyFunctions {
            address,
            asked: count,
            total,
        });
    }
    let path = step_write(&roots.sysfs, address, Step::VirtualFunctions(count)).0;
    check_writable(path, address)?;
    let lock = Lock::take(roots, address)?;
    if count != now {
        if !request.force {
            check_free(roots, address)?;
        }
        let driver = device.driver.as_deref().unwrap_or("the kernel");
        let before = mover.state(address)?;
        let old = functions(roots, address);
        let step = |count| {
            let step = Step::VirtualFunctions(count);
            mover.step((address, step), driver, &before, &lock)
        };
        if now != 0 {
            step(0)?;
            old.iter().for_each(|gone| notes::remove(roots, *gone));
        }
        if count != 0 {
            let made = step(count);
            if let Err(error) = &made
                && now != 0
                && let Err(second) = step(now)
            {
                return Err(HostError::not_restored(error, &second));
            }
            made?;
        }
    }
    show(roots, address, count, out)
}

/// The virtual functions of `address`, in order.
pub(super) fn functions(roots: &Roots, address: PciAddress) -> Vec<PciAddress> {
    let device = folder(&roots.sysfs, address);
    (0..u32::MAX)
        .map_while(|index| link_name(address, &device.join(format!("virtfn{index}"))).ok()?)
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// Refuses to end functions that the host or a virtual machine uses.
fn check_free(roots: &Roots, address: PciAddress) -> Result<(), HostError> {
    let usage = Usage::read(roots);
    for function in functions(roots, address) {
        let mut uses = usage.of(&HostDevice::read(&roots.sysfs, function)?);
        uses.retain(|found| !matches!(found, Use::VirtualFunctions { .. }));
        if !uses.is_empty() {
            return Err(HostError::InUse {
                address: function,
                uses,
            });
        }
    }
    Ok(())
}

fn show(
    roots: &Roots,
    address: PciAddress,
    count: u32,
    out: &mut dyn Write,
) -> Result<(), HostError> {
    // What is printed is done whether or not somebody reads about it.
    let _ = writeln!(out, "{address}: {count} virtual functions");
    for function in functions(roots, address) {
        let device = HostDevice::read(&roots.sysfs, function)?;
        let group = match device.group {
            Some(group) => format!("group {group}"),
            None => "no IOMMU group".to_owned(),
        };
        let driver = device.driver.as_deref().unwrap_or("no driver");
        let _ = writeln!(out, "{function}: {group}, {driver}");
    }
    Ok(())
}
