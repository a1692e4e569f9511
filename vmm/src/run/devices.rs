//! The passed devices of a running machine.
//!
//! Attaching is all or nothing: when one fails, those before it are let go. Behind a device that is lost there is no memory any
//! more; KVM finds out first, by a run that fails, and asks here to take the mappings away.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, DeviceConfig, VfioCommon};
use crate::event_loop::{EventLoop, Handler, Interest, Token};
use crate::kvm::MemoryFaultHandler;
use crate::pci::{PciError, PciHost};
use crate::vfio_user::{self, AttachError, VfioUserFunction, VmServices};

/// A device cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The supervisor gave no socket for it.
    #[error("Attach device '{0}': there is no socket for it")]
    NoSocket(String),
    /// It cannot be put into its place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its server, or what it says.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// All passed devices.
#[derive(Debug)]
pub(super) struct Devices {
    functions: Vec<Arc<VfioUserFunction>>,
}

impl Devices {
    /// Root ports first, whatever the order of the command line: a device may come before its bus.
    pub(super) fn attach(
        config: &Config,
        mut sockets: Vec<(String, OwnedFd)>,
        pci: &Arc<PciHost>,
        services: &VmServices,
    ) -> Result<Arc<Devices>, DeviceError> {
        for device in &config.devices {
            if let DeviceConfig::RootPort(port) = device {
                pci.add_root_port(port)?;
            }
        }
        let mut devices = Devices {
            functions: Vec::new(),
        };
        for common in config.devices.iter().filter_map(DeviceConfig::vfio) {
            let index = sockets.iter().position(|(id, _)| *id == common.id);
            let (_, socket) =
                sockets.swap_remove(index.ok_or_else(|| DeviceError::NoSocket(common.id.clone()))?);
            if let Err(error) = devices.add(socket, common, pci, services) {
                devices.release();
                return Err(error);
            }
        }
        Ok(Arc::new(devices))
    }

    fn add(
        &mut self,
        socket: OwnedFd,
        common: &VfioCommon,
        pci: &PciHost,
        services: &VmServices,
    ) -> Result<(), DeviceError> {
        let function = vfio_user::attach(socket, common, services)?;
        self.functions.push(Arc::clone(&function));
        Ok(pci.plug(&common.place, function)?)
    }

    /// Serves what the device servers ask, and notices when one is gone.
    pub(super) fn watch(&self, events: &EventLoop) -> io::Result<()> {
        for function in &self.functions {
            let watch = Arc::new(Watch {
                function: Arc::clone(function),
                token: Mutex::new(None),
            });
            let token = events.add(
                function.poll_fd(),
                Interest::Readable,
                Arc::<Watch>::clone(&watch) as _,
            )?;
            *watch.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        }
        Ok(())
    }

    /// Lets all devices go.
    pub(super) fn release(&self) {
        self.functions.iter().for_each(|function| function.detach());
    }
}

impl MemoryFaultHandler for Devices {
    fn drop_lost_mappings(&self, gpa: Option<u64>) -> bool {
        // Each of them is asked: without an address it may be any.
        self.functions
            .iter()
            .filter(|function| function.drop_lost_mappings(gpa))
            .count()
            > 0
    }
}

/// Looks after one device's connection.
struct Watch {
    function: Arc<VfioUserFunction>,
    token: Mutex<Option<Token>>,
}

impl Handler for Watch {
    fn ready(&self, events: &EventLoop) {
        if self.function.service() {
            return;
        }
        // Lost: a closed connection stays readable for ever.
        if let Some(token) = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            events.remove(token);
        }
    }
}
