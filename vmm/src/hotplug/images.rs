//! How an image to boot next is had: the supervisor reads the file, the attaching thread maps what it lends.

use super::devices::Devices;
use super::supervisor::SupervisorError;
use crate::machine::boot::{BootError, Image, ImageKind};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// This machine was started without a supervisor.
    #[error("this VM has no supervisor that could open a file")]
    NoSupervisor,
    /// It refuses, or cannot be asked.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// What it lent cannot be mapped, or is too large for this machine.
    #[error(transparent)]
    Map(#[from] BootError),
    /// The machine ends.
    #[error("the machine is ending")]
    NoThread,
}

impl Devices {
    /// What the file at this path holds now. The supervisor has it open for as long as it is used.
    pub fn image(&self, kind: ImageKind, path: &str, ram_bytes: u64) -> Result<Image, ImageError> {
        let supervisor = self.machine.supervisor.as_ref();
        let (file, lease) = supervisor
            .ok_or(ImageError::NoSupervisor)?
            .open_image(path)?;
        let mapped = self.machine.attacher.map(kind, file, ram_bytes);
        Ok(mapped.ok_or(ImageError::NoThread)??.keeping(lease))
    }
}
