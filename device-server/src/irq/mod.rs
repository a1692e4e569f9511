//! Interrupts as eventfds that the client sent.
//!
//! `eventfd` tells an eventfd from every other kind of file descriptor, `signaller` fires it without waiting. `vectors` and
//! `level` are what a software device keeps for its edge interrupts (MSI, MSI-X, ERR, REQ) and for INTx.
//! The vfio backend uses `eventfd` only: it hands the eventfds to the kernel.

pub mod vectors;
pub mod level;
pub mod eventfd;
pub mod signaller;

pub use eventfd::{Eventfd, is_eventfd};
pub use level::LevelLine;
pub use signaller::Signaller;
pub use vectors::Vectors;
