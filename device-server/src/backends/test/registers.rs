//! The register file of the test device: BAR2, and its first 32 bytes once more as the I/O BAR.
//!
//! All registers are 32 bits wide, little-endian. Reads of any width and alignment give the bytes of the registers they
//! cover; bytes where there is no register read as zero. A write acts on every register it touches, with the bytes it
//! does not cover unchanged. What a write makes the device do comes back as a list of `Action`s, at most one per
//! register: nothing here touches interrupts or client memory.

use protocol::{Errno, Iova, IrqIndex};

use crate::backends::test::dma_engine::{DmaCommand, DmaJob};

/// "BLKT" in memory order: what the ID register reads.
const ID: u32 = u32::from_le_bytes(*b"BLKT");
/// Version of this register map.
const MAP_VERSION: u32 = 1;
/// FEATURES: client memory is reached by messages only.
const FEATURE_MESSAGE_DMA: u32 = 1;

/// Registers by their offset in BAR2 divided by 4.
mod register {
    pub(super) const ID: u64 = 0;
    pub(super) const MAP_VERSION: u64 = 1;
    pub(super) const SCRATCH: u64 = 2;
    pub(super) const FEATURES: u64 = 3;
    pub(super) const IRQ_RAISE: u64 = 4;
    pub(super) const INTX_LEVEL: u64 = 5;
    pub(super) const RESETS: u64 = 6;
    pub(super) const MAPPED_BAR_MESSAGES: u64 = 7;
    pub(super) const DMA_SOURCE_LOW: u64 = 8;
    pub(super) const DMA_SOURCE_HIGH: u64 = 9;
    pub(super) const DMA_DESTINATION_LOW: u64 = 10;
    pub(super) const DMA_DESTINATION_HIGH: u64 = 11;
    pub(super) const DMA_LENGTH: u64 = 12;
    pub(super) const DMA_COMMAND: u64 = 13;
    pub(super) const DMA_STATUS: u64 = 14;
    pub(super) const DMA_RESULT: u64 = 15;
    pub(super) const DMA_IRQ: u64 = 16;
    pub(super) const DOORBELL: u64 = 17;
    pub(super) const MATCHED_DOORBELL: u64 = 18;
    pub(super) const RINGS: u64 = 19;
    pub(super) const RINGS_BY_MESSAGE: u64 = 20;
}

/// Bit of DMA_COMMAND: raise the interrupt in DMA_IRQ when done.
const DMA_COMMAND_INTERRUPT: u32 = 1 << 31;
/// DMA_STATUS: no job was run since the reset.
const DMA_STATUS_IDLE: u32 = 0;
/// DMA_STATUS: the last job was done.
const DMA_STATUS_DONE: u32 = 1;
/// DMA_STATUS: the last job failed; the errno is in the upper half.
const DMA_STATUS_FAILED: u32 = 2;

/// What a register write asks the device to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Raise one edge interrupt.
    RaiseIrq {
        /// MSI, MSI-X, ERR or REQ.
        index: IrqIndex,
        /// Which vector of it.
        vector: u32,
    },
    /// The level register changed.
    DriveIntx,
    /// Run the DMA engine.
    RunDma(DmaJob),
}

/// The registers with a value of their own.
#[derive(Debug)]
pub(super) struct Registers {
    features: u32,
    resets: u32,
    mapped_bar_messages: u32,
    state: State,
}

/// What a reset clears.
#[derive(Debug, Default)]
struct State {
    scratch: u32,
    intx_level: bool,
    dma_source: u64,
    dma_destination: u64,
    dma_length: u32,
    dma_command: u32,
    dma_status: u32,
    dma_result: u32,
    dma_irq: u32,
    rings: u32,
    rings_by_message: u32,
}

impl Registers {
    /// The state after power-on.
    pub(super) fn new(message_dma: bool) -> Registers {
        let features = if message_dma { FEATURE_MESSAGE_DMA } else { 0 };
        Registers {
            features,
            resets: 0,
            mapped_bar_messages: 0,
            state: State::default(),
        }
    }

    /// Back to the state after power-on, but for the counters.
    pub(super) fn reset(&mut self) {
        self.resets = self.resets.wrapping_add(1);
        self.state = State {
            dma_status: DMA_STATUS_IDLE,
            ..State::default()
        };
    }

    /// Counts one access to BAR0 that came by message.
    pub(super) fn count_mapped_access(&mut self) {
        self.mapped_bar_messages = self.mapped_bar_messages.wrapping_add(1);
    }

    /// The doorbells rang without a message, so often.
    pub(super) fn ring(&mut self, times: u64) {
        let [a, b, c, d, ..] = times.to_le_bytes();
        let times = u32::from_le_bytes([a, b, c, d]);
        self.state.rings = self.state.rings.wrapping_add(times);
    }

    /// The level that the driver asked for on the INTx pin.
    pub(super) fn intx_level(&self) -> bool {
        self.state.intx_level
    }

