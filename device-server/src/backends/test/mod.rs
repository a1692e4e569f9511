//! The test device: the smallest complete PCI device, for tests and for newcomers.
//!
//! It is software and needs no hardware: a BAR that clients map, a BAR of trapped registers, an I/O BAR, a DMA copy
//! engine, and INTx, MSI and MSI-X on demand. docs/test-device.md is its data sheet.
//! It does not interpret the MSI-X table: as with every vfio-user device, the client does, and binds eventfds.

mod registers;
mod dma_engine;
mod memory;
mod doorbell;
mod config_space;
mod layout;

use std::sync::Arc;

use protocol::{DmaMap, Errno, IovaRange, IrqIndex, RegionIndex, SetIrqs};

use crate::backend::{Backend, DeviceDescription, EventSource, MessageDma};
use crate::backends::test::config_space::{ConfigEffect, ConfigSpace};
use crate::backends::test::dma_engine::DmaEngine;
use crate::backends::test::doorbell::Doorbell;
use crate::backends::test::memory::{MappedMemory, TableMemory};
use crate::backends::test::registers::{Action, Registers};
use crate::dma::SharedDma;
use crate::irq::{LevelLine, Signaller, Vectors};

/// Bytes of BAR0, the only memory that the device makes.
pub const MEMORY_BYTES: u64 = layout::MAPPED_BAR_BYTES as u64;

/// How the test device is built.
#[derive(Debug, Clone, Copy)]
pub struct TestDeviceOptions {
    /// Reach client memory by DMA_READ and DMA_WRITE even where it came with an fd.
    pub message_dma: bool,
    /// Maps that the client may have at the same time.
    pub max_dma_maps: usize,
}

/// The test device.
#[derive(Debug)]
pub struct TestDevice {
    options: TestDeviceOptions,
    description: DeviceDescription,
    config: ConfigSpace,
    mapped: MappedMemory,
    doorbell: Doorbell,
    table: TableMemory,
    registers: Registers,
    engine: DmaEngine,
    dma: SharedDma,
    signaller: Arc<Signaller>,
    intx: LevelLine,
    edges: EdgeInterrupts,
}

/// The interrupt indexes other than INTx.
#[derive(Debug)]
struct EdgeInterrupts {
    msi: Vectors,
    msix: Vectors,
    err: Vectors,
    req: Vectors,
}

impl TestDevice {
    /// A device after power-on.
    pub fn new(options: TestDeviceOptions) -> Result<TestDevice, Errno> {
        let mapped = MappedMemory::new()?;
        let doorbell = Doorbell::new()?;
        let description = layout::describe(mapped.share()?, doorbell.share()?);
        let signaller = Arc::new(Signaller::new()?);
        Ok(TestDevice {
            options,
            description,
            config: ConfigSpace::new(),
            mapped,
            doorbell,
            table: TableMemory::new(),
            registers: Registers::new(options.message_dma),
            engine: DmaEngine::new(),
            dma: SharedDma::new(options.max_dma_maps),
            intx: LevelLine::new(&signaller),
            edges: EdgeInterrupts::new(&signaller),
            signaller,
        })
    }

    fn perform(&mut self, action: Action, messages: &mut dyn MessageDma) {
        match action {
            Action::RaiseIrq { index, vector } => {
                if let Some(vectors) = self.edges.index_mut(index) {
                    // A vector that does not exist is nobody's interrupt.
                    let _ = vectors.raise(vector);
                }
            }
            Action::DriveIntx => self.drive_intx(),
            Action::RunDma(job) => {
                let result = if self.config.bus_master() {
                    self.engine.run(job, &self.dma, messages)
                } else {
                    Err(Errno::PERM)
                };
                if let Some((index, vector)) = self.registers.finish_dma(result) {
                    self.perform(Action::RaiseIrq { index, vector }, messages);
                }
            }
        }
    }

