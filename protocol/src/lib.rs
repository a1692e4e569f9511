//! The vfio-user protocol engine, both sides, and the supervisor's control messages.
//!
//! Spec: QEMU's "vfio-user Protocol Specification". Peers are hostile on both sides: every number meets a limit of
//! [`limits`] before it is used, every wait has a deadline, every descriptor is owned from the first instruction.
//! No policy, no threads, no log: what is refused is returned, with the field and its value.
//! Modules are in layer order: each uses only those below it.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod client;
pub mod server;
pub mod transport;
pub mod command;
pub mod reply;
pub mod messages;
pub mod frame;
pub mod refusal;
pub mod header;
mod codec;
pub mod supervisor;
mod received_fd;
pub mod closing;
pub mod pci;
pub mod ids;
pub mod limits;

pub use client::{Client, ClientConfig, ClientError, DmaHandler, LostCause, MessageCounters};
pub use command::{Command, DecodeContext};
pub use frame::Frame;
pub use header::{CommandCode, Header, HeaderError, HeaderFlags, MessageType};
pub use ids::{Iova, IovaRange, IrqIndex, MessageId, RegionIndex};
pub use messages::{
    Capabilities, DeviceInfo, DmaMap, DmaMapFlags, DmaUnmap, IoFd, IoFdKind, IoFds, IrqAction,
    IrqData, IrqInfo, IrqInfoFlags, RegionFlags, RegionInfo, SetIrqs, SparseArea, Version,
};
pub use pci::PciAddress;
pub use received_fd::ReceivedFd;
pub use refusal::{BadField, Refusal};
pub use reply::Reply;
pub use rustix::io::Errno;
