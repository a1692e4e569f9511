//! A backend that counts what another one does: memory that is mapped, interrupts that are wired, resets.

use std::collections::BTreeSet;

use protocol::{DmaMap, Errno, IovaRange, IrqAction, IrqData, RegionIndex, SetIrqs};

use super::DeviceMetrics;
use crate::backend::{Backend, DeviceDescription, EventSource, MessageDma};

/// A backend whose work is counted.
pub struct Metered {
    inner: Box<dyn Backend>,
    metrics: DeviceMetrics,
    /// Index and number of each vector that has an eventfd.
    wired: BTreeSet<(u32, u32)>,
}

/// What a SET_IRQS that succeeds changes.
enum Wiring {
    Nothing,
    Add(u32, u32, u32),
    Remove(u32, u32, u32),
}

impl Metered {
    /// Counts what `inner` does in `metrics`.
    pub fn new(inner: Box<dyn Backend>, metrics: DeviceMetrics) -> Metered {
        Metered {
            inner,
            metrics,
            wired: BTreeSet::new(),
        }
    }

    fn rewire(&mut self, wiring: &Wiring) {
        match *wiring {
            Wiring::Nothing => return,
            Wiring::Add(index, start, end) => self
                .wired
                .extend((start..end).map(|vector| (index, vector))),
            Wiring::Remove(index, start, end) => {
                self.wired
                    .retain(|(other, vector)| *other != index || !(start..end).contains(vector));
            }
        }
        let wired = i64::try_from(self.wired.len()).unwrap_or(i64::MAX);
        self.metrics.interrupts.set(wired);
    }
}

fn wiring(request: &SetIrqs) -> Wiring {
    let (index, start) = (request.index.0, request.start);
    let end = start.saturating_add(request.count);
    match (request.action, &request.data) {
        (IrqAction::Trigger, IrqData::Eventfd(fds)) if fds.is_empty() => {
            Wiring::Remove(index, start, end)
        }
        (IrqAction::Trigger, IrqData::Eventfd(_)) => Wiring::Add(index, start, end),
        // The form that disables the whole index.
        (IrqAction::Trigger, IrqData::None) if request.disables_index() => {
            Wiring::Remove(index, 0, u32::MAX)
        }
        (IrqAction::Trigger | IrqAction::Mask | IrqAction::Unmask, _) => Wiring::Nothing,
    }
}

impl Backend for Metered {
    fn opened(&mut self) -> Result<(), Errno> {
        self.inner.opened()
    }

    fn describe(&self) -> &DeviceDescription {
        self.inner.describe()
    }

    fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno> {
        self.inner.region_read(region, offset, data)
    }

    fn region_write(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
        dma: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        self.inner.region_write(region, offset, data, dma)
    }

    fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno> {
        let wiring = wiring(&request);
        self.inner.set_irqs(request)?;
        self.rewire(&wiring);
        Ok(())
    }

    fn dma_map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        self.inner.dma_map(map)?;
        self.metrics.dma_maps.inc();
        self.metrics.dma_bytes.inc_by(bytes(map.range));
        Ok(())
    }

    fn dma_unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.inner.dma_unmap(range)?;
        self.metrics.dma_maps.dec();
        self.metrics.dma_bytes.dec_by(bytes(range));
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.inner.reset()?;
        self.metrics.resets.inc();
        Ok(())
    }

    fn client_gone(&mut self) -> Result<(), Errno> {
        self.inner.client_gone()?;
        if self.inner.describe().reset {
            self.metrics.resets.inc();
        }
        self.wired.clear();
        self.metrics.interrupts.set(0);
        self.metrics.dma_maps.set(0);
        self.metrics.dma_bytes.set(0);
        Ok(())
    }

    fn event_source(&mut self) -> Option<&mut dyn EventSource> {
        self.inner.event_source()
    }
}

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}

fn bytes(range: IovaRange) -> i64 {
    i64::try_from(range.len()).unwrap_or(i64::MAX)
}
