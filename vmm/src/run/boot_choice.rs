//! What the machine boots: what is in force, and what the operator has chosen for the next reset (`set-boot-files`).
//!
//! A choice is made when everything about it was looked at, so that the reset does not fail; one that is refused changes nothing. A new
//! choice replaces the one that waits. What is no longer used is unmapped at once, and closed at the supervisor.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::RunError;
use crate::config::Config;
use crate::config::machine::check_append;
use crate::config::policy::check_image_path;
use crate::hotplug::{Devices, ImageError};
use crate::kvm::CpuState;
use crate::machine::boot::{BootError, BootFiles, Image, ImageKind};
use crate::memory::layout::RamRegion;
use crate::memory::ram::GuestRam;
use crate::qmp::errors::QmpError;
use crate::qmp::machine::{BootControl, BootRequest};

/// What the machine boots.
pub(super) struct BootChoice {
    devices: Arc<Devices>,
    ram: Vec<RamRegion>,
    ram_bytes: u64,
    acpi: Vec<u8>,
    state: Mutex<State>,
}

struct State {
    in_force: Boot,
    next: Option<Boot>,
}

/// Files, and what the operator calls them.
struct Boot {
    files: BootFiles,
    kernel: String,
    initrd: Option<String>,
}

/// Why a choice is refused.
#[derive(Debug, thiserror::Error)]
enum ChoiceError {
    #[error("Open {} {path}", kind.name())]
    Image {
        kind: ImageKind,
        path: String,
        #[source]
        source: ImageError,
    },
    #[error("Open {0}")]
    Path(String),
    #[error("append: {0}")]
    Append(String),
    #[error("kernel {kernel}")]
    Boot {
        kernel: String,
        #[source]
        source: BootError,
    },
}

impl BootChoice {
    /// Begins with what the command line names.
    pub(super) fn new(
        config: &Config,
        files: BootFiles,
        devices: &Arc<Devices>,
        ram: &[RamRegion],
        acpi: Vec<u8>,
    ) -> BootChoice {
        let name = |path: &Path| path.display().to_string();
        let in_force = Boot {
            files,
            kernel: name(&config.kernel),
            initrd: config.initrd.as_deref().map(name),
        };
        BootChoice {
            devices: Arc::clone(devices),
            ram: ram.to_vec(),
            ram_bytes: config.memory.size_bytes,
            acpi,
            state: Mutex::new(State {
                in_force,
                next: None,
            }),
        }
    }

    /// The machine begins anew: what was chosen is in force from here on, and in memory.
    pub(super) fn load(&self, ram: &GuestRam) -> Result<CpuState, RunError> {
        let mut state = self.lock();
        if let Some(next) = state.next.take() {
            tracing::info!(
                kernel = next.kernel,
                initrd = next.initrd.as_deref().unwrap_or("none"),
                append = next.files.append,
                "boots what set-boot-files chose"
            );
            state.in_force = next;
        }
        let Boot { files, kernel, .. } = &state.in_force;
        let loaded = files.load(ram.guest_memory(), &self.ram, &self.acpi);
        loaded.map_err(|source| RunError::Boot {
            kernel: kernel.into(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, request: BootRequest) -> Result<Boot, ChoiceError> {
        let in_force = || self.lock().in_force.files.append.clone();
        let append = request.append.unwrap_or_else(in_force);
        check_append(&append).map_err(ChoiceError::Append)?;
        let initrd = request.initrd.as_deref();
        let files = BootFiles {
            kernel: self.image(ImageKind::Kernel, &request.kernel)?,
            initrd: initrd
                .map(|path| self.image(ImageKind::Initrd, path))
                .transpose()?,
            append,
        };
        let checked = files.check(&self.ram);
        checked.map_err(|source| ChoiceError::Boot {
            kernel: request.kernel.clone(),
            source,
        })?;
        Ok(Boot {
            files,
            kernel: request.kernel,
            initrd: request.initrd,
        })
    }

    fn image(&self, kind: ImageKind, path: &str) -> Result<Image, ChoiceError> {
        check_image_path(kind.name(), path)
            .map_err(|error| ChoiceError::Path(error.to_string()))?;
        let image = self.devices.image(kind, path, self.ram_bytes);
        image.map_err(|source| ChoiceError::Image {
            kind,
            path: path.to_owned(),
            source,
        })
    }
}

impl BootControl for BootChoice {
    fn choose(&self, request: BootRequest) -> Result<(), QmpError> {
        let boot = self.prepare(request).map_err(|error| {
            let error = QmpError::from_chain(&error);
            tracing::warn!(error = error.desc, "boot files not set");
            error
        })?;
        tracing::info!(kernel = boot.kernel, "boot files set for the next reset");
        // What waited is let go of without the lock.
        let _replaced = self.lock().next.replace(boot);
        Ok(())
    }

    fn describe(&self) -> Value {
        let state = self.lock();
        let mut answer = json!({ "in-force": state.in_force.describe() });
        if let Some(next) = &state.next {
            answer["next"] = next.describe();
        }
        answer
    }
}

impl Boot {
    fn describe(&self) -> Value {
        let mut answer = json!({ "kernel": self.kernel, "append": self.files.append });
        if let Some(initrd) = &self.initrd {
            answer["initrd"] = json!(initrd);
        }
        answer
    }
}
