//! `host list`: the PCI devices of the host, one per line.

use std::io::Write;

use protocol::PciAddress;
use serde_json::json;

use super::command::Format;
use super::device::HostDevice;
use super::names::Names;
use super::roots::Roots;
use super::usage::{Usage, Use, joined};

/// One device.
#[derive(Debug)]
struct Row {
    device: HostDevice,
    names: Names,
    uses: Vec<Use>,
}

/// Prints all devices, by address.
pub(super) fn print(roots: &Roots, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
    let usage = Usage::read(roots);
    let names = roots.sysfs.names("bus/pci/devices");
    let rows = names
        .iter()
        .filter_map(|name| name.parse::<PciAddress>().ok())
        // A device that is pulled out while we look is not listed.
        .filter_map(|address| HostDevice::read(&roots.sysfs, address).ok())
        .map(|device| Row {
            names: Names::read(roots, device.address),
            uses: usage.of(&device),
            device,
        });
    match format {
        Format::Text => {
            writeln!(
                out,
                "{:<12}  {:>5}  {:<12}  {:<9}  {:<28}  NAME",
                "ADDRESS", "GROUP", "DRIVER", "IDS", "CLASS"
            )?;
            rows.into_iter().try_for_each(|row| print_row(&row, out))
        }
        Format::Json => {
            let rows: Vec<_> = rows.map(|row| as_json(&row)).collect();
            writeln!(out, "{}", json!(rows))
        }
    }
}

fn print_row(row: &Row, out: &mut dyn Write) -> std::io::Result<()> {
    let group = row
        .device
        .group
        .map_or("-".to_owned(), |group| group.to_string());
    writeln!(
        out,
        "{}  {group:>5}  {:<12}  {:<9}  {:<28}  {}",
        row.device.address,
        row.device.driver.as_deref().unwrap_or("-"),
        row.names.ids,
        row.names.class,
        row.names.title(),
    )?;
    if row.uses.is_empty() {
        return Ok(());
    }
    writeln!(out, "{:<12}  in use: {}", "", joined(&row.uses))
}

fn as_json(row: &Row) -> serde_json::Value {
    json!({
        "address": row.device.address.to_string(),
        "group": row.device.group,
        "driver": row.device.driver,
        "vfio": row.device.bound_to_vfio,
        "ids": row.names.ids,
        "vendor": row.names.vendor,
        "device": row.names.device,
        "class": row.names.class,
        "in_use": row.uses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
