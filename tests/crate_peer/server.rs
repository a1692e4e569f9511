//! The crate's Server with a small device. What the device is asked to do, other than reads and writes, is printed.
//!
//! BAR0 is 64 KiB of memory that a client can map, BAR2 registers: a write of N to RAISE fires vector N of MSI-X, any
//! access to REFUSES fails, everything else is memory. Serves one client and ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
    vfio_region_info, vfio_region_sparse_mmap_area,
};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};

const REGISTERS: u32 = 2;
const RAISE: u64 = 0x10;
const REFUSES: u64 = 0x20;
/// Size of each region, by index.
const SIZES: [u64; 9] = [0x10000, 0, 0x1000, 0, 0, 0, 0, 0x1000, 0];
/// Vectors of INTx, MSI, MSI-X, ERR and REQ.
const VECTORS: [u32; 5] = [1, 0, 4, 1, 1];
const EVENTFD: u32 = 1;

struct Device {
    memory: File,
    registers: Vec<u8>,
    config: Vec<u8>,
    triggers: Vec<Option<File>>,
}

pub(crate) fn run(socket: &Path) -> Result<()> {
    let memory = memfd_create("bar0", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, SIZES[0])?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
    let regions = (0..)
        .zip(SIZES)
        .map(|(index, size)| region(index, size, &memory));
    let irqs = (0..).zip(VECTORS).map(|(index, count)| IrqInfo {
        index,
        flags: EVENTFD,
        count,
    });
    let server = Server::new(socket, true, irqs.collect(), regions.collect()).context("listen")?;
    println!("listening");
    let mut device = Device {
        memory: File::from(memory.try_clone()?),
        registers: vec![0; 0x1000],
        config: vec![0; 0x1000],
        triggers: Vec::new(),
    };
    server.run(&mut device).context("serve")
}

fn region(index: u32, size: u64, memory: &impl AsRawFd) -> ServerRegion {
    let mut flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    let mut sparse_areas = Vec::new();
    if index == 0 {
        flags |= VFIO_REGION_INFO_FLAG_MMAP;
        // The crate sends the file only with sparse areas (pitfall 33): one that covers the region.
        sparse_areas.push(SparseArea {
            area: vfio_region_sparse_mmap_area { offset: 0, size },
        });
    }
    ServerRegion {
        region_info: vfio_region_info {
            argsz: 32,
            flags: if size == 0 { 0 } else { flags },
            index,
            size,
            ..Default::default()
        },
        sparse_areas,
        mmap_fd: (index == 0).then(|| memory.as_raw_fd()),
    }
}

impl Device {
    fn part(&mut self, region: u32, offset: u64, len: usize) -> io::Result<&mut [u8]> {
        let all = if region == REGISTERS {
            &mut self.registers
        } else {
            &mut self.config
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        all.get_mut(start..start.saturating_add(len))
            .filter(|_| region != REGISTERS || offset != REFUSES)
            .ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::PERM.raw_os_error()))
    }

    fn raise(&self, data: &[u8]) -> io::Result<()> {
        let vector = usize::from(data.first().copied().unwrap_or(0));
        if let Some(Some(trigger)) = self.triggers.get(vector) {
            rustix::io::write(trigger, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }
}

impl ServerBackend for Device {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if region == 0 {
            return self.memory.read_exact_at(data, offset);
        }
        data.copy_from_slice(self.part(region, offset, data.len())?);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == 0 {
            return self.memory.write_all_at(data, offset);
        }
        self.part(region, offset, data.len())?.copy_from_slice(data);
        if region == REGISTERS && offset == RAISE {
            return self.raise(data);
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let mut first = [0; 4];
        let starts_with = match fd {
            Some(file) => {
                file.read_exact_at(&mut first, offset)?;
                String::from_utf8_lossy(&first).into_owned()
            }
            None => "no file".to_owned(),
        };
        let flags = flags.bits();
        println!("dma_map {flags} {offset:#x} {address:#x} {size:#x} {starts_with}");
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        println!("dma_unmap {flags:?} {address:#x} {size:#x}");
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        println!("reset");
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        println!("set_irqs {index} {flags} {start} {count} {}", fds.len());
        self.triggers.resize_with(4, || None);
        let vectors = self.triggers.iter_mut().skip(start as usize);
        for (trigger, fd) in vectors.zip(fds) {
            *trigger = Some(fd);
        }
        Ok(())
    }
}