    /// The pin follows the level register, unless the driver has disabled INTx.
    fn drive_intx(&mut self) {
        let level = self.registers.intx_level();
        self.config.show_intx_status(level);
        self.intx.drive(level && !self.config.intx_disabled());
    }

    fn power_on(&mut self) -> Result<(), Errno> {
        self.config = ConfigSpace::new();
        self.mapped.clear()?;
        self.table = TableMemory::new();
        self.registers.reset();
        self.doorbell.take();
        self.drive_intx();
        Ok(())
    }

    fn write_registers(&mut self, offset: u64, data: &[u8], messages: &mut dyn MessageDma) {
        for action in self.registers.write(offset, data) {
            self.perform(action, messages);
        }
    }
}

impl Backend for TestDevice {
    fn describe(&self) -> &DeviceDescription {
        &self.description
    }

    fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), Errno> {
        match region {
            layout::MAPPED_BAR => {
                self.registers.count_mapped_access();
                self.mapped.read(offset, data)
            }
            layout::TABLE_BAR => self.table.read(offset, data),
            layout::REGISTER_BAR | layout::IO_BAR => {
                if doorbell::is_counted_in(offset, data.len()) {
                    self.registers.ring(self.doorbell.take());
                }
                self.registers.read(offset, data);
                Ok(())
            }
            RegionIndex::CONFIG => self.config.read(offset, data),
            RegionIndex(_) => Err(Errno::INVAL),
        }
    }

    fn region_write(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
        dma: &mut dyn MessageDma,
    ) -> Result<(), Errno> {
        match region {
            layout::MAPPED_BAR => {
                self.registers.count_mapped_access();
                self.mapped.write(offset, data)
            }
            layout::TABLE_BAR => self.table.write(offset, data),
            layout::REGISTER_BAR | layout::IO_BAR => {
                self.write_registers(offset, data, dma);
                Ok(())
            }
            RegionIndex::CONFIG => {
                match self.config.write(offset, data)? {
                    ConfigEffect::None => self.drive_intx(),
                    ConfigEffect::FunctionLevelReset => self.power_on()?,
                }
                Ok(())
            }
            RegionIndex(_) => Err(Errno::INVAL),
        }
    }

    fn set_irqs(&mut self, request: SetIrqs) -> Result<(), Errno> {
        if request.index == IrqIndex::INTX {
            return self.intx.apply(request);
        }
        self.edges
            .index_mut(request.index)
            .ok_or(Errno::INVAL)?
            .apply(request)
    }

    fn dma_map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        if self.options.message_dma {
            self.dma.map_by_messages(map.range, map.flags)
        } else {
            self.dma.map(map)
        }
    }

    fn dma_unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        self.dma.unmap(range)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.power_on()
    }

    fn client_gone(&mut self) -> Result<(), Errno> {
        self.dma.clear();
        self.intx.disable();
        self.edges = EdgeInterrupts::new(&self.signaller);
        // The old client may still have the old memory mapped: the next one gets another.
        self.mapped = MappedMemory::new()?;
        self.doorbell = Doorbell::new()?;
        self.description = layout::describe(self.mapped.share()?, self.doorbell.share()?);
        self.power_on()
    }

    fn event_source(&mut self) -> Option<&mut dyn EventSource> {
        Some(&mut self.intx)
    }
}

impl EdgeInterrupts {
    fn new(signaller: &Arc<Signaller>) -> EdgeInterrupts {
        EdgeInterrupts {
            msi: Vectors::new(layout::MSI_VECTORS, signaller),
            msix: Vectors::new(layout::MSIX_VECTORS, signaller),
            err: Vectors::new(1, signaller),
            req: Vectors::new(1, signaller),
        }
    }

    fn index_mut(&mut self, index: IrqIndex) -> Option<&mut Vectors> {
        match index {
            IrqIndex::MSI => Some(&mut self.msi),
            IrqIndex::MSIX => Some(&mut self.msix),
            IrqIndex::ERR => Some(&mut self.err),
            IrqIndex::REQ => Some(&mut self.req),
            IrqIndex(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
