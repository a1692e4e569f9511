//! KVM memory slots: which guest addresses are RAM or a mapped BAR, and so never exit.
//!
//! A slot owns what backs it: RAM through the `Arc<GuestRam>` that came in, a BAR through its `Arc<DeviceMapping>`,
//! so nothing can be unmapped under the guest.
//!
//! Limits: as many slots as KVM reports (32,764 on current kernels).

// UNSAFETY: KVM_SET_USER_MEMORY_REGION lets the guest access host memory by address.
#![expect(
    unsafe_code,
    reason = "the guest reaches host memory by its address, see above"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::device_mapping::DeviceMapping;
use super::error::{KvmError, io_error};
use crate::memory::layout::RamRegion;
use crate::memory::ram::GuestRam;

#[cfg(test)]
mod tests;

/// One slot of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u32);

/// All memory slots of one VM.
#[derive(Debug)]
pub struct MemorySlots {
    vm: Arc<VmFd>,
    limit: usize,
    used: Mutex<BTreeMap<SlotId, Slot>>,
}

#[derive(Debug)]
struct Slot {
    gpa: u64,
    len: u64,
    /// Held so that the memory outlives the slot.
    _backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Ram { _held: Arc<GuestRam> },
    Device { _held: Arc<DeviceMapping> },
}

impl MemorySlots {
    pub(super) fn new(vm: Arc<VmFd>, limit: usize) -> MemorySlots {
        MemorySlots {
            vm,
            limit,
            used: Mutex::new(BTreeMap::new()),
        }
    }

    /// Gives the guest its RAM.
    pub fn map_ram(&self, ram: &Arc<GuestRam>) -> Result<(), KvmError> {
        for region in ram.regions() {
            let address = host_address(ram, region)?;
            let backing = Backing::Ram {
                _held: Arc::clone(ram),
            };
            self.add(
                Slot {
                    gpa: region.gpa,
                    len: region.len,
                    _backing: backing,
                },
                address,
            )?;
        }
        Ok(())
    }

    /// Makes `len` bytes at `offset` of a device mapping appear at guest address `gpa`.
    pub fn map_device(
        &self,
        gpa: u64,
        mapping: Arc<DeviceMapping>,
        offset: u64,
        len: u64,
    ) -> Result<SlotId, KvmError> {
        let bad = |reason| KvmError::BadSlot { gpa, len, reason };
        let page = rustix::param::page_size() as u64;
        if len == 0
            || [gpa, offset, len]
                .iter()
                .any(|number| !number.is_multiple_of(page))
        {
            return Err(bad("it is empty or not made of whole pages"));
        }
        if gpa.checked_add(len).is_none() {
            return Err(bad("it passes the end of the address space"));
        }
        if offset
            .checked_add(len)
            .is_none_or(|end| end > mapping.len_bytes())
        {
            return Err(bad("it passes the end of what the device offers"));
        }
        let address = mapping.address() + offset;
        self.add(
            Slot {
                gpa,
                len,
                _backing: Backing::Device { _held: mapping },
            },
            address,
        )
    }

    /// Takes a device mapping out of the guest. When this returns no vCPU reaches it any more.
    pub fn unmap(&self, slot: SlotId) -> Result<(), KvmError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = used.get(&slot).ok_or(KvmError::UnknownSlot(slot.0))?;
        // A length of zero deletes the slot.
        self.set(slot, entry, 0, 0)?;
        used.remove(&slot);
        Ok(())
    }

    /// Whether a device slot holds this guest address.
    pub fn is_device(&self, gpa: u64) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.values().any(|slot| {
            matches!(slot._backing, Backing::Device { .. })
                && gpa.checked_sub(slot.gpa).is_some_and(|at| at < slot.len)
        })
    }

    /// How many slots are in use, RAM included.
    pub fn count(&self) -> usize {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn add(&self, slot: Slot, address: u64) -> Result<SlotId, KvmError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.limit;
        let id = (0..u32::try_from(limit).unwrap_or(u32::MAX))
            .map(SlotId)
            .find(|id| !used.contains_key(id))
            .ok_or(KvmError::NoSlot { limit })?;
        self.set(id, &slot, address, slot.len)?;
        used.insert(id, slot);
        Ok(id)
    }

    fn set(&self, id: SlotId, slot: &Slot, address: u64, len: u64) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            slot: id.0,
            flags: 0,
            guest_phys_addr: slot.gpa,
            memory_size: len,
            userspace_addr: address,
        };
        // SAFETY: the contract is that the guest may touch [address, address + len) until the slot is deleted:
        // - the range lies inside one live mapping: `host_address` takes RAM's own, `map_device` checks the end;
        // - the mapping outlives the slot: `Slot::_backing` holds it until `unmap` has deleted the slot, or until the
        //   whole VM is dropped;
        // - Rust code keeps no reference into it: RAM is reached through vm_memory's volatile slices, a device never.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(|errno| KvmError::MapSlot {
            gpa: slot.gpa,
            len,
            source: io_error(errno),
        })
    }
}

fn host_address(ram: &GuestRam, region: &RamRegion) -> Result<u64, KvmError> {
    let bad = |reason| KvmError::BadSlot {
        gpa: region.gpa,
        len: region.len,
        reason,
    };
    let mapped = ram
        .guest_memory()
        .find_region(GuestAddress(region.gpa))
        .ok_or_else(|| bad("it is not mapped"))?;
    if mapped.len() != region.len {
        return Err(bad("it is mapped with another length"));
    }
    Ok(mapped.as_ptr().addr() as u64)
}
