//! `host vfs ADDR N`: the number of virtual functions (SR-IOV) of a device, and where they are.
//!
//! Linux `Documentation/PCI/pci-iov-howto.rst`. The kernel takes only 0 or, from 0, another number.

use std::io::Write;

use protocol::PciAddress;

use super::device::{HostDevice, attribute, virtual_functions};
use super::error::HostError;
use super::kernel::{Step, check_writable, step_path};
use super::notes::{self, Lock};
use super::rebind::Mover;
use super::roots::Roots;
use super::usage::Usage;

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
    let total = attribute(&roots.sysfs, address, "sriov_totalvfs");
    let Some(total) = total.and_then(|text| text.parse().ok()) else {
        return Err(HostError::NotSriov(address));
    };
    let count_now = || virtual_functions(&roots.sysfs, address).len();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let now = number(count_now());
    if count > total {
        return Err(HostError::TooManyFunctions {
            address,
            asked: count,
            total,
        });
    }
    let step = Step::VirtualFunctions {
        from: now,
        to: count,
    };
    check_writable(step_path(&roots.sysfs, address, step), address)?;
    let lock = Lock::take(roots, address)?;
    if count != now {
        if !request.force {
            check_free(roots, address)?;
        }
        let driver = device.driver.as_deref().unwrap_or("the kernel");
        let before = mover.state(address)?;
        let old = virtual_functions(&roots.sysfs, address);
        if let Err(error) = mover.step((address, step), driver, &before, &lock) {
            let left = number(count_now());
            if !error.leaves_a_helper() && left != now {
                let second = format!("{address} has {left} virtual functions now");
                return Err(HostError::NotRestored {
                    first: error.line(),
                    second,
                });
            }
            return Err(error);
        }
        old.iter().for_each(|gone| notes::remove(roots, *gone));
    }
    show(roots, address, count, out)
}

/// Refuses to end functions that the host or a virtual machine uses.
fn check_free(roots: &Roots, address: PciAddress) -> Result<(), HostError> {
    let usage = Usage::read(roots);
    for function in virtual_functions(&roots.sysfs, address) {
        let device = HostDevice::read(&roots.sysfs, function)?;
        let mut uses = usage.of(&device);
        uses.extend(usage.unseen_by_proc(&device));
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
    for function in virtual_functions(&roots.sysfs, address) {
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
