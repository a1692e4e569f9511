//! Configuration space of a passed device: which bytes are the VMM's and which are the device's.
//!
//! Spec: PCI Local Bus 3.0 §6.2 (header), §6.8 (MSI, MSI-X); PCI Power Management 1.2 §3.2.4; PCI Express Base 4.0 §6.6.2
//! (function-level reset).
//! The VMM's are identity, header type, capability list, BARs, interrupt line, MSI and MSI-X: they decide how the VMM
//! itself acts, so they come from the copy taken at attach and the device cannot change them later. The command
//! register is both: the VMM keeps it and the device gets it. All else is read from and written to the device.
//! Pure: a write changes this state and says what must follow; `function.rs` does it.

mod ownership;

use super::capabilities::{Capabilities, FunctionResetBit};
use super::msi::{self, MsiState};
use crate::pci::BarRequest;
use crate::pci::bar::{BarError, Bars, Decoded, ROM};
use crate::pci::config_space::{CONFIG_BYTES, ConfigSpace};

const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const CACHE_LINE_AND_LATENCY: std::ops::Range<u16> = 0x0c..0x0e;
const BIST: u16 = 0x0f;
const FIRST_BAR: u16 = 0x10;
const ROM_REGISTER: u16 = 0x30;
const INTERRUPT_LINE: u16 = 0x3c;
const INTERRUPT_PIN: u16 = 0x3d;
const HEADER_BYTES: u16 = 0x40;
const LEGACY_BYTES: u16 = 0x100;

const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_DECODES: u16 = 3;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// I/O, memory, master, special cycles, MWI, parity, SERR, INTx disable.
const COMMAND_WRITABLE: u16 = 0x055f;
const MSIX_CONTROL_OFFSET: u16 = 2;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const POWER_CONTROL_OFFSET: u16 = 4;
const POWER_STATE: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Device,
    Vmm,
    Both,
}

/// The registers that the VMM keeps for one device.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    space: ConfigSpace,
    source: Vec<Source>,
    /// How many bytes the device has.
    len: u16,
    bars: Bars,
    capabilities: Capabilities,
    powered_down: bool,
}

/// How interrupts leave the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterruptMode {
    /// None: the driver has not started, or has turned all kinds off.
    Off,
    /// The pin.
    Intx,
    /// Messages of the MSI capability.
    Msi(MsiState),
    /// Messages of the MSI-X table.
    Msix {
        /// All vectors are masked.
        mask_all: bool,
    },
}

/// What must follow a guest write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Aligned pieces that go to the device.
    pub forward: Vec<(u16, Vec<u8>)>,
    /// The write starts a function-level reset; the last piece does.
    pub function_reset: bool,
    /// BARs may decode elsewhere, or no more.
    pub decode: bool,
    /// The interrupt mode, a message or a mask may have changed.
    pub interrupts: bool,
}

impl DeviceConfig {
    /// The state after reset. `copy` is the device's space as read at attach (256 or 4096 bytes).
    pub fn new(
        copy: &[u8],
        bars: &[BarRequest],
        capabilities: &Capabilities,
        has_intx: bool,
    ) -> Result<Self, BarError> {
        let len = if copy.len() >= CONFIG_BYTES {
            4096
        } else {
            LEGACY_BYTES
        };
        let mut config = Self {
            space: ConfigSpace::new(),
            source: vec![Source::Device; CONFIG_BYTES],
            len,
            bars: Bars::new(bars)?,
            capabilities: capabilities.clone(),
            powered_down: false,
        };
        config
            .space
            .set(0, copy.get(..usize::from(len)).unwrap_or(copy));
        config.header(has_intx);
        config.list(copy);
        config.message_interrupts();
        config.hide();
        config.reset();
        Ok(config)
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.bars.clear();
        for index in 0..=ROM {
            self.show_bar(index);
        }
        self.space.set(COMMAND, &[0, 0]);
        self.space.set(INTERRUPT_LINE, &[0]);
        if let Some(layout) = self.capabilities.msi {
            msi::set_up(&mut self.space, &layout);
        }
        if let Some(layout) = self.capabilities.msix {
            let control = layout.offset + MSIX_CONTROL_OFFSET;
            let fixed = self.space.u16_at(control) & !(MSIX_ENABLE | MSIX_MASK_ALL);
            self.space.set(control, &fixed.to_le_bytes());
        }
        self.powered_down = false;
    }

    /// True if some byte of the access is the device's.
    pub fn needs_device(&self, offset: u16, len: usize) -> bool {
        let offset = usize::from(offset);
        let inside = offset < usize::from(self.len);
        inside
            && self
                .source
                .get(offset..offset + len)
                .is_none_or(|sources| sources.contains(&Source::Device))
    }