    /// Reads bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        if let (true, Ok(register)) = (offset & 3 == 0, <&mut [u8; 4]>::try_from(&mut *data)) {
            *register = self.value(offset >> 2).to_le_bytes();
            return;
        }
        for (address, byte) in (offset..).zip(data) {
            let bytes = self.value(address >> 2).to_le_bytes();
            *byte = bytes.get(byte_in_register(address)).copied().unwrap_or(0);
        }
    }

    /// Writes bytes from `offset` on.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut bytes = (offset..).zip(data).peekable();
        while let Some((address, _)) = bytes.peek() {
            let register = address >> 2;
            let mut value = self.value(register).to_le_bytes();
            while let Some((address, byte)) = bytes.next_if(|(address, _)| address >> 2 == register)
            {
                if let Some(slot) = value.get_mut(byte_in_register(address)) {
                    *slot = *byte;
                }
            }
            actions.extend(self.set(register, u32::from_le_bytes(value)));
        }
        actions
    }

    /// Records how a DMA job ended. Gives the interrupt to raise, if the driver asked for one.
    pub(super) fn finish_dma(&mut self, result: Result<u32, Errno>) -> Option<(IrqIndex, u32)> {
        match result {
            Ok(value) => {
                self.state.dma_result = value;
                self.state.dma_status = DMA_STATUS_DONE;
            }
            Err(errno) => {
                let code = u32::try_from(errno.raw_os_error()).unwrap_or(0);
                self.state.dma_status = DMA_STATUS_FAILED | (code << 16);
            }
        }
        (self.state.dma_command & DMA_COMMAND_INTERRUPT != 0).then(|| irq_of(self.state.dma_irq))
    }

    fn value(&self, register: u64) -> u32 {
        let state = &self.state;
        match register {
            register::ID => ID,
            register::MAP_VERSION => MAP_VERSION,
            register::SCRATCH => state.scratch,
            register::FEATURES => self.features,
            register::INTX_LEVEL => u32::from(state.intx_level),
            register::RESETS => self.resets,
            register::MAPPED_BAR_MESSAGES => self.mapped_bar_messages,
            register::DMA_SOURCE_LOW => low(state.dma_source),
            register::DMA_SOURCE_HIGH => high(state.dma_source),
            register::DMA_DESTINATION_LOW => low(state.dma_destination),
            register::DMA_DESTINATION_HIGH => high(state.dma_destination),
            register::DMA_LENGTH => state.dma_length,
            register::DMA_COMMAND => state.dma_command,
            register::DMA_STATUS => state.dma_status,
            register::DMA_RESULT => state.dma_result,
            register::DMA_IRQ => state.dma_irq,
            register::RINGS => state.rings,
            register::RINGS_BY_MESSAGE => state.rings_by_message,
            // IRQ_RAISE and the doorbells are write-only; there is nothing behind the last register.
            _ => 0,
        }
    }

    fn set(&mut self, register: u64, value: u32) -> Option<Action> {
        let state = &mut self.state;
        match register {
            register::SCRATCH => state.scratch = value,
            register::IRQ_RAISE => {
                let (index, vector) = irq_of(value);
                return Some(Action::RaiseIrq { index, vector });
            }
            register::INTX_LEVEL => {
                state.intx_level = value & 1 != 0;
                return Some(Action::DriveIntx);
            }
            register::DMA_SOURCE_LOW => set_low(&mut state.dma_source, value),
            register::DMA_SOURCE_HIGH => set_high(&mut state.dma_source, value),
            register::DMA_DESTINATION_LOW => set_low(&mut state.dma_destination, value),
            register::DMA_DESTINATION_HIGH => set_high(&mut state.dma_destination, value),
            register::DMA_LENGTH => state.dma_length = value,
            register::DMA_COMMAND => {
                state.dma_command = value;
                return Some(Action::RunDma(self.job()));
            }
            register::DMA_IRQ => state.dma_irq = value,
            register::DOORBELL | register::MATCHED_DOORBELL => {
                state.rings = state.rings.wrapping_add(1);
                state.rings_by_message = state.rings_by_message.wrapping_add(1);
            }
            // Read-only, or no register: the write is dropped, as PCI devices do.
            _ => {}
        }
        None
    }

    fn job(&self) -> DmaJob {
        DmaJob {
            command: DmaCommand(self.state.dma_command & !DMA_COMMAND_INTERRUPT),
            source: Iova(self.state.dma_source),
            destination: Iova(self.state.dma_destination),
            len_bytes: self.state.dma_length,
            pattern: self.state.scratch,
        }
    }
}

/// IRQ_RAISE and DMA_IRQ: interrupt index in bits 31:16, vector in bits 15:0.
fn irq_of(value: u32) -> (IrqIndex, u32) {
    (IrqIndex(value >> 16), value & 0xffff)
}

fn byte_in_register(address: u64) -> usize {
    usize::try_from(address & 3).unwrap_or(0)
}

fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

fn high(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(0)
}

fn set_low(register: &mut u64, value: u32) {
    *register = (*register & !u64::from(u32::MAX)) | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = (*register & u64::from(u32::MAX)) | (u64::from(value) << 32);
}

#[cfg(test)]
mod tests;
