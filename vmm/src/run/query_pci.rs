//! What `query-pci` answers: QEMU's PciInfo, from the configuration headers as the guest finds them now.
//!
//! Spec: QEMU qapi/pci.json; PCI Local Bus 3.0 §6.1, §6.2.5; PCI-to-PCI Bridge 1.2 §3.2.5. A BAR that decodes nothing has
//! the address -1, as in QEMU.

use serde_json::{Map, Value, json};

use crate::pci::bar::{COMMAND_IO, COMMAND_MEMORY, ROM};
use crate::pci::{BarKind, BarRequest, FunctionState};

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const CLASS: usize = 0x0a;
const FIRST_BAR: usize = 0x10;
const IO_BASE: usize = 0x1c;
const IO_LIMIT: usize = 0x1d;
const MEMORY_BASE: usize = 0x20;
const MEMORY_LIMIT: usize = 0x22;
const PREFETCHABLE_BASE: usize = 0x24;
const PREFETCHABLE_LIMIT: usize = 0x26;
const PREFETCHABLE_BASE_UPPER: usize = 0x28;
const PREFETCHABLE_LIMIT_UPPER: usize = 0x2c;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const ROM_REGISTER: usize = 0x30;
const IO_BASE_UPPER: usize = 0x30;
const IO_LIMIT_UPPER: usize = 0x32;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

const ROM_ENABLE: u64 = 1;

/// All buses: the root bus, with what is behind each port inside the port.
pub(super) fn answer(functions: &[FunctionState]) -> Value {
    let root: Vec<Value> = functions
        .iter()
        .filter(|function| function.bus == 0)
        .map(|function| device(function, functions))
        .collect();
    json!([{ "bus": 0, "devices": root }])
}

fn device(function: &FunctionState, all: &[FunctionState]) -> Value {
    let header = Header(&function.header);
    let pin = header.byte(INTERRUPT_PIN);
    let mut answer = Map::new();
    let mut put = |key: &str, value: Value| answer.insert(key.to_owned(), value);
    put("bus", function.bus.into());
    put("slot", (function.devfn >> 3).into());
    put("function", (function.devfn & 7).into());
    put("class_info", json!({ "class": header.word(CLASS) }));
    put("id", id(function));
    put("irq_pin", pin.into());
    if pin != 0 {
        put("irq", header.byte(INTERRUPT_LINE).into());
    }
    put("qdev_id", function.id.as_str().into());
    let regions = function.bars.iter().map(|bar| region(bar, &header));
    put("regions", regions.collect());
    if let Some(buses) = function.buses {
        put("pci_bridge", bridge(function, buses, all));
    }
    Value::Object(answer)
}

fn id(function: &FunctionState) -> Value {
    let header = Header(&function.header);
    let (vendor, device) = (header.word(VENDOR), header.word(DEVICE));
    if function.buses.is_some() {
        // A bridge has its limits where others have these.
        return json!({ "vendor": vendor, "device": device });
    }
    json!({
        "vendor": vendor,
        "device": device,
        "subsystem-vendor": header.word(SUBSYSTEM_VENDOR),
        "subsystem": header.word(SUBSYSTEM),
    })
}

fn region(bar: &BarRequest, header: &Header<'_>) -> Value {
    let at = if bar.index == ROM {
        ROM_REGISTER
    } else {
        FIRST_BAR + 4 * usize::from(bar.index)
    };
    let (command, low) = (header.word(COMMAND), header.long(at));
    let memory = command & COMMAND_MEMORY != 0;
    // The bits below the size are flags.
    let (value, decodes) = match bar.kind {
        BarKind::Io => (low, command & COMMAND_IO != 0),
        BarKind::Memory32 { .. } => (low, memory),
        BarKind::Memory64 { .. } => (low | header.long(at + 4) << 32, memory),
        BarKind::Rom => (low, memory && low & ROM_ENABLE != 0),
    };
    let address = if decodes {
        json!(value & !(bar.size - 1))
    } else {
        json!(-1)
    };
    let (kind, prefetch, wide) = match bar.kind {
        BarKind::Io => {
            return json!({ "bar": bar.index, "type": "io", "address": address, "size": bar.size });
        }
        BarKind::Rom => ("memory", false, false),
        BarKind::Memory32 { prefetchable } => ("memory", prefetchable, false),
        BarKind::Memory64 { prefetchable } => ("memory", prefetchable, true),
    };
    json!({
        "bar": bar.index,
        "type": kind,
        "address": address,
        "size": bar.size,
        "prefetch": prefetch,
        "mem_type_64": wide,
    })
}

/// A port, with the windows that it forwards.
fn bridge(
    port: &FunctionState,
    (secondary, subordinate): (u8, u8),
    all: &[FunctionState],
) -> Value {
    let header = Header(&port.header);
    let io = |low: usize, upper: usize| {
        u64::from(header.byte(low) & 0xf0) << 8 | u64::from(header.word(upper)) << 16
    };
    let memory = |at: usize| u64::from(header.word(at) & 0xfff0) << 16;
    let wide = |at: usize, upper: usize| memory(at) | header.long(upper) << 32;
    let range = |base: u64, limit: u64| json!({ "base": base, "limit": limit });
    let behind: Vec<Value> = all
        .iter()
        .filter(|other| secondary != 0 && other.bus == secondary)
        .map(|other| device(other, &[]))
        .collect();
    json!({
        "bus": {
            "number": port.bus,
            "secondary": secondary,
            "subordinate": subordinate,
            "io_range": range(io(IO_BASE, IO_BASE_UPPER), io(IO_LIMIT, IO_LIMIT_UPPER) | 0xfff),
            "memory_range": range(memory(MEMORY_BASE), memory(MEMORY_LIMIT) | 0xf_ffff),
            "prefetchable_range": range(
                wide(PREFETCHABLE_BASE, PREFETCHABLE_BASE_UPPER),
                wide(PREFETCHABLE_LIMIT, PREFETCHABLE_LIMIT_UPPER) | 0xf_ffff,
            ),
        },
        "devices": behind,
    })
}

/// Little-endian numbers of a header.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0.get(at..at + N);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0xff; N])
    }

    fn byte(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.bytes(at))
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn long(&self, at: usize) -> u64 {
        u32::from_le_bytes(self.bytes(at)).into()
    }
}

#[cfg(test)]
mod tests;
