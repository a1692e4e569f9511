//! What the host's kernel has to say of a device: it had an error that cannot be corrected, or the host wants it back.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_SET_IRQS"; VFIO's ERR and REQ interrupts (VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX): each
//! is an eventfd that the kernel signals, the second again and again while it waits.
//! A server that does not have them is no worse: then nobody tells.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use protocol::client::{Client, ClientError};
use protocol::{IrqAction, IrqIndex, IrqInfoFlags};

use super::describe::Irqs;
use super::vectors::new_eventfd;
use crate::one_line::one_line;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostNotice {
    /// The device had an error that cannot be corrected.
    Error,
    /// The host wants the device back.
    Request,
}

/// An eventfd that becomes readable when it is told, and stays so.
pub type NoticeFd = (HostNotice, Arc<OwnedFd>);

/// Binds eventfds to both, as far as the server has them.
pub(super) fn bind(client: &Client, irqs: &Irqs) -> Vec<NoticeFd> {
    let both = [
        (HostNotice::Error, irqs.err),
        (HostNotice::Request, irqs.req),
    ];
    let mut bound = Vec::new();
    for (notice, info) in both {
        if info.count == 0 || !info.flags.contains(IrqInfoFlags::EVENTFD) {
            continue;
        }
        match bind_one(client, info.index) {
            Ok(event) => bound.push((notice, Arc::new(event))),
            Err(error) => {
                let error = one_line(&error);
                tracing::warn!(error, "{} will not be told", info.index);
            }
        }
    }
    bound
}

fn bind_one(client: &Client, index: IrqIndex) -> Result<OwnedFd, BindError> {
    let event = new_eventfd().map_err(BindError::Eventfd)?;
    client
        .set_irqs_eventfds(index, 0, IrqAction::Trigger, &[event.as_fd()])
        .map_err(BindError::Server)?;
    Ok(event)
}

#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error("make an eventfd")]
    Eventfd(#[source] std::io::Error),
    #[error("bind it")]
    Server(#[source] ClientError),
}
