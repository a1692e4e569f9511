//! The passed devices by their ids: what is known of each.
//!
//! The lock is never held across a call into a device, the topology or the supervisor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use telemetry::device::UNKNOWN;
use tracing::Span;

use super::lifecycle::State;
use crate::config::{DeviceConfig, VfioCommon};
use crate::event_loop::Token;
use crate::vfio_user::VfioUserFunction;

/// One device, from its attaching to its end. What is said of one of the same id before it does not concern it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeviceKey {
    id: String,
    generation: u64,
}

/// What is known of a device.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    generation: u64,
    pub(super) config: DeviceConfig,
    pub(super) state: State,
    pub(super) function: Option<Arc<VfioUserFunction>>,
    /// What is waited for on its behalf.
    pub(super) watches: Vec<Token>,
    /// Why it is lost, or what keeps the host from having it.
    pub(super) cause: Option<String>,
    /// When it was started anew because it was lost.
    pub(super) restarts: Vec<Instant>,
    /// How often, ever.
    pub(super) restarted: u64,
}

/// All passed devices.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    entries: BTreeMap<String, Entry>,
    last_generation: u64,
}

impl DeviceKey {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Entry {
    pub(super) fn key(&self) -> DeviceKey {
        DeviceKey {
            id: self.config.id().to_owned(),
            generation: self.generation,
        }
    }
}

impl Table {
    /// Puts a device in, unless `refuse` finds something against it among those that are there.
    pub(super) fn insert<E>(
        &self,
        config: DeviceConfig,
        state: State,
        refuse: impl FnOnce(&BTreeMap<String, Entry>) -> Result<(), E>,
    ) -> Result<DeviceKey, E> {
        let mut content = self.lock();
        refuse(&content.entries)?;
        let entry = Entry {
            generation: content.next_generation(),
            config,
            state,
            function: None,
            watches: Vec::new(),
            cause: None,
            restarts: Vec::new(),
            restarted: 0,
        };
        let key = entry.key();
        content.entries.insert(key.id.clone(), entry);
        Ok(key)
    }

    /// Looks at all of them.
    pub(super) fn look<R>(&self, look: impl FnOnce(&BTreeMap<String, Entry>) -> R) -> R {
        look(&self.lock().entries)
    }

    /// The device that has this id now.
    pub(super) fn key(&self, id: &str) -> Option<DeviceKey> {
        self.lock().entries.get(id).map(Entry::key)
    }

    /// A copy of what is known of the device that has this id now.
    pub(super) fn by_id(&self, id: &str) -> Option<Entry> {
        self.lock().entries.get(id).cloned()
    }

    /// A copy of everything.
    pub(super) fn all(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }

    /// Everything, which leaves nothing.
    pub(super) fn take_all(&self) -> Vec<Entry> {
        std::mem::take(&mut self.lock().entries)
            .into_values()
            .collect()
    }

    /// The span of log lines about a device.
    pub(super) fn span(&self, device: &DeviceKey) -> Span {
        self.with(device, |entry| entry.config.vfio().map(VfioCommon::span))
            .flatten()
            .unwrap_or_else(|| telemetry::device::span(&device.id, UNKNOWN))
    }

    /// Looks at or changes a device, if it is there.
    pub(super) fn with<R>(
        &self,
        device: &DeviceKey,
        look: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        let mut content = self.lock();
        content.entry(device).map(look)
    }

    /// Takes a device out.
    pub(super) fn forget(&self, device: &DeviceKey) {
        let mut content = self.lock();
        if content.entry(device).is_some() {
            content.entries.remove(&device.id);
        }
    }

    /// The device begins anew, under a key of its own.
    pub(super) fn begin_anew(&self, device: &DeviceKey) -> Option<(DeviceKey, DeviceConfig)> {
        let mut content = self.lock();
        let generation = content.next_generation();
        let entry = content.entry(device)?;
        entry.generation = generation;
        entry.cause = None;
        entry.restarts.push(Instant::now());
        entry.restarted += 1;
        Some((entry.key(), entry.config.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn next_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    fn entry(&mut self, device: &DeviceKey) -> Option<&mut Entry> {
        self.entries
            .get_mut(&device.id)
            .filter(|entry| entry.generation == device.generation)
    }
}
