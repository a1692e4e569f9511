//! The vfio-user session: knows no concrete device.

pub mod listener;
pub mod shutdown;

pub use shutdown::Shutdown;
