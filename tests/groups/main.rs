//! Devices that share an IOMMU group, one that has just MSI, and guests with memory above 4 GiB or in huge pages. All of it
//! runs in the lab.
//!
//! Lab machine: 5 GiB of memory; at 0000:00:0a.0 and 0000:00:0a.1 two serial cards in one IOMMU group, with I/O BARs,
//! INTx and no reset, joined by a cable: what goes into one comes out of the other; at 0000:01:00.0 a SATA controller
//! (scripts/test-support/lab_sets.py says how).

mod shared_group;
mod huge_pages;
mod large_memory;
mod msi;
