//! What each command and reply says: one file per family, plain types that cannot be wrong once decoded.
//!
//! Spec: vfio-user, one section per command. Every type is encoded and decoded here, for both sides.
//! No sockets, no state: what depends on a device (its regions, its maps) is checked by the side that owns it.

pub mod version;
mod version_json;
pub mod device;
pub mod region;
pub mod region_info;
pub mod io_fds;
pub mod irq;
pub mod dma;
pub mod dma_access;
pub mod write_multi;
pub mod feature;
pub mod migration;

pub use device::DeviceInfo;
pub use dma::{DmaMap, DmaMapFlags, DmaUnmap};
pub use dma_access::DmaRequest;
pub use feature::{DeviceFeature, DeviceState, Feature};
pub use io_fds::{IoFd, IoFdKind, IoFds};
pub use irq::{IrqAction, IrqData, IrqInfo, IrqInfoFlags, SetIrqs};
pub use migration::{MigDataRead, MigDataWrite};
pub use region::{RegionAccess, RegionFlags, RegionWrite};
pub use region_info::{RegionInfo, SparseArea};
pub use version::{Capabilities, Migration, TwinSocket, Version};
pub use write_multi::{WriteMulti, WriteMultiEntry};
