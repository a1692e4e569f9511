//! Attaching a device: from a connected socket to a function that can be plugged into the topology.
//!
//! In two parts, since a device may still have to be opened when its server speaks already. The steps are numbered; if one fails, those before it are undone: mappings are unmapped, and the end of the connection makes
//! the server forget everything else.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use protocol::RegionFlags;
use protocol::client::{Client, ClientConfig, ClientError};

use super::VmServices;
use super::bars::{Area, BarMap, MapError, map_areas};
use super::config::DeviceConfig;
use super::describe::{DescribeError, Description, describe, pending_bytes, table_bytes};
use super::dma::{DmaError, RamAccess, map_ram};
use super::doorbells;
use super::function::{Parts, VfioUserFunction};
use super::host_notices;
use super::interrupts::Interrupts;
use crate::config::{BarMmap, VfioCommon};
use crate::pci::bar::{BarError, ROM};

/// A device cannot be attached.
#[derive(Debug, thiserror::Error)]
#[error("Attach device {id}")]
pub struct AttachError {
    /// Its id.
    pub id: String,
    /// Why.
    #[source]
    pub cause: AttachCause,
}

/// Why a device cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachCause {
    /// No vfio-user server answers.
    #[error(
        "agree with its server on the vfio-user protocol (is a vfio-user server on that socket, and free?)"
    )]
    Connect(#[source] ClientError),
    /// What it says makes no sense.
    #[error("the device makes no sense")]
    Describe(#[source] DescribeError),
    /// It cannot be reset.
    #[error(
        "it cannot be reset, so a guest would leave its traces to the next; add allow-no-reset=on to take it all the same"
    )]
    NoReset,
    /// Its BARs make no sense.
    #[error("its BARs make no sense")]
    Bars(#[source] BarError),
    /// A BAR area cannot be mapped.
    #[error("map its BARs (bar-mmap=off does without)")]
    Map(#[source] MapError),
    /// Its answer about doorbells makes no sense.
    #[error("ask for its doorbells")]
    Doorbells(#[source] ClientError),
    /// Nobody is left who attaches devices.
    #[error("the thread that attaches devices has ended; start the VM anew")]
    NoThread,
    /// It cannot reach guest RAM.
    #[error("give it the guest's memory")]
    Dma(#[source] DmaError),
}

/// A connection that is agreed on. Dropped, it is closed, and the server forgets everything.
#[derive(Debug)]
pub struct Begun {
    client: Arc<Client>,
    /// The device has all of guest RAM already.
    has_ram: bool,
}

/// Agrees with the server behind `socket`. Before its device is open, the device gets guest RAM if that takes no memory that the host did not
/// give before: nothing is to be left of one that does not open.
pub fn begin(
    socket: OwnedFd,
    before_it_is_open: bool,
    common: &VfioCommon,
    services: &VmServices,
) -> Result<Begun, AttachError> {
    let _device = common.span().entered();
    agree(socket, before_it_is_open, services).map_err(|cause| AttachError {
        id: common.id.clone(),
        cause,
    })
}

/// Attaches the device of this connection.
pub fn attach(
    begun: Begun,
    common: &VfioCommon,
    services: &VmServices,
) -> Result<Arc<VfioUserFunction>, AttachError> {
    let _device = common.span().entered();
    steps(begun, common, services).map_err(|cause| AttachError {
        id: common.id.clone(),
        cause,
    })
}

fn agree(
    socket: OwnedFd,
    before_it_is_open: bool,
    services: &VmServices,
) -> Result<Begun, AttachCause> {
    // 1. Version and capabilities. The client closes the connection when it is dropped, so every error below does.
    let mut config = ClientConfig::standard();
    config.dma_handler = Some(Arc::new(RamAccess(Arc::clone(&services.ram))));
    let client = Arc::new(Client::connect(socket, config).map_err(AttachCause::Connect)?);
    let has_ram = before_it_is_open && services.ram.is_all_there();
    if has_ram {
        give_ram(&client, services, true)?;
    }
    Ok(Begun { client, has_ram })
}

fn steps(
    begun: Begun,
    common: &VfioCommon,
    services: &VmServices,
) -> Result<Arc<VfioUserFunction>, AttachCause> {
    let Begun { client, has_ram } = begun;
    // 2. What the device is, and whether that makes sense.
    let description = describe(&client).map_err(AttachCause::Describe)?;
    if !description.info.reset && !common.options.allow_no_reset {
        return Err(AttachCause::NoReset);
    }
    // 3. The registers that we keep for it, from a copy of its configuration space.
    let has_intx = description.irqs.intx.count > 0;
    let Description {
        copy,
        bars,
        capabilities,
        ..
    } = &description;
    let registers =
        DeviceConfig::new(copy, bars, capabilities, has_intx).map_err(AttachCause::Bars)?;
    // 4. Guest RAM, all of it, before a guest byte can reach the device.
    if !has_ram {
        give_ram(&client, services, false)?;
    }
    // 5. Doorbells: writes that need no message.
    let reserved = reserved(&description);
    let doorbells =
        doorbells::ask(&client, &description.regions, &reserved).map_err(AttachCause::Doorbells)?;
    // 6. BAR areas. Their descriptors are closed when this returns.
    let reset = description.info.reset;
    let (msix, irqs) = (description.capabilities.msix, description.irqs);
    let areas = map_allowed(common, services, description, &reserved).map_err(AttachCause::Map)?;
    let VmServices {
        vm,
        spaces,
        windows,
        ..
    } = services;
    let bars = BarMap::new(
        common.span(),
        Arc::clone(vm),
        Arc::clone(spaces),
        *windows,
        areas,
    )
    .with_doorbells(doorbells);
    // 7. Interrupts: nothing is wired before the guest asks for it. What the host's kernel says is for the operator.
    let host_notices = host_notices::bind(&client, &irqs);
    let interrupts = Interrupts::new(common.span(), Arc::clone(&client), Arc::clone(vm), irqs);
    let id = common.id.clone();
    let parts = Parts {
        id,
        pci: common.pci.clone(),
        client,
        can_reset: reset,
        msix,
        interrupts,
        host_notices,
        bars,
        config: registers,
    };
    Ok(VfioUserFunction::new(parts))
}

/// `early`: before the device is open.
fn give_ram(client: &Client, services: &VmServices, early: bool) -> Result<(), AttachCause> {
    let began = Instant::now();
    services.ram.take_huge_pages();
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(
        stage = "huge-pages",
        ms,
        "guest RAM is in pages of 2 MiB where there are any"
    );
    let began = Instant::now();
    map_ram(client, &services.ram).map_err(AttachCause::Dma)?;
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    let stage = "dma-map";
    tracing::info!(stage, ms, early, "the device reaches guest RAM");
    Ok(())
}

/// Maps what the operator and the host's CPU let it.
fn map_allowed(
    common: &VfioCommon,
    services: &VmServices,
    description: Description,
    reserved: &[(u8, Range<u64>)],
) -> Result<Vec<Area>, MapError> {
    match common.options.bar_mmap {
        BarMmap::Off => Ok(Vec::new()),
        BarMmap::On if services.bars_leak => {
            tracing::warn!(
                "BARs are trapped, as the host's CPU could leak memory through mapped ones"
            );
            Ok(Vec::new())
        }
        BarMmap::On | BarMmap::Force => map_all(description, reserved),
    }
}

/// What of the BARs this process answers itself.
fn reserved(description: &Description) -> Vec<(u8, Range<u64>)> {
    let Some(layout) = &description.capabilities.msix else {
        return Vec::new();
    };
    let range = |start: u64, len: u64| start..start + len;
    let (table, pending) = (layout.table, layout.pending);
    vec![
        (table.bar, range(table.offset, table_bytes(layout))),
        (pending.bar, range(pending.offset, pending_bytes(layout))),
    ]
}

fn map_all(description: Description, reserved: &[(u8, Range<u64>)]) -> Result<Vec<Area>, MapError> {
    let mut areas = Vec::new();
    for region in description.regions {
        let [bar, ..] = region.index.0.to_le_bytes();
        if bar >= ROM || !region.flags.contains(RegionFlags::MMAP) {
            continue;
        }
        let of_bar: Vec<Range<u64>> = reserved
            .iter()
            .filter(|(owner, _)| *owner == bar)
            .map(|(_, range)| range.clone())
            .collect();
        areas.extend(map_areas(region, &of_bar)?);
    }
    Ok(areas)
}
