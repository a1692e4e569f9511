//! Wires the device's interrupts to the client's eventfds: vfio-user DEVICE_SET_IRQS into VFIO_DEVICE_SET_IRQS.
//!
//! The kernel signals the eventfds; this process is not on the way. INTx resampling is ACTION_UNMASK with an eventfd,
//! which the kernel waits on. Masking by eventfd, and masking MSI or MSI-X, VFIO does not have (ENOTTY): EINVAL here.
//! Flags are the kernel's own, NORESIZE too (MSI always, MSI-X before Linux 6.5). Such an index has as many vectors as
//! the first binding reached; a client that binds in chunks (its messages carry few fds) would be refused, so the
//! server then enables the index anew with all eventfds so far and fires each of them once: a spurious interrupt is
//! harmless, a lost one is not. Only for that it keeps duplicates of the eventfds.
//! Disabling an index that is not enabled succeeds; VFIO would say EINVAL.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use protocol::{Errno, IrqAction, IrqData, IrqIndex, IrqInfoFlags, ReceivedFd, SetIrqs};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_NUM_IRQS,
};

use super::ioctls::{self, IrqHeader, IrqPayload};
use crate::backend::Irq;

/// What the kernel does with the interrupts of a device.
pub(super) trait IrqControl {
    /// VFIO_DEVICE_SET_IRQS. More than 0: only so many vectors could be had.
    fn set_irqs(&mut self, header: IrqHeader, payload: &IrqPayload<'_>) -> io::Result<u32>;
}

impl IrqControl for BorrowedFd<'_> {
    fn set_irqs(&mut self, header: IrqHeader, payload: &IrqPayload<'_>) -> io::Result<u32> {
        ioctls::set_irqs(*self, header, payload)
    }
}

/// The interrupts of one device, and what is bound.
#[derive(Debug)]
pub(super) struct Interrupts {
    indexes: Vec<Index>,
}

#[derive(Debug)]
struct Index {
    irq: Irq,
    enabled: bool,
    /// With NORESIZE: the eventfd of each vector that the kernel has allocated. Else empty.
    allocated: Vec<Option<ReceivedFd>>,
}

/// Asks the kernel what the device has: one entry per index, INTx to REQ.
pub(super) fn query(device: BorrowedFd<'_>) -> io::Result<Vec<Irq>> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| match ioctls::irq_info(device, index) {
            Ok(info) => Ok(Irq {
                flags: IrqInfoFlags::from_bits_truncate(info.flags),
                count: info.count,
            }),
            // A device that is not PCI Express has no ERR.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(Irq::absent()),
            Err(error) => Err(error),
        })
        .collect()
}

impl Interrupts {
    /// Nothing is bound.
    pub(super) fn new(irqs: &[Irq]) -> Interrupts {
        let index = |irq: &Irq| Index {
            irq: *irq,
            enabled: false,
            allocated: Vec::new(),
        };
        Interrupts {
            indexes: irqs.iter().map(index).collect(),
        }
    }

    /// Does what a client asked for. `server/` has checked index, range and the kinds of the fds.
    pub(super) fn set(
        &mut self,
        device: &mut dyn IrqControl,
        request: SetIrqs,
    ) -> Result<(), Errno> {
        let number = request.index;
        let index = usize::try_from(number.0)
            .ok()
            .and_then(|at| self.indexes.get_mut(at))
            .ok_or(Errno::INVAL)?;
        if request.disables_index() {
            return index.disable(device, number);
        }
        let span = Span {
            index: number,
            start: request.start,
            count: request.count,
        };
        match (request.action, request.data) {
            (IrqAction::Trigger, IrqData::Eventfd(fds)) => {
                index.bind(device, span, span.slots(fds)?)
            }
            // The kernel has no such thing. Taken and closed: whoever signals it could as well mask by message.
            (IrqAction::Mask, IrqData::Eventfd(_)) => Ok(()),
            (IrqAction::Unmask, IrqData::Eventfd(fds)) => {
                span.eventfds(device, VFIO_IRQ_SET_ACTION_UNMASK, &span.slots(fds)?)
            }
            (action, IrqData::None) => span.none(device, action_flag(action)),
            (action, IrqData::Bool(values)) => {
                let flags = VFIO_IRQ_SET_DATA_BOOL | action_flag(action);
                call(device, span.header(flags), &IrqPayload::Bool(&values))
            }
        }
    }

