//! The crate's Client, one call per line of stdin. Call N is answered by a line "N ok VALUE" or "N error TEXT"; call 0 is
//! connecting.
//!
//! Numbers are decimal, or hexadecimal with 0x; bytes are hexadecimal digits.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vfio_user::Client;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// The client with what a VMM has beside it.
struct Peer {
    client: Client,
    memory: Option<File>,
    eventfds: Vec<OwnedFd>,
}

pub(crate) fn run(socket: &Path) -> Result<()> {
    let client = Client::new(socket).context("connect")?;
    let mut peer = Peer {
        client,
        memory: None,
        eventfds: Vec::new(),
    };
    answer("0 ok")?;
    for (number, line) in (1u32..).zip(std::io::stdin().lock().lines()) {
        let line = line?;
        match peer.call(&line.split_ascii_whitespace().collect::<Vec<_>>()) {
            Ok(value) => answer(&format!("{number} ok {value}"))?,
            Err(error) => answer(&format!("{number} error {error:#}"))?,
        }
    }
    Ok(())
}

fn answer(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

impl Peer {
    fn call(&mut self, words: &[&str]) -> Result<String> {
        match *words {
            ["resettable"] => Ok(self.client.resettable().to_string()),
            ["region", index] => self.region(number(index)?),
            ["irq", index] => {
                let info = self.client.get_irq_info(number(index)?)?;
                Ok(format!(
                    "index={} flags={} count={}",
                    info.index, info.flags, info.count
                ))
            }
            ["read", region, offset, count] => {
                let mut data = vec![0; number(count)?];
                let (region, offset) = (number(region)?, number(offset)?);
                self.client.region_read(region, offset, &mut data)?;
                Ok(digits(&data))
            }
            ["write", region, offset, data] => {
                let (region, offset) = (number(region)?, number(offset)?);
                self.client.region_write(region, offset, &bytes(data)?)?;
                Ok(String::new())
            }
            ["mapped-read", region, offset, count] => {
                let mut data = vec![0; number(count)?];
                let mapping = self.mapping(number(region)?)?;
                let area = mapping.as_volatile_slice();
                area.read_slice(&mut data, number(offset)?)?;
                Ok(digits(&data))
            }
            ["mapped-write", region, offset, data] => {
                let mapping = self.mapping(number(region)?)?;
                let area = mapping.as_volatile_slice();
                area.write_slice(&bytes(data)?, number(offset)?)?;
                Ok(String::new())
            }
            ["reset"] => self
                .client
                .reset()
                .map(|()| String::new())
                .map_err(Into::into),
            _ => self.call_with_fds(words),
        }
    }

    /// What shares memory or eventfds with the server.
    fn call_with_fds(&mut self, words: &[&str]) -> Result<String> {
        match *words {
            ["memory", kind @ ("sealed" | "unsealed"), size] => {
                let fd = memfd_create("guest", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
                ftruncate(&fd, number(size)?)?;
                if kind == "sealed" {
                    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
                }
                self.memory = Some(fd.into());
                Ok(String::new())
            }
            ["memory-write", offset, data] => {
                self.memory()?
                    .write_all_at(&bytes(data)?, number(offset)?)?;
                Ok(String::new())
            }
            ["memory-read", offset, count] => {
                let mut data = vec![0; number(count)?];
                self.memory()?.read_exact_at(&mut data, number(offset)?)?;
                Ok(digits(&data))
            }
            ["dma_map", offset, address, size] => {
                let fd = self.memory()?.as_raw_fd();
                let (offset, address, size) = (number(offset)?, number(address)?, number(size)?);
                self.client.dma_map(offset, address, size, fd)?;
                Ok(String::new())
            }
            ["dma_unmap", address, size] => {
                self.client.dma_unmap(number(address)?, number(size)?)?;
                Ok(String::new())
            }
            // `fds` new eventfds go with it; without, those of before are what may fire.
            ["set_irqs", index, flags, start, count, fds] => {
                let made = (0..number::<usize>(fds)?)
                    .map(|_| eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC))
                    .collect::<Result<Vec<_>, _>>()?;
                let raw: Vec<_> = made.iter().map(AsRawFd::as_raw_fd).collect();
                let (index, flags) = (number(index)?, number(flags)?);
                self.client
                    .set_irqs(index, flags, number(start)?, number(count)?, &raw)?;
                if !made.is_empty() {
                    self.eventfds = made;
                }
                Ok(String::new())
            }
            ["fired"] => Ok(self.fired()),
            _ => bail!("no such call: {words:?}"),
        }
    }

    fn region(&self, index: u32) -> Result<String> {
        let region = self.client.region(index).context("no such region")?;
        let areas: Vec<String> = region
            .sparse_areas
            .iter()
            .map(|area| format!("{:#x}+{:#x}", area.offset, area.size))
            .collect();
        Ok(format!(
            "flags={} size={:#x} file={} areas={}",
            region.flags,
            region.size,
            region.file_offset.is_some(),
            areas.join(",")
        ))
    }

    fn mapping(&self, index: u32) -> Result<MmapRegion<()>> {
        let region = self.client.region(index).context("no such region")?;
        let file = region.file_offset.as_ref().context("no file")?;
        let file = FileOffset::new(file.file().try_clone()?, file.start());
        Ok(MmapRegion::from_file(file, region.size.try_into()?)?)
    }

    fn memory(&self) -> Result<&File> {
        self.memory.as_ref().context("no memory yet")
    }

    /// Vectors whose eventfd was written to since the last time, each with its count.
    fn fired(&self) -> String {
        let mut fired = Vec::new();
        for (vector, fd) in self.eventfds.iter().enumerate() {
            let mut count = [0; 8];
            if rustix::io::read(fd, &mut count) == Ok(8) {
                fired.push(format!("{vector}:{}", u64::from_ne_bytes(count)));
            }
        }
        fired.join(",")
    }
}

fn number<T: TryFrom<u64>>(word: &str) -> Result<T> {
    let value = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let value = value.with_context(|| format!("{word} is no number"))?;
    T::try_from(value)
        .ok()
        .with_context(|| format!("{word} is too large"))
}

fn bytes(word: &str) -> Result<Vec<u8>> {
    let pairs = word.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)?;
        Ok(u8::from_str_radix(text, 16)?)
    });
    pairs.collect()
}

fn digits(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}
