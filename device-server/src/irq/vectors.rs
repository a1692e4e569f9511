//! The vectors of one edge-triggered interrupt index of a software device: MSI, MSI-X, ERR or REQ.
//!
//! An interrupt on a masked vector is kept as one pending interrupt and fires at the unmask; one on a vector that has
//! no eventfd is dropped. The number of vectors is fixed at creation; requests come with checked ranges.

use std::sync::Arc;

use protocol::{Errno, IrqAction, IrqData, ReceivedFd, SetIrqs};

use crate::irq::eventfd::Eventfd;
use crate::irq::signaller::Signaller;

/// What the client has bound to each vector.
#[derive(Debug)]
pub struct Vectors {
    vectors: Vec<Vector>,
    signaller: Arc<Signaller>,
}

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<Eventfd>,
    masked: bool,
    pending: bool,
}

impl Vectors {
    /// `count` vectors, unmasked and bound to nothing.
    pub fn new(count: u32, signaller: &Arc<Signaller>) -> Vectors {
        Vectors {
            vectors: (0..count).map(|_| Vector::default()).collect(),
            signaller: Arc::clone(signaller),
        }
    }

    /// Obeys one DEVICE_SET_IRQS for this index.
    pub fn apply(&mut self, request: SetIrqs) -> Result<(), Errno> {
        if matches!(
            (&request.action, &request.data),
            (IrqAction::Trigger, IrqData::None)
        ) && request.count == 0
        {
            self.disable();
            return Ok(());
        }
        let start = usize::try_from(request.start).map_err(|_| Errno::INVAL)?;
        let count = usize::try_from(request.count).map_err(|_| Errno::INVAL)?;
        let end = start.checked_add(count).ok_or(Errno::INVAL)?;
        let chosen = self.vectors.get_mut(start..end).ok_or(Errno::INVAL)?;
        match request.data {
            IrqData::None => chosen
                .iter_mut()
                .for_each(|vector| vector.act(request.action)),
            IrqData::Bool(choices) => {
                let pairs = chosen.iter_mut().zip(choices);
                pairs
                    .filter(|(_, choice)| *choice)
                    .for_each(|(vector, _)| vector.act(request.action));
            }
            IrqData::Eventfd(fds) => bind(chosen, request.action, fds, &self.signaller)?,
        }
        Ok(())
    }

    /// Raises one interrupt. A vector that does not exist is refused.
    pub fn raise(&mut self, vector: u32) -> Result<(), Errno> {
        let index = usize::try_from(vector).map_err(|_| Errno::INVAL)?;
        self.vectors.get_mut(index).ok_or(Errno::INVAL)?.raise();
        Ok(())
    }

    /// Forgets all eventfds, masks and pending interrupts.
    pub fn disable(&mut self) {
        self.vectors
            .iter_mut()
            .for_each(|vector| *vector = Vector::default());
    }

    /// Whether any vector has an eventfd.
    pub fn enabled(&self) -> bool {
        self.vectors.iter().any(|vector| vector.eventfd.is_some())
    }
}

/// Binds eventfds for TRIGGER. Notification eventfds for MASK and UNMASK are accepted and closed: for edge
/// interrupts nobody needs them (QEMU sends them only for INTx).
fn bind(
    chosen: &mut [Vector],
    action: IrqAction,
    fds: Vec<ReceivedFd>,
    signaller: &Arc<Signaller>,
) -> Result<(), Errno> {
    if action != IrqAction::Trigger {
        return Ok(());
    }
    if fds.is_empty() {
        chosen
            .iter_mut()
            .for_each(|vector| *vector = Vector::default());
        return Ok(());
    }
    // All are judged before the first is bound, so that a refusal leaves the old bindings as they were.
    let eventfds = fds
        .into_iter()
        .map(|fd| Eventfd::adopt(fd, signaller))
        .collect::<Result<Vec<_>, _>>()?;
    for (vector, eventfd) in chosen.iter_mut().zip(eventfds) {
        vector.eventfd = Some(eventfd);
    }
    Ok(())
}

impl Vector {
    fn act(&mut self, action: IrqAction) {
        match action {
            IrqAction::Mask => self.masked = true,
            IrqAction::Unmask => {
                self.masked = false;
                if std::mem::take(&mut self.pending) {
                    self.raise();
                }
            }
            IrqAction::Trigger => self.raise(),
        }
    }

    fn raise(&mut self) {
        if self.masked {
            self.pending = true;
        } else if let Some(eventfd) = &self.eventfd {
            eventfd.fire();
        }
    }
}

#[cfg(test)]
mod tests;