    /// Disables everything that is enabled. Goes on after an error, and reports the first.
    pub(super) fn disable_all(&mut self, device: &mut dyn IrqControl) -> Result<(), Errno> {
        let numbers = (0..).map(IrqIndex);
        let results = numbers
            .zip(&mut self.indexes)
            .map(|(number, index)| index.disable(device, number));
        results.fold(Ok(()), Result::and)
    }

    /// The device was closed, and with it everything that was bound.
    pub(super) fn forget(&mut self) {
        for index in &mut self.indexes {
            index.enabled = false;
            index.allocated.clear();
        }
    }
}

impl Index {
    fn disable(&mut self, device: &mut dyn IrqControl, number: IrqIndex) -> Result<(), Errno> {
        if !self.enabled {
            return Ok(());
        }
        Span {
            index: number,
            start: 0,
            count: 0,
        }
        .none(device, VFIO_IRQ_SET_ACTION_TRIGGER)?;
        self.enabled = false;
        self.allocated.clear();
        Ok(())
    }

    /// Binds the eventfds of `slots` from `span.start` on; `None` takes an eventfd away.
    fn bind(
        &mut self,
        device: &mut dyn IrqControl,
        span: Span,
        slots: Vec<Option<ReceivedFd>>,
    ) -> Result<(), Errno> {
        let unbinds = slots.iter().all(Option::is_none);
        if unbinds && !self.enabled {
            return Ok(());
        }
        let vectors = span.index == IrqIndex::MSI || span.index == IrqIndex::MSIX;
        if vectors && self.irq.flags.contains(IrqInfoFlags::NORESIZE) {
            self.bind_fixed(device, span, slots)?;
        } else {
            span.eventfds(device, VFIO_IRQ_SET_ACTION_TRIGGER, &slots)?;
        }
        self.enabled = true;
        Ok(())
    }

    /// The same where the kernel cannot add vectors to an index that is enabled.
    fn bind_fixed(
        &mut self,
        device: &mut dyn IrqControl,
        span: Span,
        mut slots: Vec<Option<ReceivedFd>>,
    ) -> Result<(), Errno> {
        let start = usize::try_from(span.start).map_err(|_| Errno::INVAL)?;
        if slots.iter().all(Option::is_none) {
            // Vectors that were never allocated have nothing to unbind.
            slots.truncate(self.allocated.len().saturating_sub(start));
        }
        if slots.is_empty() {
            return Ok(());
        }
        let end = start.checked_add(slots.len()).ok_or(Errno::INVAL)?;
        let count = u32::try_from(slots.len()).map_err(|_| Errno::INVAL)?;
        if end > self.allocated.len() && self.enabled {
            return self.enable_anew(device, span.index, start, slots);
        }
        Span { count, ..span }.eventfds(device, VFIO_IRQ_SET_ACTION_TRIGGER, &slots)?;
        self.keep(start, slots);
        Ok(())
    }

    /// Enables the index for more vectors than it has. What was bound is bound again and fired once.
    fn enable_anew(
        &mut self,
        device: &mut dyn IrqControl,
        number: IrqIndex,
        start: usize,
        slots: Vec<Option<ReceivedFd>>,
    ) -> Result<(), Errno> {
        let before = all_of(number, &self.allocated)?;
        Span {
            index: number,
            start: 0,
            count: 0,
        }
        .none(device, VFIO_IRQ_SET_ACTION_TRIGGER)?;
        self.enabled = false;
        self.keep(start, slots);
        let after = all_of(number, &self.allocated)?;
        if let Err(error) = after.eventfds(device, VFIO_IRQ_SET_ACTION_TRIGGER, &self.allocated) {
            // Not so many: back to those there were, so that the client loses nothing by asking.
            self.allocated
                .truncate(usize::try_from(before.count).unwrap_or(0));
            if before
                .eventfds(device, VFIO_IRQ_SET_ACTION_TRIGGER, &self.allocated)
                .is_err()
            {
                self.allocated.clear();
                return Err(error);
            }
            self.enabled = true;
            before.none(device, VFIO_IRQ_SET_ACTION_TRIGGER)?;
            return Err(error);
        }
        self.enabled = true;
        before.none(device, VFIO_IRQ_SET_ACTION_TRIGGER)
    }

