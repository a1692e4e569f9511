//! How the guest turns itself off or resets itself, and how it is asked to.
//!
//! Fixed ACPI hardware (ACPI 6.5 §4.8): the PM1 event and control registers, the SCI, and a reset register. Not
//! hardware-reduced ACPI, which would have fewer registers: Linux then resets through EFI or, without it, jumps to a
//! BIOS that is not there (measured: the guest hangs). ACPI is on from the start, so there is no SMI command
//! port; there is no PM timer (kvmclock and the PIT do) and there are no GPEs. The two older ways to reset a PC, port 0xcf9
//! and the keyboard controller's pulse (command 0xfe to port 0x64), work too: kernels fall back to them.
//!
//! What the guest asks for is a [`StopRequest`]; who runs the machine waits for [`StopRequests::fd`].

use std::collections::VecDeque;
use std::io;
use std::mem::discriminant;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::address_space::{AddressRange, AddressSpace, Overlap, Trap};
use crate::kvm::{FatalExit, Gsi};

#[cfg(test)]
mod tests;

/// PM1a_EVT_BLK: status, then enable, two bytes each.
pub const PM1_EVENT_PORT: u16 = 0x600;
/// PM1a_CNT_BLK: two bytes.
pub const PM1_CONTROL_PORT: u16 = 0x604;
/// RESET_REG: one byte.
pub const RESET_PORT: u16 = 0x608;
/// All of them.
pub const POWER_PORTS: AddressRange = AddressRange {
    start: 0x600,
    len: 0x10,
};
/// What the FADT tells the guest to write to RESET_REG.
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5, as in `\_S5`.
pub const SLP_TYP_S5: u8 = 5;
/// The system control interrupt.
pub const SCI: Gsi = Gsi(9);

/// Offsets in [`POWER_PORTS`].
const PM1_STS: u64 = 0;
const PM1_EN: u64 = 2;
const PM1_CNT: u64 = 4;
const RESET: u64 = 8;
/// PM1_STS and PM1_EN (ACPI 6.5 §4.8.3.1): the power button is bit 8 of both.
const PWRBTN: u16 = 1 << 8;
/// PM1_EN, global lock: firmware never takes it, so it never happens, but ACPICA wants to see it enabled.
const GBL_EN: u16 = 1 << 5;
/// PM1_CNT (ACPI 6.5 §4.8.3.2): ACPI is on, sleep type, go to sleep.
const SCI_EN: u16 = 1;
const SLP_TYP_SHIFT: u16 = 10;
const SLP_TYP_MASK: u16 = 7;
const SLP_EN: u16 = 1 << 13;
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
    GuestReset,
    /// The operator resets it.
    OperatorReset,
    /// A vCPU cannot go on.
    Fatal(FatalExit),
}

/// Requests that wait to be served.
#[derive(Debug)]
pub struct StopRequests {
    waiting: Mutex<VecDeque<StopRequest>>,
    wake: Arc<OwnedFd>,
}

