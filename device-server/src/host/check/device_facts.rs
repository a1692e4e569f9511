//! What the kernel shows of one device, its group and the bridges above it. Nothing is judged here.

use protocol::PciAddress;

use super::super::config_space::{Acs, Interrupts, acs, interrupts};
use super::super::device::{
    HostDevice, attribute, folder, is_bridge, link_name, reset_methods, virtual_functions,
};
use super::super::error::HostError;
use super::super::group::{is_noiommu, leaves_dma_alone, pci_members};
use super::super::names::Names;
use super::super::roots::Roots;
use super::super::usage::{Usage, Use};

/// BARs of a PCI device. Source: PCI Local Bus 3.0 §6.2.5.
const BARS: usize = 6;

/// What there is to know of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceFacts {
    pub(super) device: HostDevice,
    pub(super) title: String,
    pub(super) class: String,
    pub(super) is_bridge: bool,
    /// Its group is the fake one of no-IOMMU mode.
    pub(super) noiommu: bool,
    /// The others in its group.
    pub(super) others: Vec<Member>,
    /// The bridges above it, from the root down.
    pub(super) acs: Vec<(PciAddress, Acs)>,
    /// "flr pm bus"; empty: none; `None`: the kernel does not say.
    pub(super) reset_methods: Option<String>,
    pub(super) function: Function,
    pub(super) bars: Vec<Bar>,
    /// `None` where the configuration space cannot be read far enough.
    pub(super) interrupts: Option<Interrupts>,
    /// What the host uses it for.
    pub(super) uses: Vec<Use>,
    /// The firmware showed its screen with it.
    pub(super) boot_display: bool,
}

/// Another device of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) address: PciAddress,
    pub(super) driver: Option<String>,
    /// Its driver leaves the group to VFIO.
    pub(super) leaves_group: bool,
    pub(super) uses: Vec<Use>,
}

/// What kind of SR-IOV function it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// It has nothing to do with SR-IOV.
    Plain,
    /// A physical function with virtual functions of its own.
    Physical { enabled: u32, total: u32 },
    /// A virtual function.
    Virtual { of: Option<PciAddress> },
}

/// One BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) index: usize,
    pub(super) bytes: u64,
    pub(super) io: bool,
    pub(super) assigned: bool,
}

impl DeviceFacts {
    /// Looks at the device at `address`.
    pub(super) fn read(roots: &Roots, address: PciAddress) -> Result<DeviceFacts, HostError> {
        let sysfs = &roots.sysfs;
        let device = HostDevice::read(sysfs, address)?;
        let usage = Usage::read(roots).with_claims();
        let names = Names::read(roots, address);
        let others = device.group.map_or(Vec::new(), |group| {
            let members = pci_members(sysfs, group).into_iter();
            let members = members.filter(|member| *member != address);
            members
                .filter_map(|member| HostDevice::read(sysfs, member).ok())
                .map(|member| Member {
                    address: member.address,
                    leaves_group: member.driver.as_deref().is_none_or(leaves_dma_alone),
                    uses: usage.of(&member),
                    driver: member.driver,
                })
                .collect()
        });
        let config = config_of(roots, address);
        Ok(DeviceFacts {
            title: names.title(),
            class: names.class,
            is_bridge: is_bridge(sysfs, address),
            noiommu: device.group.is_some_and(|group| is_noiommu(sysfs, group)),
            others,
            acs: bridges_above(roots, address)
                .into_iter()
                .map(|bridge| (bridge, acs(&config_of(roots, bridge))))
                .collect(),
            reset_methods: reset_methods(sysfs, address),
            function: function(roots, address),
            bars: bars(&attribute(sysfs, address, "resource").unwrap_or_default()),
            interrupts: interrupts(&config),
            uses: usage.of(&device),
            boot_display: attribute(sysfs, address, "boot_vga").as_deref() == Some("1"),
            device,
        })
    }
}

fn config_of(roots: &Roots, address: PciAddress) -> Vec<u8> {
    std::fs::read(folder(&roots.sysfs, address).join("config")).unwrap_or_default()
}

/// From the root down: the folder of a device is below those of the bridges above it.
fn bridges_above(roots: &Roots, address: PciAddress) -> Vec<PciAddress> {
    let Ok(path) = folder(&roots.sysfs, address).canonicalize() else {
        return Vec::new();
    };
    path.components()
        .filter_map(|part| part.as_os_str().to_str()?.parse().ok())
        .filter(|found| *found != address)
        .collect()
}

fn function(roots: &Roots, address: PciAddress) -> Function {
    let physical = folder(&roots.sysfs, address).join("physfn");
    if let Ok(Some(name)) = link_name(address, &physical) {
        return Function::Virtual {
            of: name.parse().ok(),
        };
    }
    let number = |name| attribute(&roots.sysfs, address, name)?.parse().ok();
    match number("sriov_totalvfs") {
        Some(total) if total > 0 => Function::Physical {
            enabled: u32::try_from(virtual_functions(&roots.sysfs, address).len())
                .unwrap_or(u32::MAX),
            total,
        },
        Some(_) | None => Function::Plain,
    }
}

/// Lines "0xSTART 0xEND 0xFLAGS": flags as in Linux `include/linux/ioport.h`.
fn bars(resource: &str) -> Vec<Bar> {
    const IORESOURCE_IO: u64 = 0x100;
    const IORESOURCE_MEM: u64 = 0x200;
    const IORESOURCE_UNSET: u64 = 0x2000_0000;
    let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let lines = resource.lines().take(BARS).enumerate();
    lines
        .filter_map(|(index, line)| {
            let mut words = line.split(' ').map(number);
            let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
            (flags & (IORESOURCE_IO | IORESOURCE_MEM) != 0).then(|| Bar {
                index,
                bytes: end.saturating_sub(start).saturating_add(1),
                io: flags & IORESOURCE_IO != 0,
                assigned: start != 0 && flags & IORESOURCE_UNSET == 0,
            })
        })
        .collect()
}
