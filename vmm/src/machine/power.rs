//! How the guest turns itself off or resets itself.
//!
//! The board is hardware-reduced ACPI (ACPI 6.5 §4.1, §4.8.3.7): power-off is a write to the sleep control register,
//! reset a write to the reset register. So there are no PM1 blocks, no PM timer, no SCI and no SMI command port to
//! emulate: fewer registers that a guest can poke, and Linux needs none of them. The two older ways to reset a PC, port
//! 0xcf9 and the keyboard controller's pulse (command 0xfe to port 0x64), work too: kernels fall back to them.
//!
//! What the guest asks for is a [`StopRequest`]; who runs the machine waits for [`StopRequests::fd`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::address_space::{AddressRange, AddressSpace, Overlap, Trap};
use crate::kvm::FatalExit;

#[cfg(test)]
mod tests;

/// SLEEP_CONTROL_REG, SLEEP_STATUS_REG and RESET_REG, one port each.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// See [`SLEEP_CONTROL_PORT`].
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// See [`SLEEP_CONTROL_PORT`].
pub const RESET_PORT: u16 = 0x602;
/// All three.
pub const POWER_PORTS: AddressRange = AddressRange {
    start: 0x600,
    len: 3,
};
/// What the FADT tells the guest to write to RESET_REG.
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5, as in `\_S5`.
pub const SLP_TYP_S5: u8 = 5;

/// ACPI 6.5 §4.8.3.7: SLP_EN, and SLP_TYPx in bits 2 to 4.
const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 7;
/// Reset Control Register of a PC chipset.
const RST_CNT_PORT: u16 = 0xcf9;
/// RST_CNT: bit 2 from 0 to 1 resets.
const RST_CPU: u8 = 1 << 2;
/// Status and command port of the keyboard controller.
const KEYBOARD: AddressRange = AddressRange {
    start: 0x64,
    len: 1,
};
/// Command: pulse output 0, the CPU's reset line.
const PULSE_RESET: u8 = 0xfe;

/// Why the machine should stop.
#[derive(Debug)]
pub enum StopRequest {
    /// The guest turned itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// A vCPU cannot go on.
    Fatal(FatalExit),
}

/// Requests that wait to be served.
#[derive(Debug)]
pub struct StopRequests {
    waiting: Mutex<VecDeque<StopRequest>>,
    wake: OwnedFd,
}

/// Most requests that wait; a guest that writes the register in a loop adds no more.
const MAX_WAITING: usize = 8;

impl StopRequests {
    /// None yet.
    pub fn new() -> io::Result<Arc<StopRequests>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(StopRequests {
            waiting: Mutex::new(VecDeque::new()),
            wake,
        }))
    }

    /// Asks the machine to stop. Returns at once; the vCPU goes on until it is stopped.
    pub fn request(&self, request: StopRequest) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING {
            waiting.push_back(request);
        }
        // A full counter wakes as well.
        let _woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The first request since the last call; those behind it are dropped: they come from the same guest, which stops.
    pub fn take(&self) -> Option<StopRequest> {
        let mut counter = [0; 8];
        let _drained = rustix::io::read(&self.wake, &mut counter);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.pop_front();
        waiting.clear();
        first
    }

    /// Readable when there is a request.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Puts the registers into the port space.
pub fn install(ports: &AddressSpace, requests: &Arc<StopRequests>) -> Result<(), Overlap> {
    ports.insert(
        POWER_PORTS,
        Arc::new(PowerRegisters {
            requests: Arc::clone(requests),
        }),
    )?;
    ports.insert(
        KEYBOARD,
        Arc::new(KeyboardReset {
            requests: Arc::clone(requests),
        }),
    )?;
    // A byte inside the PCI configuration address register.
    ports.insert_exact(
        u64::from(RST_CNT_PORT),
        1,
        Arc::new(ResetControl {
            requests: Arc::clone(requests),
        }),
    );
    Ok(())
}

struct PowerRegisters {
    requests: Arc<StopRequests>,
}

impl Trap for PowerRegisters {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else {
            return;
        };
        let sleep_type = (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK;
        match u16::try_from(POWER_PORTS.start + offset) {
            Ok(SLEEP_CONTROL_PORT) if value & SLP_EN != 0 && sleep_type == SLP_TYP_S5 => {
                self.requests.request(StopRequest::PowerOff);
            }
            Ok(RESET_PORT) if value == RESET_VALUE => self.requests.request(StopRequest::Reset),
            _ => {}
        }
    }
}

struct KeyboardReset {
    requests: Arc<StopRequests>,
}

impl Trap for KeyboardReset {
    /// Status: both buffers empty, so that a guest that waits for room to write its command goes on.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data == [PULSE_RESET] {
            self.requests.request(StopRequest::Reset);
        }
    }
}

struct ResetControl {
    requests: Arc<StopRequests>,
}

impl Trap for ResetControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|value| value & RST_CPU != 0) {
            self.requests.request(StopRequest::Reset);
        }
    }
}
