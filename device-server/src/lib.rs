//! One process per device: owns VFIO and the IOMMU mappings, serves one vfio-user client at a time.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod run;
pub mod cli;
pub mod ready;
pub mod program_pages;
pub mod serving;
pub mod server;
pub mod metrics;
pub mod backends;
pub mod host;
pub mod dma;
pub mod irq;
pub mod backend;