    fn keep(&mut self, start: usize, slots: Vec<Option<ReceivedFd>>) {
        let end = start.saturating_add(slots.len()).max(self.allocated.len());
        self.allocated.resize_with(end, || None);
        for (kept, slot) in self.allocated.iter_mut().skip(start).zip(slots) {
            *kept = slot;
        }
    }
}

fn all_of(index: IrqIndex, allocated: &[Option<ReceivedFd>]) -> Result<Span, Errno> {
    Ok(Span {
        index,
        start: 0,
        count: u32::try_from(allocated.len()).map_err(|_| Errno::INVAL)?,
    })
}

/// Vectors `start..start + count` of an index.
#[derive(Debug, Clone, Copy)]
struct Span {
    index: IrqIndex,
    start: u32,
    count: u32,
}

impl Span {
    /// One place per vector: the fds, or nothing for each when there are none.
    fn slots(self, fds: Vec<ReceivedFd>) -> Result<Vec<Option<ReceivedFd>>, Errno> {
        let count = usize::try_from(self.count).map_err(|_| Errno::INVAL)?;
        if fds.is_empty() {
            return Ok(std::iter::repeat_with(|| None).take(count).collect());
        }
        if fds.len() != count {
            return Err(Errno::INVAL);
        }
        Ok(fds.into_iter().map(Some).collect())
    }

    fn header(self, flags: u32) -> IrqHeader {
        IrqHeader {
            flags,
            index: self.index.0,
            start: self.start,
            count: self.count,
        }
    }

    fn none(self, device: &mut dyn IrqControl, action: u32) -> Result<(), Errno> {
        call(
            device,
            self.header(VFIO_IRQ_SET_DATA_NONE | action),
            &IrqPayload::None,
        )
    }

    fn eventfds(
        self,
        device: &mut dyn IrqControl,
        action: u32,
        slots: &[Option<ReceivedFd>],
    ) -> Result<(), Errno> {
        let fds: Vec<Option<BorrowedFd<'_>>> = slots
            .iter()
            .map(|slot| slot.as_ref().map(ReceivedFd::as_fd))
            .collect();
        call(
            device,
            self.header(VFIO_IRQ_SET_DATA_EVENTFD | action),
            &IrqPayload::Eventfd(&fds),
        )
    }
}

fn action_flag(action: IrqAction) -> u32 {
    match action {
        IrqAction::Mask => VFIO_IRQ_SET_ACTION_MASK,
        IrqAction::Unmask => VFIO_IRQ_SET_ACTION_UNMASK,
        IrqAction::Trigger => VFIO_IRQ_SET_ACTION_TRIGGER,
    }
}

fn call(
    device: &mut dyn IrqControl,
    header: IrqHeader,
    payload: &IrqPayload<'_>,
) -> Result<(), Errno> {
    match device.set_irqs(header, payload) {
        Ok(0) => Ok(()),
        Ok(available) => {
            tracing::debug!(
                ?header,
                available,
                "Bind interrupts: the host has fewer vectors"
            );
            Err(Errno::NOSPC)
        }
        Err(error) => {
            tracing::debug!(?header, %error, "Set interrupts");
            match Errno::from_io_error(&error) {
                Some(Errno::NOTTY) => Err(Errno::INVAL),
                Some(errno) => Err(errno),
                None => Err(Errno::IO),
            }
        }
    }
}

#[cfg(test)]
mod tests;
