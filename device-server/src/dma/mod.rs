//! Client memory: which of it the device may touch, and how this process touches it.
//!
//! `table` is the rule book (no overlap, exact unmap, a limit on the number), `source` judges the file descriptor
//! of a DMA_MAP, `mapping` maps it into this process, `access` copies between a mapping and a buffer.
//! The vfio backend uses `mapping` only for as long as the kernel needs to pin the pages.

pub mod access;
pub mod mapping;
pub mod source;
pub mod table;

pub use access::SharedDma;
pub use mapping::Mapping;
pub use source::{MemorySource, SourceRefusal};
pub use table::{DmaTable, DmaTableError};