    /// Puts the VMM's bytes over what the device answered. Past the device's end all bytes are ones.
    pub fn overlay(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            match self.source.get(usize::from(at)) {
                Some(Source::Device) if at < self.len => {}
                Some(Source::Vmm | Source::Both) if at < self.len => {
                    self.space.read(at, std::slice::from_mut(byte))
                }
                Some(_) | None => *byte = 0xff,
            }
        }
    }

    /// A guest write of an aligned piece of at most four bytes.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Written {
        let mut written = Written::default();
        if offset >= self.len {
            return written;
        }
        let before = (self.decoded(), self.interrupt_mode());
        let intx_before = self.u16_at(COMMAND) & COMMAND_INTX_DISABLE;
        self.space.write(offset, data);
        self.write_bars(offset, data);
        self.write_power(offset, data);
        written.decode = self.decoded() != before.0;
        written.interrupts = self.interrupt_mode() != before.1
            || self.u16_at(COMMAND) & COMMAND_INTX_DISABLE != intx_before;
        written.forward = self.forwarded(offset, data);
        let resets = |(at, bytes): &(u16, Vec<u8>)| self.starts_reset(*at, bytes);
        written.function_reset = written.forward.iter().any(resets);
        written.forward.sort_by_key(resets);
        written
    }

    /// The BARs that decode now.
    pub fn decoded(&self) -> Vec<Decoded> {
        if self.powered_down {
            Vec::new()
        } else {
            self.bars.decoded(self.u16_at(COMMAND))
        }
    }

    /// How interrupts leave the function now.
    pub fn interrupt_mode(&self) -> InterruptMode {
        if let Some(layout) = self.capabilities.msix {
            let control = self.u16_at(layout.offset + MSIX_CONTROL_OFFSET);
            if control & MSIX_ENABLE != 0 {
                return InterruptMode::Msix {
                    mask_all: control & MSIX_MASK_ALL != 0,
                };
            }
        }
        if let Some(state) = self
            .capabilities
            .msi
            .and_then(|layout| msi::state(&self.space, &layout))
        {
            return InterruptMode::Msi(state);
        }
        let command = self.u16_at(COMMAND);
        let active = command & (COMMAND_DECODES | COMMAND_MASTER) != 0;
        let has_pin = self.pin().is_some();
        if has_pin && active && command & COMMAND_INTX_DISABLE == 0 {
            InterruptMode::Intx
        } else {
            InterruptMode::Off
        }
    }

    /// The interrupt pin, 0 for INTA.
    pub fn pin(&self) -> Option<u8> {
        let mut pin = [0];
        self.space.read(INTERRUPT_PIN, &mut pin);
        pin[0].checked_sub(1)
    }

    /// The decoders, for whoever places them.
    pub fn requests(&self) -> Vec<BarRequest> {
        self.bars.requests()
    }

    /// Where the MSI pending register is, if the access touches it.
    pub fn msi_pending_at(&self, offset: u16, len: usize) -> Option<u16> {
        let at = msi::pending_offset(&self.capabilities.msi?)?;
        let (start, end) = (usize::from(offset), usize::from(offset) + len);
        (start < usize::from(at) + 4 && usize::from(at) < end).then_some(at)
    }

    /// Shows bits in the MSI pending register.
    pub fn show_msi_pending(&mut self, at: u16, pending: u32) {
        self.space.set(at, &pending.to_le_bytes());
    }

    fn u16_at(&self, offset: u16) -> u16 {
        self.space.u16_at(offset)
    }

    fn write_bars(&mut self, offset: u16, data: &[u8]) {
        for index in 0..=ROM {
            let register = register_of(index);
            if offset >= register + 4 || usize::from(offset) + data.len() <= usize::from(register) {
                continue;
            }
            let mut bytes = self.bars.read(index).to_le_bytes();
            for (new, at) in data.iter().zip(offset..) {
                if let Some(byte) = at
                    .checked_sub(register)
                    .and_then(|at| bytes.get_mut(usize::from(at)))
                {
                    *byte = *new;
                }
            }
            self.bars.write(index, u32::from_le_bytes(bytes));
            self.show_bar(index);
        }
    }

    fn show_bar(&mut self, index: u8) {
        self.space
            .set(register_of(index), &self.bars.read(index).to_le_bytes());
    }

    fn write_power(&mut self, offset: u16, data: &[u8]) {
        let Some(power) = self.capabilities.power else {
            return;
        };
        let written = (power + POWER_CONTROL_OFFSET)
            .checked_sub(offset)
            .and_then(|at| data.get(usize::from(at)));
        if let Some(control) = written {
            self.powered_down = control & POWER_STATE != 0;
        }
    }

    fn starts_reset(&self, offset: u16, data: &[u8]) -> bool {
        self.capabilities
            .function_resets
            .iter()
            .any(|FunctionResetBit { offset: byte, mask }| {
                byte.checked_sub(offset)
                    .and_then(|at| data.get(usize::from(at)))
                    .is_some_and(|new| new & mask != 0)
            })
    }

    /// The pieces of a write that the device must see, each aligned and whole.
    fn forwarded(&self, offset: u16, data: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let goes = |at: u16| {
            at < self.len
                && self
                    .source
                    .get(usize::from(at))
                    .is_some_and(|source| *source != Source::Vmm)
        };
        let mut pieces: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut rest: Vec<(u16, u8)> = (offset..).zip(data.iter().copied()).collect();
        for (at, byte) in &mut rest {
            if (COMMAND..STATUS).contains(at) {
                // The device gets what the register holds now, without reserved bits.
                self.space.read(*at, std::slice::from_mut(byte));
            }
        }
        let mut at = 0;
        while let Some((start, _)) = rest.get(at).copied() {
            let run = rest
                .get(at..)
                .unwrap_or_default()
                .iter()
                .take_while(|(at, _)| goes(*at))
                .count();
            let width = [4usize, 2, 1]
                .into_iter()
                .find(|width| *width <= run && usize::from(start) % width == 0);
            if let Some(width) = width {
                let bytes = rest
                    .get(at..at + width)
                    .unwrap_or_default()
                    .iter()
                    .map(|(_, byte)| *byte)
                    .collect();
                pieces.push((start, bytes));
            }
            at += width.unwrap_or(1);
        }
        pieces
    }
}

fn register_of(index: u8) -> u16 {
    if index == ROM {
        ROM_REGISTER
    } else {
        FIRST_BAR + 4 * u16::from(index)
    }
}

#[cfg(test)]
mod tests;