impl StopRequests {
    /// None yet.
    pub fn new() -> io::Result<Arc<StopRequests>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(StopRequests {
            waiting: Mutex::new(VecDeque::new()),
            wake: Arc::new(wake),
        }))
    }

    /// Asks the machine to stop. Returns at once; the vCPU goes on until it is stopped. One request of a kind waits: a guest
    /// that writes the register in a loop adds no more.
    pub fn request(&self, request: StopRequest) {
        let mut waiting = self.waiting();
        let kind = discriminant(&request);
        if !waiting.iter().any(|other| discriminant(other) == kind) {
            waiting.push_back(request);
        }
        // A full counter wakes as well.
        let _woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The next request.
    pub fn take(&self) -> Option<StopRequest> {
        let mut waiting = self.waiting();
        let next = waiting.pop_front();
        if waiting.is_empty() {
            let _drained = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        next
    }

    /// The guest begins anew: what the last kernel asked for does not count any more. What the operator asks for does.
    pub fn forget_guest(&self) {
        self.waiting()
            .retain(|request| matches!(request, StopRequest::OperatorReset));
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<StopRequest>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when there is a request.
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }
}

/// Raises or lowers the system control interrupt.
pub type SciLine = Box<dyn Fn(bool) + Send + Sync>;

/// The registers.
pub struct Power {
    requests: Arc<StopRequests>,
    sci: SciLine,
    pm1: Mutex<Pm1>,
}

#[derive(Debug, Default)]
struct Pm1 {
    status: u16,
    enable: u16,
}

impl Power {
    /// Puts the registers into the port space.
    pub fn install(
        ports: &AddressSpace,
        requests: &Arc<StopRequests>,
        sci: SciLine,
    ) -> Result<Arc<Power>, Overlap> {
        let power = Arc::new(Power {
            requests: Arc::clone(requests),
            sci,
            pm1: Mutex::default(),
        });
        ports.insert(POWER_PORTS, Arc::clone(&power) as Arc<dyn Trap>)?;
        ports.insert(
            KEYBOARD,
            Arc::new(KeyboardReset {
                requests: Arc::clone(requests),
            }),
        )?;
        // A byte inside the PCI configuration address register.
        let reset_control = Arc::new(ResetControl {
            requests: Arc::clone(requests),
        });
        ports.insert_exact(u64::from(RST_CNT_PORT), 1, reset_control);
        Ok(power)
    }

    /// Asks the guest to turn itself off. Nothing happens if it has not enabled the button.
    pub fn press_button(&self) {
        self.change(|pm1| pm1.status |= PWRBTN);
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        self.change(|pm1| *pm1 = Pm1::default());
    }

    fn change(&self, change: impl FnOnce(&mut Pm1)) {
        let mut pm1 = self.pm1.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pm1);
        (self.sci)(pm1.status & pm1.enable != 0);
    }

    fn register(&self, offset: u64) -> u16 {
        let pm1 = self.pm1.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            PM1_STS => pm1.status,
            PM1_EN => pm1.enable,
            PM1_CNT => SCI_EN,
            _ => 0,
        }
    }

    fn set_register(&self, offset: u64, value: u16) {
        match offset {
            // A one clears.
            PM1_STS => self.change(|pm1| pm1.status &= !value),
            PM1_EN => self.change(|pm1| pm1.enable = value & (PWRBTN | GBL_EN)),
            PM1_CNT => {
                let sleep_type = (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK;
                if value & SLP_EN != 0 && sleep_type == u16::from(SLP_TYP_S5) {
                    self.requests.request(StopRequest::PowerOff);
                }
            }
            _ => {}
        }
    }
}

impl Trap for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let [low, high] = self.register(at & !1).to_le_bytes();
            *byte = if at & 1 == 0 { low } else { high };
        }
    }

    /// Bytes are what ACPICA writes to the reset register, words and dwords (status and enable together) to PM1.
    /// A single byte of a PM1 register leaves the other byte as it is.
    fn write(&self, offset: u64, data: &[u8]) {
        if offset == RESET {
            if data.first() == Some(&RESET_VALUE) {
                self.requests.request(StopRequest::GuestReset);
            }
            return;
        }
        match (data, offset & 1) {
            ([low, high], 0) => self.set_register(offset, u16::from_le_bytes([*low, *high])),
            ([a, b, c, d], 0) => {
                self.set_register(offset, u16::from_le_bytes([*a, *b]));
                self.set_register(offset + 2, u16::from_le_bytes([*c, *d]));
            }
            ([byte], half) => {
                let register = offset & !1;
                // For the status register the other byte is zeros: it clears nothing.
                let [low, high] = if register == PM1_EN {
                    self.register(register)
                } else {
                    0
                }
                .to_le_bytes();
                let bytes = if half == 0 {
                    [*byte, high]
                } else {
                    [low, *byte]
                };
                self.set_register(register, u16::from_le_bytes(bytes));
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for Power {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Power")
            .field("pm1", &self.pm1)
            .finish_non_exhaustive()
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
            self.requests.request(StopRequest::GuestReset);
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
            self.requests.request(StopRequest::GuestReset);
        }
    }
}
