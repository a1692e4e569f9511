//! INTx of a software device: a level-triggered line over an eventfd.
//!
//! While the line is high and not masked, one interrupt is sent and the line masks itself (AUTOMASKED). The client
//! unmasks it after the guest's end-of-interrupt, by message or by an eventfd that KVM signals; if the line is still
//! high, the interrupt is sent again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use protocol::{Errno, IrqAction, IrqData, SetIrqs};

use crate::backend::EventSource;
use crate::irq::eventfd::Eventfd;
use crate::irq::signaller::Signaller;

/// The INTx line of one device.
#[derive(Debug)]
pub struct LevelLine {
    signaller: Arc<Signaller>,
    high: bool,
    masked: bool,
    trigger: Option<Eventfd>,
    unmask: Option<Eventfd>,
}

impl LevelLine {
    /// Low, bound to nothing.
    pub fn new(signaller: &Arc<Signaller>) -> LevelLine {
        LevelLine {
            signaller: Arc::clone(signaller),
            high: false,
            masked: false,
            trigger: None,
            unmask: None,
        }
    }

    /// Sets the level that the device drives.
    pub fn drive(&mut self, high: bool) {
        self.high = high;
        self.update();
    }

    /// Whether the device drives the line high.
    pub fn high(&self) -> bool {
        self.high
    }

    /// Obeys one DEVICE_SET_IRQS for INTx.
    pub fn apply(&mut self, request: SetIrqs) -> Result<(), Errno> {
        match (request.action, request.data) {
            (IrqAction::Trigger, IrqData::None) if request.count == 0 => self.disable(),
            (action, IrqData::None) => self.act(action),
            (action, IrqData::Bool(choices)) => {
                if choices.first() == Some(&true) {
                    self.act(action);
                }
            }
            (action, IrqData::Eventfd(fds)) => {
                let adopt = |fd| Eventfd::adopt(fd, &self.signaller);
                let eventfd = fds.into_iter().next().map(adopt).transpose()?;
                match action {
                    IrqAction::Trigger => {
                        self.trigger = eventfd;
                        self.masked = false;
                        self.update();
                    }
                    IrqAction::Unmask => self.unmask = eventfd,
                    // Taken and closed: whoever signals it could as well mask by message.
                    IrqAction::Mask => {}
                }
            }
        }
        Ok(())
    }

    /// Forgets the eventfds and the mask. The level stays: it is the device's.
    pub fn disable(&mut self) {
        *self = LevelLine {
            high: self.high,
            ..LevelLine::new(&self.signaller)
        };
    }

    fn act(&mut self, action: IrqAction) {
        match action {
            IrqAction::Mask => self.masked = true,
            IrqAction::Unmask => self.unmask(),
            IrqAction::Trigger => {
                if let Some(trigger) = &self.trigger {
                    trigger.fire();
                }
            }
        }
    }

    fn unmask(&mut self) {
        self.masked = false;
        self.update();
    }

    fn update(&mut self) {
        if let Some(trigger) = &self.trigger
            && self.high
            && !self.masked
        {
            trigger.fire();
            self.masked = true;
        }
    }
}

/// The unmask eventfd, which KVM signals at the guest's end of interrupt.
impl EventSource for LevelLine {
    fn readable_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unmask.as_ref().map(AsFd::as_fd)
    }

    fn handle(&mut self) {
        if self.unmask.as_ref().is_some_and(Eventfd::take) {
            self.unmask();
        }
    }
}

#[cfg(test)]
mod tests;
