//! Configuration space of the test device.
//!
//! Spec: PCI Local Bus 3.0 section 6 (header, MSI, MSI-X), PCIe Base section 7.5 (capability). A byte array and a mask of
//! the bits that a write changes; two writes have effects: INTx Disable, and Initiate Function Level Reset.

use protocol::Errno;

use crate::backends::test::layout;

const COMMAND: usize = 0x04;
const COMMAND_BUS_MASTER: u8 = 1 << 2;
/// INTx Disable, bit 10 of COMMAND.
const COMMAND_HIGH_INTX_DISABLE: u8 = 1 << 2;
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

const MSI: usize = 0x40;
const MSIX: usize = 0x58;
const PCIE: usize = 0x68;
const PCIE_DEVICE_CONTROL: usize = PCIE + 8;
/// Initiate Function Level Reset, bit 15 of Device Control.
const DEVICE_CONTROL_HIGH_FLR: u8 = 1 << 7;

const SIZE: usize = layout::CONFIG_BYTES as usize;

/// What a configuration write asks of the device beyond the registers themselves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConfigEffect {
    /// Nothing.
    None,
    /// The driver started a function level reset.
    FunctionLevelReset,
}

/// The registers and which bits of them a driver may change.
pub(super) struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
}

impl std::fmt::Debug for ConfigSpace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ConfigSpace")
            .finish_non_exhaustive()
    }
}

