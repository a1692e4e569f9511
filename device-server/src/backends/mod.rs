//! One folder per kind of device.

pub mod test;
pub mod vfio;
