//! Register offsets and bits of a root port: type 1 header, PCI Express and MSI capabilities.

// Identity: Red Hat, "PCIe root port"; class 06 (bridge), subclass 04 (PCI to PCI).
pub(super) const IDENTITY: [u8; 4] = [0x36, 0x1b, 0x0c, 0x00];
pub(super) const CLASS_AND_REVISION: [u8; 4] = [0x00, 0x00, 0x04, 0x06];

// PCI-to-PCI Bridge 1.2 §3.2: the header.
pub(super) const COMMAND: u16 = 0x04;
pub(super) const STATUS: u16 = 0x06;
pub(super) const CACHE_LINE: u16 = 0x0c;
pub(super) const HEADER_TYPE: u16 = 0x0e;
pub(super) const PRIMARY_BUS: u16 = 0x18;
pub(super) const IO_BASE: u16 = 0x1c;
pub(super) const SECONDARY_STATUS: u16 = 0x1e;
pub(super) const MEMORY_BASE: u16 = 0x20;
pub(super) const PREFETCHABLE_BASE: u16 = 0x24;
pub(super) const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
pub(super) const INTERRUPT_LINE: u16 = 0x3c;
pub(super) const INTERRUPT_PIN: u16 = 0x3d;
pub(super) const BRIDGE_CONTROL: u16 = 0x3e;

pub(super) const HEADER_TYPE_BRIDGE: u8 = 1;
pub(super) const WINDOW_IS_64_BIT: u8 = 1;
pub(super) const COMMAND_IO: u16 = 1 << 0;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
pub(super) const COMMAND_MASTER: u16 = 1 << 2;
pub(super) const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// I/O, memory, master, parity, SERR, INTx disable.
pub(super) const COMMAND_WRITABLE: u16 = 0x0547;
pub(super) const STATUS_CLEARED_BY_ONE: u16 = 0xf900;
pub(super) const BRIDGE_CONTROL_BUS_RESET: u16 = 1 << 6;
/// Parity, SERR, ISA, VGA, 16-bit VGA, bus reset.
pub(super) const BRIDGE_CONTROL_WRITABLE: u16 = 0x005f;

// PCI Express Base 4.0 §7.5.3: offsets from the start of the capability.
pub(super) const CAPABILITY_EXPRESS: u8 = 0x10;
/// A version 2 capability has 60 bytes, two of them id and next pointer.
pub(super) const EXPRESS_BODY_BYTES: usize = 58;
pub(super) const PCIECAP: u16 = 0x02;
pub(super) const DEVCAP: u16 = 0x04;
pub(super) const DEVCTL: u16 = 0x08;
pub(super) const DEVSTA: u16 = 0x0a;
pub(super) const LNKCAP: u16 = 0x0c;
pub(super) const LNKCTL: u16 = 0x10;
pub(super) const LNKSTA: u16 = 0x12;
pub(super) const SLTCAP: u16 = 0x14;
pub(super) const SLTSTA: u16 = 0x1a;
pub(super) const ROOTCTL: u16 = 0x1c;
pub(super) const ROOTSTA: u16 = 0x20;
pub(super) const LNKCAP2: u16 = 0x2c;
pub(super) const LNKCTL2: u16 = 0x30;

pub(super) const PCIECAP_V2: u16 = 2;
pub(super) const PCIECAP_ROOT_PORT: u16 = 4 << 4;
pub(super) const PCIECAP_SLOT: u16 = 1 << 8;
pub(super) const DEVCAP_ROLE_BASED_ERRORS: u32 = 1 << 15;
/// Error reporting, relaxed ordering, payload, tags, no snoop, read request size; not the reset bit.
pub(super) const DEVCTL_WRITABLE: u16 = 0x7fff;
pub(super) const DEVSTA_CLEARED_BY_ONE: u16 = 0x000f;
pub(super) const LNKCAP_SPEED_16GT: u32 = 4;
pub(super) const LNKCAP_WIDTH_X16: u32 = 16 << 4;
/// Data link layer link active reporting capable.
pub(super) const LNKCAP_DLLLARC: u32 = 1 << 20;
/// ASPM, read completion boundary, common clock, extended sync; link disable and retrain are not modelled.
pub(super) const LNKCTL_WRITABLE: u16 = 0x00cb;
pub(super) const LNKSTA_SPEED_16GT: u16 = 4;
pub(super) const LNKSTA_WIDTH_X16: u16 = 16 << 4;
pub(super) const LNKSTA_DLLLA: u16 = 1 << 13;
pub(super) const SLTCTL: u16 = 0x18;
pub(super) const SLTCAP_NUMBER_SHIFT: u32 = 19;
/// Attention button, power controller, both indicators, surprise removal, hot-plug.
pub(super) const SLTCAP_HOT_PLUG: u32 = 0x7b;
/// System error enables, PME interrupt enable.
pub(super) const ROOTCTL_WRITABLE: u16 = 0x000f;
pub(super) const ROOTSTA_PME: u32 = 1 << 16;
/// 2.5, 5, 8 and 16 GT/s.
pub(super) const LNKCAP2_UP_TO_16GT: u32 = 0x1e;
/// The target link speed.
pub(super) const LNKCTL2_WRITABLE: u16 = 0x000f;

// PCI Local Bus 3.0 §6.8.1: MSI with a 64-bit address and one message.
pub(super) const CAPABILITY_MSI: u8 = 0x05;
pub(super) const MSI_64_BIT_BODY_BYTES: usize = 12;
pub(super) const MSI_CONTROL: u16 = 2;
pub(super) const MSI_ADDRESS: u16 = 4;
pub(super) const MSI_ADDRESS_UPPER: u16 = 8;
pub(super) const MSI_DATA: u16 = 12;
pub(super) const MSI_CONTROL_64_BIT: u16 = 1 << 7;
pub(super) const MSI_CONTROL_ENABLE: u16 = 1 << 0;