impl ConfigSpace {
    /// The state after power-on.
    pub(super) fn new() -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: Box::new([0; SIZE]),
            writable: Box::new([0; SIZE]),
        };
        space.fill_header();
        space.fill_bars();
        space.fill_msi();
        space.fill_msix();
        space.fill_pcie();
        space
    }

    /// Reads any bytes.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        let end = start.checked_add(data.len()).ok_or(Errno::INVAL)?;
        data.copy_from_slice(self.bytes.get(start..end).ok_or(Errno::INVAL)?);
        Ok(())
    }

    /// Writes any bytes; bits that are read-only keep their value.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<ConfigEffect, Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        let end = start.checked_add(data.len()).ok_or(Errno::INVAL)?;
        let bytes = self.bytes.get_mut(start..end).ok_or(Errno::INVAL)?;
        let writable = self.writable.get(start..end).ok_or(Errno::INVAL)?;
        for ((byte, mask), new) in bytes.iter_mut().zip(writable).zip(data) {
            *byte = (*byte & !mask) | (new & mask);
        }
        if self.take_flr() {
            Ok(ConfigEffect::FunctionLevelReset)
        } else {
            Ok(ConfigEffect::None)
        }
    }

    /// Whether the device may do DMA.
    pub(super) fn bus_master(&self) -> bool {
        self.byte(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    /// Whether the driver has turned the INTx pin off.
    pub(super) fn intx_disabled(&self) -> bool {
        self.byte(COMMAND + 1) & COMMAND_HIGH_INTX_DISABLE != 0
    }

    /// Shows in the status register whether the device has an interrupt to report.
    pub(super) fn show_intx_status(&mut self, high: bool) {
        let status = if high {
            STATUS_CAPABILITIES | STATUS_INTERRUPT
        } else {
            STATUS_CAPABILITIES
        };
        self.put(STATUS, &[status], &[0]);
    }

    /// The FLR bit reads as zero: it is taken out as soon as it is seen.
    fn take_flr(&mut self) -> bool {
        let high = self.byte(PCIE_DEVICE_CONTROL + 1);
        self.set_byte(PCIE_DEVICE_CONTROL + 1, high & !DEVICE_CONTROL_HIGH_FLR);
        high & DEVICE_CONTROL_HIGH_FLR != 0
    }

    fn fill_header(&mut self) {
        self.put(0x00, &layout::VENDOR_ID.to_le_bytes(), &[0; 2]);
        self.put(0x02, &layout::DEVICE_ID.to_le_bytes(), &[0; 2]);
        // I/O, memory, bus master; SERR and INTx disable.
        self.put(COMMAND, &[0, 0], &[0x07, 0x05]);
        self.put(STATUS, &[STATUS_CAPABILITIES, 0], &[0, 0]);
        // Revision 1; class ff: fits in no other.
        self.put(0x08, &[0x01, 0x00, 0x00, 0xff], &[0; 4]);
        self.put(0x0c, &[0, 0], &[0xff, 0xff]);
        self.put(0x2c, &layout::VENDOR_ID.to_le_bytes(), &[0; 2]);
        self.put(0x2e, &layout::DEVICE_ID.to_le_bytes(), &[0; 2]);
        self.put(0x34, &[0x40], &[0]);
        // Interrupt line is the driver's; the pin is INTA.
        self.put(0x3c, &[0x00, 0x01], &[0xff, 0x00]);
    }

    fn fill_bars(&mut self) {
        self.put_bar(0x10, 0b0000, layout::MAPPED_BAR_BYTES);
        self.put_bar(0x14, 0b0000, layout::TABLE_BAR_BYTES);
        self.put_bar(0x18, 0b0100, layout::REGISTER_BAR_BYTES);
        self.put(0x1c, &[0; 4], &[0xff; 4]);
        self.put_bar(0x20, 0b0001, layout::IO_BAR_BYTES);
    }

    /// 64-bit address, mask bits, 8 vectors.
    fn fill_msi(&mut self) {
        self.put(MSI, &[0x05, 0x58, 0x86, 0x01], &[0, 0, 0x71, 0]);
        self.put(MSI + 4, &[0; 4], &[0xfc, 0xff, 0xff, 0xff]);
        self.put(MSI + 8, &[0; 4], &[0xff; 4]);
        self.put(MSI + 12, &[0; 2], &[0xff; 2]);
        self.put(MSI + 16, &[0; 1], &[0xff; 1]);
    }

    fn fill_msix(&mut self) {
        self.put(MSIX, &[0x11, 0x68, 0x0f, 0x00], &[0, 0, 0, 0xc0]);
        let bar = layout::TABLE_BAR.0;
        self.put(MSIX + 4, &bar.to_le_bytes(), &[0; 4]);
        self.put(MSIX + 8, &(layout::PBA_OFFSET | bar).to_le_bytes(), &[0; 4]);
    }

    /// Version 2, endpoint; function level reset; a 2.5 GT/s x1 link that is up.
    fn fill_pcie(&mut self) {
        self.put(PCIE, &[0x10, 0x00, 0x02, 0x00], &[0; 4]);
        self.put(PCIE + 4, &0x1000_8000u32.to_le_bytes(), &[0; 4]);
        self.put(PCIE_DEVICE_CONTROL, &[0x00, 0x00], &[0xff, 0xff]);
        self.put(PCIE + 12, &0x11u32.to_le_bytes(), &[0; 4]);
        self.put(PCIE + 16, &[0, 0, 0x11, 0], &[0x43, 0, 0, 0]);
    }

    fn put_bar(&mut self, offset: usize, kind: u8, size: u32) {
        let mask = !size.saturating_sub(1);
        self.put(offset, &[kind, 0, 0, 0], &mask.to_le_bytes());
    }

    /// Places registers at a constant offset inside the space.
    fn put(&mut self, offset: usize, value: &[u8], writable: &[u8]) {
        for (index, (byte, mask)) in value.iter().zip(writable).enumerate() {
            let at = offset.saturating_add(index);
            self.set_byte(at, *byte);
            if let Some(slot) = self.writable.get_mut(at) {
                *slot = *mask;
            }
        }
    }

    fn byte(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(0)
    }

    fn set_byte(&mut self, offset: usize, value: u8) {
        if let Some(byte) = self.bytes.get_mut(offset) {
            *byte = value;
        }
    }
}

#[cfg(test)]
mod tests;
