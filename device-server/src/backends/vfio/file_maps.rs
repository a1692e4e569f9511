//! IOMMU mappings through iommufd, by file: IOMMU_IOAS_MAP_FILE.
//!
//! The kernel takes the pages from the memfd. Guest RAM is never mapped in this process, not even for a moment, and the
//! system call filter has no way to map it.
//! Refused before the kernel is asked: addresses outside what the IOMMU says that it can reach.

use std::os::fd::AsFd;
use std::sync::Arc;

use protocol::{DmaMap, Errno, IovaRange};

use super::dma::{Explained, Iommu, unmapped};
use super::iommufd::Iommufd;

/// The address space of an iommufd, with what can be mapped in it.
#[derive(Debug)]
pub(super) struct FileMaps {
    iommufd: Arc<Iommufd>,
    /// First and last address of each range. Asked once, with all devices attached: they are the same after one has been
    /// opened anew.
    ranges: Vec<(u64, u64)>,
    explained: Explained,
}

impl FileMaps {
    /// Asks what can be mapped. All devices are attached.
    pub(super) fn new(iommufd: Arc<Iommufd>) -> std::io::Result<FileMaps> {
        Ok(FileMaps {
            ranges: iommufd.ranges()?,
            iommufd,
            explained: Explained::default(),
        })
    }
}

impl Iommu for FileMaps {
    fn map(&mut self, map: &DmaMap) -> Result<(), Errno> {
        let file = map.fd.as_ref().ok_or(Errno::INVAL)?;
        let mapped = if is_inside(map.range, &self.ranges) {
            self.iommufd
                .map_file(file.as_fd(), map.file_offset, map.range, map.flags)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        } else {
            Err(Errno::INVAL)
        };
        mapped.inspect_err(|errno| self.explained.map_failed(*errno, map.range))
    }

    fn unmap(&mut self, range: IovaRange) -> Result<(), Errno> {
        unmapped(range, self.iommufd.unmap(range))
    }
}

/// Whether one of the ranges, given by first and last address, has all of `range` in it.
fn is_inside(range: IovaRange, ranges: &[(u64, u64)]) -> bool {
    let first = range.start().0;
    // An `IovaRange` has at least one byte and does not wrap.
    let last = first.saturating_add(range.len().saturating_sub(1));
    ranges
        .iter()
        .any(|(start, end)| *start <= first && last <= *end)
}

#[cfg(test)]
mod tests {
    use protocol::Iova;

    use super::*;

    /// What an Intel IOMMU of a PC says: all but the interrupt addresses.
    const RANGES: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];

    #[test]
    fn range_counts_as_inside_only_as_a_whole_and_of_one_range() {
        for (start, len, inside) in [
            (0, 0x1000, true),
            (0, 0xfee0_0000, true),
            (0, 0xfee0_1000, false),
            (0xfee0_0000, 0x1000, false),
            (0xfee0_0000, 0x10_0000, false),
            (0xfef0_0000, 0x1000, true),
            (0xfeef_f000, 0x2000, false),
            (0, 0xff00_0000, false),
            (0x7f_ffff_f000, 0x1000, true),
            (0x7f_ffff_f000, 0x2000, false),
        ] {
            let range = IovaRange::new(Iova(start), len).unwrap();
            assert_eq!(is_inside(range, &RANGES), inside, "{start:#x} {len:#x}");
        }
    }
}
