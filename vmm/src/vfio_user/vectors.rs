//! The vectors of MSI or MSI-X, wired from the device server to KVM: per vector an eventfd that the server signals, a
//! route to the guest's message, and an irqfd between them, so that an interrupt passes through no process of ours.
//!
//! Spec: vfio-user, "VFIO_USER_DEVICE_SET_IRQS"; kernel-vfio-facts.md section 3.
//! A masked vector has no irqfd: its eventfd keeps what arrives, and that is its pending bit. KVM looks at the counter
//! when the irqfd is attached, so a pending interrupt is delivered with the unmasking.
//! Where the server's kernel cannot add vectors (NORESIZE), the set grows by disabling and enabling all of it; vectors
//! that were on are signalled once, as an edge may have been lost in between. An eventfd that the server has is never
//! written: the server could fill it, and the write would wait for ever.
//! Limits: those of the capability: 32 (MSI) or 2048 (MSI-X) vectors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use protocol::client::{Client, ClientError};
use protocol::{IrqAction, IrqInfo, IrqInfoFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

use crate::kvm::{Gsi, KvmError, MsiMessage, Vm};
use crate::one_line::one_line;

/// A vector cannot be wired.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// No eventfd.
    #[error("make an eventfd")]
    Eventfd(#[source] io::Error),
    /// The server.
    #[error("bind an eventfd to the device's interrupt")]
    Bind(#[source] ClientError),
    /// KVM.
    #[error("route an interrupt to the guest")]
    Route(#[source] KvmError),
}

/// The vectors of one kind of one device. Off until [`Vectors::set`] unmasks one.
#[derive(Debug)]
pub struct Vectors {
    client: Arc<Client>,
    vm: Arc<Vm>,
    irq: IrqInfo,
    vectors: Vec<Vector>,
}

#[derive(Debug)]
struct Vector {
    event: OwnedFd,
    bound: bool,
    gsi: Option<Gsi>,
    /// What it sends while it has an irqfd, and so is not held back.
    attached: Option<MsiMessage>,
}

impl Vectors {
    /// Nothing is bound yet.
    pub fn new(client: Arc<Client>, vm: Arc<Vm>, irq: IrqInfo) -> Self {
        Self {
            client,
            vm,
            irq,
            vectors: Vec::new(),
        }
    }

    /// Makes `vector` send `message`, or holds it back, as a message that is no interrupt is. `expected` says how many vectors the guest means to use.
    pub fn set(
        &mut self,
        vector: u32,
        message: MsiMessage,
        masked: bool,
        expected: u32,
    ) -> Result<(), VectorError> {
        let index = usize::try_from(vector).unwrap_or(usize::MAX);
        if masked || !message.is_interrupt() {
            return self.hold(index);
        }
        self.bind(vector, expected)?;
        let Some(slot) = self.vectors.get_mut(index) else {
            return Ok(());
        };
        let irq = self.vm.irq();
        let gsi = match slot.gsi {
            Some(gsi) => gsi,
            None => *slot.gsi.insert(irq.allocate().map_err(VectorError::Route)?),
        };
        irq.set_msi(gsi, message).map_err(VectorError::Route)?;
        if slot.attached.is_none() {
            irq.attach(slot.event.as_fd(), gsi)
                .map_err(VectorError::Route)?;
        }
        slot.attached = Some(message);
        Ok(())
    }

    /// True if `vector` is held back and something arrived.
    pub fn pending(&self, vector: u32) -> bool {
        let vector = usize::try_from(vector)
            .ok()
            .and_then(|index| self.vectors.get(index));
        vector.is_some_and(|vector| vector.attached.is_none() && is_signalled(vector.event.as_fd()))
    }

    /// How many are sent to the guest now.
    pub fn wired(&self) -> u64 {
        let attached = self
            .vectors
            .iter()
            .filter(|vector| vector.attached.is_some());
        attached.map(|_| 1).sum()
    }

    /// Turns the whole kind off, at the server first, and gives everything back.
    pub fn release(&mut self) -> Result<(), ClientError> {
        let bound = self.vectors.iter().any(|vector| vector.bound);
        let result = if bound {
            self.client.disable_irqs(self.irq.index)
        } else {
            Ok(())
        };
        for vector in std::mem::take(&mut self.vectors) {
            if let Some(gsi) = vector.gsi {
                if vector.attached.is_some() {
                    // It was attached by us; a failure leaves a route that nobody signals any more.
                    let _detached = self.vm.irq().detach(vector.event.as_fd(), gsi);
                }
                self.vm.irq().release(gsi);
            }
        }
        result
    }

    fn hold(&mut self, index: usize) -> Result<(), VectorError> {
        let Some(vector) = self.vectors.get_mut(index) else {
            return Ok(());
        };
        if let (Some(_), Some(gsi)) = (vector.attached, vector.gsi) {
            self.vm
                .irq()
                .detach(vector.event.as_fd(), gsi)
                .map_err(VectorError::Route)?;
            vector.attached = None;
        }
        Ok(())
    }

    /// Sees that the server has an eventfd for `vector`.
    fn bind(&mut self, vector: u32, expected: u32) -> Result<(), VectorError> {
        let index = usize::try_from(vector).unwrap_or(usize::MAX);
        if vector >= self.irq.count || self.vectors.get(index).is_some_and(|vector| vector.bound) {
            return Ok(());
        }
        if self.irq.flags.contains(IrqInfoFlags::NORESIZE) {
            let len = expected.clamp(vector + 1, self.irq.count);
            return self.grow(len);
        }
        self.make(index + 1)?;
        let Some(slot) = self.vectors.get_mut(index) else {
            return Ok(());
        };
        let event = [slot.event.as_fd()];
        self.client
            .set_irqs_eventfds(self.irq.index, vector, IrqAction::Trigger, &event)
            .map_err(VectorError::Bind)?;
        slot.bound = true;
        Ok(())
    }

    /// Binds vectors 0 to `len`, all at once.
    fn grow(&mut self, len: u32) -> Result<(), VectorError> {
        let before = self.vectors.len();
        let was_bound = self.vectors.iter().any(|vector| vector.bound);
        self.make(usize::try_from(len).unwrap_or(usize::MAX))?;
        if was_bound {
            let signalled = self.signalled_eventfds(before)?;
            self.client
                .disable_irqs(self.irq.index)
                .map_err(VectorError::Bind)?;
            for (vector, event) in self.held_back(before).zip(signalled) {
                vector.event = event;
            }
        }
        let result = self.bind_first(self.vectors.len());
        if result.is_err() {
            // What worked before shall work again; the first error is the one to report.
            self.vectors.truncate(before);
            if was_bound {
                let _restored = self.bind_first(before);
            }
        }
        if was_bound {
            let sent = self.vectors.iter().take(before);
            for message in sent.filter_map(|vector| vector.attached) {
                if let Err(error) = self.vm.irq().signal_msi(message) {
                    // Server and guest can repeat this as often as they like.
                    tracing::debug!(error = one_line(&error), "an interrupt may be lost");
                }
            }
        }
        result
    }

    /// An eventfd that has been signalled once for each vector among the first `count` that is held back.
    fn signalled_eventfds(&mut self, count: usize) -> Result<Vec<OwnedFd>, VectorError> {
        let events = self.held_back(count).map(|_| eventfd_with(1));
        events
            .collect::<Result<_, _>>()
            .map_err(VectorError::Eventfd)
    }

    fn held_back(&mut self, count: usize) -> impl Iterator<Item = &mut Vector> {
        let first = self.vectors.iter_mut().take(count);
        first.filter(|vector| vector.attached.is_none())
    }

    fn bind_first(&mut self, count: usize) -> Result<(), VectorError> {
        let events: Vec<BorrowedFd<'_>> = self
            .vectors
            .iter()
            .take(count)
            .map(|vector| vector.event.as_fd())
            .collect();
        let result = self
            .client
            .set_irqs_eventfds(self.irq.index, 0, IrqAction::Trigger, &events);
        for vector in self.vectors.iter_mut().take(count) {
            vector.bound = result.is_ok();
        }
        result.map_err(VectorError::Bind)
    }

    fn make(&mut self, len: usize) -> Result<(), VectorError> {
        while self.vectors.len() < len {
            let event = new_eventfd().map_err(VectorError::Eventfd)?;
            self.vectors.push(Vector {
                event,
                bound: false,
                gsi: None,
                attached: None,
            });
        }
        Ok(())
    }
}

/// An eventfd for one interrupt.
pub(super) fn new_eventfd() -> io::Result<OwnedFd> {
    eventfd_with(0)
}

fn eventfd_with(count: u32) -> io::Result<OwnedFd> {
    Ok(eventfd(
        count,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

fn is_signalled(event: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::new(&event, PollFlags::IN)];
    rustix::event::poll(
        &mut poll,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )
    .is_ok_and(|ready| ready > 0)
}
