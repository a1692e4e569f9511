//! Devices that share an IOMMU group, and a guest with memory above 4 GiB. All of it runs in the lab.
//!
//! Lab machine: 5 GiB of memory; at 0000:00:0a.0 and 0000:00:0a.1 two serial cards in one IOMMU group, with I/O BARs,
//! INTx and no reset, joined by a cable: what goes into one comes out of the other (scripts/test says how).

mod shared_group;
mod large_memory;
