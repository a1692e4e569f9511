//! What a device says it is, read once at attach and held against PCI's rules.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_GET_INFO", "..._GET_REGION_INFO", "..._GET_IRQ_INFO"; PCI Local Bus 3.0 §6.2.5.
//! The protocol's own rules (sizes, sparse areas, counts) are checked by `protocol`; here is what only PCI knows.
//! Not checked: what a region's descriptor is. The kernel does when it is mapped, and nothing here reads the mapping.
//! Limits: configuration space of 256 or 4096 bytes; BARs up to 1 TiB; those of `capabilities.rs`.

use protocol::client::{Client, ClientError};
use protocol::{DeviceInfo, IrqIndex, IrqInfo, IrqInfoFlags, RegionIndex, RegionInfo};

use super::capabilities::{self, Capabilities, CapabilityError, InBar, MsixLayout};
use super::wire::{u8_at, u16_at, u32_at};
use crate::one_line::one_line;
use crate::pci::bar::{BarError, Bars, ROM};
use crate::pci::{BarKind, BarRequest};

const HEADER_TYPE: usize = 0x0e;
const FIRST_BAR: usize = 0x10;
const INTERRUPT_PIN: usize = 0x3d;

/// A device that makes sense.
#[derive(Debug)]
pub struct Description {
    /// Whether it can be reset.
    pub info: DeviceInfo,
    /// BAR 0 to 5 and the ROM, as far as the device has them.
    pub regions: Vec<RegionInfo>,
    /// Its interrupt kinds.
    pub irqs: Irqs,
    /// Its configuration space, 256 or 4096 bytes.
    pub copy: Vec<u8>,
    /// Its decoders.
    pub bars: Vec<BarRequest>,
    /// Its capabilities.
    pub capabilities: Capabilities,
}

/// The interrupt kinds, those that a guest can use first; a kind that the device does not have has count 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irqs {
    /// The pin.
    pub intx: IrqInfo,
    /// MSI.
    pub msi: IrqInfo,
    /// MSI-X.
    pub msix: IrqInfo,
    /// An error that cannot be corrected. For the host.
    pub err: IrqInfo,
    /// The host wants the device back. For the host.
    pub req: IrqInfo,
}

