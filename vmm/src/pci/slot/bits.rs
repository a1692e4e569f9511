//! Slot Control and Slot Status bits, as Linux's pci_regs.h spells them.
//!
//! Spec: PCI Express Base 4.0 §7.5.3.10 (Slot Control), §7.5.3.11 (Slot Status).

/// Attention Button Pressed Enable.
pub const SLTCTL_ABPE: u16 = 0x0001;
/// Presence Detect Changed Enable.
pub const SLTCTL_PDCE: u16 = 0x0008;
/// Command Completed Interrupt Enable.
pub const SLTCTL_CCIE: u16 = 0x0010;
/// Hot-Plug Interrupt Enable.
pub const SLTCTL_HPIE: u16 = 0x0020;
/// Power Indicator Control.
pub const SLTCTL_PIC: u16 = 0x0300;
/// Power indicator on.
pub const SLTCTL_PIC_ON: u16 = 0x0100;
/// Power indicator blinking.
pub const SLTCTL_PIC_BLINK: u16 = 0x0200;
/// Power indicator off.
pub const SLTCTL_PIC_OFF: u16 = 0x0300;
/// Attention indicator off.
pub const SLTCTL_AIC_OFF: u16 = 0x00c0;
/// Power Controller Control: 1 turns the slot off.
pub const SLTCTL_PCC: u16 = 0x0400;
/// Data Link Layer State Changed Enable.
pub const SLTCTL_DLLSCE: u16 = 0x1000;
/// What the guest may write.
pub const SLTCTL_WRITABLE: u16 = 0x17ff;
/// Attention Button Pressed.
pub const SLTSTA_ABP: u16 = 0x0001;
/// Presence Detect Changed.
pub const SLTSTA_PDC: u16 = 0x0008;
/// Command Completed.
pub const SLTSTA_CC: u16 = 0x0010;
/// Presence Detect State.
pub const SLTSTA_PDS: u16 = 0x0040;
/// Data Link Layer State Changed.
pub const SLTSTA_DLLSC: u16 = 0x0100;
/// What the guest clears by writing ones.
pub const SLTSTA_EVENTS: u16 = SLTSTA_ABP | SLTSTA_PDC | SLTSTA_CC | SLTSTA_DLLSC;
