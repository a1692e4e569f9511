//! Registers of PCI config space that the server must know by name.
//!
//! Values as in Linux `include/uapi/linux/pci_regs.h`; documents: PCI Local Bus 3.0 §6, PCI Express Base §7.

// PCI Local Bus 3.0 §6.1, the header.
pub(super) const COMMAND: usize = 0x04;
pub(super) const COMMAND_BUS_MASTER: u16 = 0x0004;
pub(super) const COMMAND_PARITY: u16 = 0x0040;
pub(super) const COMMAND_SERR: u16 = 0x0100;
pub(super) const STATUS: usize = 0x06;
pub(super) const STATUS_CAPABILITIES_LIST: u16 = 0x0010;
pub(super) const BIST: usize = 0x0f;
pub(super) const CAPABILITIES_POINTER: usize = 0x34;
pub(super) const INTERRUPT_LINE: usize = 0x3c;

// Capability ids, and registers relative to the capability.
pub(super) const CAP_ID_VPD: u8 = 0x03;
/// High byte of the address register; its top bit starts a write.
pub(super) const VPD_ADDRESS_HIGH: usize = 3;
pub(super) const VPD_ADDRESS_HIGH_WRITE: u8 = 0x80;

pub(super) const CAP_ID_MSI: u8 = 0x05;
pub(super) const MSI_CONTROL: usize = 2;
pub(super) const MSI_CONTROL_64BIT: u16 = 0x0080;
pub(super) const MSI_CONTROL_MASKABLE: u16 = 0x0100;

pub(super) const CAP_ID_EXPRESS: u8 = 0x10;
pub(super) const EXPRESS_DEVICE_CONTROL: usize = 8;
/// Correctable, non-fatal, fatal and unsupported-request reporting enable.
pub(super) const EXPRESS_DEVICE_CONTROL_REPORTING: u8 = 0x0f;

pub(super) const CAP_ID_MSIX: u8 = 0x11;
pub(super) const MSIX_CONTROL: usize = 2;
pub(super) const MSIX_TABLE: usize = 4;
pub(super) const MSIX_PBA: usize = 8;
pub(super) const MSIX_BYTES: usize = 12;
pub(super) const MSIX_TABLE_ENTRY_BYTES: u64 = 16;

// Extended capabilities.
pub(super) const EXTENDED_CONFIG_START: usize = 0x100;
pub(super) const EXTENDED_CAP_ID_AER: u16 = 0x0001;
/// Length of the advanced error reporting capability of an endpoint, TLP prefix log included.
pub(super) const AER_BYTES: usize = 0x48;