/// The device cannot be what it says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DescribeError {
    /// A question failed.
    #[error("{what}")]
    Ask {
        /// What was asked.
        what: String,
        /// What went wrong.
        #[source]
        source: ClientError,
    },
    /// Configuration space has another size.
    #[error("its configuration space has {0:#x} bytes; PCI has 0x100 or 0x1000")]
    ConfigSize(u64),
    /// Vendor 0xffff.
    #[error("its configuration space reads as ones: the device is off, or gone")]
    NoDevice,
    /// A bridge.
    #[error("its header type is {0:#x}; only ordinary functions (type 0) can be passed")]
    HeaderType(u8),
    /// An interrupt pin beyond INTD.
    #[error("its interrupt pin is {0}; there are 1 to 4")]
    Pin(u8),
    /// A BAR type that PCI does not have.
    #[error("the type of its BAR {index} is {flags:#x}, which PCI does not have")]
    BarType {
        /// Which.
        index: u8,
        /// The register's low bits.
        flags: u32,
    },
    /// BARs that do not fit together.
    #[error("its BARs")]
    Bars(#[source] BarError),
    /// Capability lists that make no sense.
    #[error("its capability list")]
    Capabilities(#[source] CapabilityError),
    /// The MSI-X table or its pending bits are nowhere.
    #[error("its MSI-X {what} lies at {place:#x} of BAR {bar}, which {reason}")]
    Msix {
        /// Table or pending bits.
        what: &'static str,
        /// The BAR.
        bar: u8,
        /// The offset.
        place: u64,
        /// Why that cannot be.
        reason: &'static str,
    },
    /// Capability and interrupt info differ.
    #[error("its {kind} capability has {capability} vectors, but the server offers {offered}")]
    Vectors {
        /// MSI or MSI-X.
        kind: IrqIndex,
        /// In the capability.
        capability: u32,
        /// In the interrupt info.
        offered: u32,
    },
    /// Interrupts without eventfds.
    #[error("its {0} interrupts cannot be bound to eventfds")]
    NoEventfd(IrqIndex),
}

/// Asks the device for everything and checks it.
pub fn describe(client: &Client) -> Result<Description, DescribeError> {
    let ask = |what: &str| {
        let what = what.to_owned();
        move |source| DescribeError::Ask { what, source }
    };
    let info = client.device_info().map_err(ask("ask what device it is"))?;
    // BAR 0 to 5, the ROM and, last, the configuration space.
    let wanted: Vec<RegionIndex> = (RegionIndex::BAR0.0..=RegionIndex::CONFIG.0)
        .map(RegionIndex)
        .collect();
    let mut regions = client.region_infos(&wanted).map_err(|(index, source)| {
        let what = match index {
            RegionIndex::CONFIG => "ask for its configuration space".to_owned(),
            RegionIndex(number) => format!("ask for region {number}"),
        };
        ask(&what)(source)
    })?;
    let config = regions.pop().map_or(0, |config| config.size);
    let copy = read_copy(client, config)?;
    regions.retain(|region| region.size > 0);
    let irqs = interrupts(client, info)?;
    check(info, regions, irqs, copy)
}

/// In one message: each costs two switches between the processes.
fn read_copy(client: &Client, size: u64) -> Result<Vec<u8>, DescribeError> {
    let len = usize::try_from(size)
        .ok()
        .filter(|len| [0x100, 0x1000].contains(len));
    let mut copy = vec![0; len.ok_or(DescribeError::ConfigSize(size))?];
    client
        .region_read(RegionIndex::CONFIG, 0, &mut copy)
        .map_err(|source| DescribeError::Ask {
            what: "read its configuration space".to_owned(),
            source,
        })?;
    Ok(copy)
}

/// Those kinds of interrupts that the device has.
fn interrupts(client: &Client, info: DeviceInfo) -> Result<Irqs, DescribeError> {
    let kinds = [
        IrqIndex::INTX,
        IrqIndex::MSI,
        IrqIndex::MSIX,
        IrqIndex::ERR,
        IrqIndex::REQ,
    ];
    let had = |kinds: &[IrqIndex]| kinds.partition_point(|index| index.0 < info.num_irqs);
    let ask = |kinds: &[IrqIndex]| client.irq_infos(kinds.get(..had(kinds)).unwrap_or_default());
    let [guests @ .., _, _] = &kinds;
    let found = match ask(&kinds) {
        // A server that does not know the host's is no worse.
        Err((index, error @ ClientError::Refused { .. })) if !guests.contains(&index) => {
            tracing::warn!(error = one_line(&error), "{index} will not be told");
            ask(guests)
        }
        found => found,
    };
    let found = found.map_err(|(index, source)| DescribeError::Ask {
        what: format!("ask for its {index} interrupts"),
        source,
    })?;
    let absent = |index| IrqInfo {
        index,
        flags: IrqInfoFlags::empty(),
        count: 0,
    };
    let mut found = found.into_iter();
    let [intx, msi, msix, err, req] = kinds.map(|index| found.next().unwrap_or(absent(index)));
    Ok(Irqs {
        intx,
        msi,
        msix,
        err,
        req,
    })
}

fn check(
    info: DeviceInfo,
    regions: Vec<RegionInfo>,
    irqs: Irqs,
    copy: Vec<u8>,
) -> Result<Description, DescribeError> {
    if u16_at(&copy, 0) == u16::MAX {
        return Err(DescribeError::NoDevice);
    }
    let header_type = u8_at(&copy, HEADER_TYPE) & 0x7f;
    if header_type != 0 {
        return Err(DescribeError::HeaderType(header_type));
    }
    let pin = u8_at(&copy, INTERRUPT_PIN);
    if pin > crate::pci::intx::PINS {
        return Err(DescribeError::Pin(pin));
    }
    let bars = bar_requests(&copy, &regions)?;
    Bars::new(&bars).map_err(DescribeError::Bars)?;
    let mut capabilities = capabilities::find(&copy).map_err(DescribeError::Capabilities)?;
    check_vectors(&mut capabilities, &irqs)?;
    if let Some(layout) = &capabilities.msix {
        check_msix(layout, &bars)?;
    }
    Ok(Description {
        info,
        regions,
        irqs,
        copy,
        bars,
        capabilities,
    })
}

fn bar_requests(copy: &[u8], regions: &[RegionInfo]) -> Result<Vec<BarRequest>, DescribeError> {
    let mut bars = Vec::new();
    for region in regions {
        let [index, ..] = region.index.0.to_le_bytes();
        let kind = if index == ROM {
            BarKind::Rom
        } else {
            bar_kind(copy, index)?
        };
        bars.push(BarRequest {
            index,
            kind,
            size: region.size,
        });
    }
    Ok(bars)
}

fn bar_kind(copy: &[u8], index: u8) -> Result<BarKind, DescribeError> {
    let flags = u32_at(copy, FIRST_BAR + 4 * usize::from(index)) & 0xf;
    let prefetchable = flags & 8 != 0;
    match flags {
        flags if flags & 1 == 1 => Ok(BarKind::Io),
        0 | 8 => Ok(BarKind::Memory32 { prefetchable }),
        4 | 12 => Ok(BarKind::Memory64 { prefetchable }),
        flags => Err(DescribeError::BarType { index, flags }),
    }
}

fn check_vectors(capabilities: &mut Capabilities, irqs: &Irqs) -> Result<(), DescribeError> {
    for irq in [irqs.intx, irqs.msi, irqs.msix] {
        if irq.count > 0 && !irq.flags.contains(IrqInfoFlags::EVENTFD) {
            return Err(DescribeError::NoEventfd(irq.index));
        }
    }
    let differ = |kind, capability, offered| {
        Err(DescribeError::Vectors {
            kind,
            capability,
            offered,
        })
    };
    if let Some(layout) = capabilities
        .msix
        .filter(|layout| layout.vectors != irqs.msix.count)
    {
        return differ(IrqIndex::MSIX, layout.vectors, irqs.msix.count);
    }
    if let Some(layout) = &mut capabilities.msi {
        if irqs.msi.count == 0 {
            return differ(IrqIndex::MSI, layout.vectors, 0);
        }
        // Fewer are fine: the guest is offered what the server can bind, rounded down to a power of two.
        layout.vectors = layout.vectors.min(1 << irqs.msi.count.ilog2());
    }
    Ok(())
}

fn check_msix(layout: &MsixLayout, bars: &[BarRequest]) -> Result<(), DescribeError> {
    let (table, pending) = (table_bytes(layout), pending_bytes(layout));
    for (what, place, len) in [
        ("table", layout.table, table),
        ("pending bits", layout.pending, pending),
    ] {
        let InBar { bar, offset } = place;
        let refuse = |reason| {
            Err(DescribeError::Msix {
                what,
                bar,
                place: offset,
                reason,
            })
        };
        match bars.iter().find(|request| request.index == bar) {
            None => return refuse("the device does not have"),
            Some(request) if matches!(request.kind, BarKind::Io | BarKind::Rom) => {
                return refuse("is no memory BAR");
            }
            Some(request) if offset.checked_add(len).is_none_or(|end| end > request.size) => {
                return refuse("ends before it does");
            }
            Some(_) => {}
        }
    }
    let apart = layout.table.bar != layout.pending.bar
        || layout.table.offset + table <= layout.pending.offset
        || layout.pending.offset + pending <= layout.table.offset;
    let InBar { bar, offset } = layout.pending;
    let overlap = DescribeError::Msix {
        what: "pending bits",
        bar,
        place: offset,
        reason: "the table holds already",
    };
    if apart { Ok(()) } else { Err(overlap) }
}

/// Bytes of the MSI-X table.
pub fn table_bytes(layout: &MsixLayout) -> u64 {
    u64::from(layout.vectors) * 16
}

/// Bytes of the pending bit array, whole quadwords.
pub fn pending_bytes(layout: &MsixLayout) -> u64 {
    u64::from(layout.vectors.div_ceil(64)) * 8
}

#[cfg(test)]
mod tests;
