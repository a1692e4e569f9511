//! DEVICE_SET_IRQS: where interrupts go, and masking them.

use super::Client;
use super::engine::Call;
use super::error::ClientError;
use crate::header::CommandCode;
use crate::ids::IrqIndex;
use crate::limits;
use crate::messages::irq::{IrqAction, IrqData, SetIrqs};
use std::os::fd::BorrowedFd;

impl Client {
    /// Binds one eventfd to each vector from `start` on, in as many messages as the server's `max_msg_fds` asks for.
    ///
    /// # Errors
    /// See [`ClientError`]; when a later message fails, the whole index is disabled before the error is returned.
    pub fn set_irqs_eventfds(
        &self,
        index: IrqIndex,
        start: u32,
        action: IrqAction,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        self.check_takes_fds(CommandCode::DEVICE_SET_IRQS)?;
        let most = usize::try_from(self.engine.server().max_msg_fds).unwrap_or(1);
        let mut at = start;
        for chunk in fds.chunks(most.clamp(1, limits::KERNEL_MAX_FDS)) {
            let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let request = SetIrqs {
                index,
                start: at,
                count,
                action,
                data: IrqData::Eventfd(Vec::new()),
            };
            let result = self.set_irqs(&request, chunk);
            if result.is_err() && at != start {
                // The first error is the one to report.
                let _second = self.disable_irqs(index);
            }
            result?;
            at = at.saturating_add(count);
        }
        Ok(())
    }

    /// Takes the eventfds of `count` vectors from `start` on away.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn clear_irqs_eventfds(
        &self,
        index: IrqIndex,
        start: u32,
        count: u32,
    ) -> Result<(), ClientError> {
        let request = SetIrqs {
            index,
            start,
            count,
            action: IrqAction::Trigger,
            data: IrqData::Eventfd(Vec::new()),
        };
        self.set_irqs(&request, &[])
    }

    /// Masks, unmasks or fires `count` vectors from `start` on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_irqs_none(
        &self,
        index: IrqIndex,
        start: u32,
        count: u32,
        action: IrqAction,
    ) -> Result<(), ClientError> {
        let request = SetIrqs {
            index,
            start,
            count,
            action,
            data: IrqData::None,
        };
        self.set_irqs(&request, &[])
    }

    /// Masks, unmasks or fires those vectors from `start` on that are true.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_irqs_bool(
        &self,
        index: IrqIndex,
        start: u32,
        action: IrqAction,
        vectors: &[bool],
    ) -> Result<(), ClientError> {
        let request = SetIrqs {
            index,
            start,
            count: u32::try_from(vectors.len()).unwrap_or(u32::MAX),
            action,
            data: IrqData::Bool(vectors.to_vec()),
        };
        self.set_irqs(&request, &[])
    }

    /// Disables all vectors of an index and takes their eventfds away.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn disable_irqs(&self, index: IrqIndex) -> Result<(), ClientError> {
        self.set_irqs_none(index, 0, 0, IrqAction::Trigger)
    }

    fn set_irqs(&self, request: &SetIrqs, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut head = Vec::new();
        request.encode(&mut head);
        let call = Call {
            fds,
            ..self.call(CommandCode::DEVICE_SET_IRQS, &head)
        };
        self.engine.call(&call, |_body, _fds| Ok(()))
    }
}
