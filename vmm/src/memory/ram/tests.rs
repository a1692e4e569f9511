use rustix::fs::SealFlags;
use vm_memory::{Bytes, GuestAddress};

use super::{GuestRam, RamError};
use crate::config::{HugetlbConfig, MemoryConfig};
use crate::memory::layout;

fn config(size_bytes: u64) -> MemoryConfig {
    MemoryConfig {
        size_bytes,
        hugetlb: None,
        mem_path: None,
        prealloc: false,
    }
}

fn ram(config: &MemoryConfig) -> Result<GuestRam, RamError> {
    GuestRam::new(
        config,
        layout::place(config.size_bytes, 4096, 46).unwrap().ram,
    )
}

#[test]
fn ram_file_is_sealed_and_holds_what_the_guest_has() {
    let ram = ram(&config(16 << 20)).unwrap();
    let seals = rustix::fs::fcntl_get_seals(ram.fd()).unwrap();
    assert_eq!(seals, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    ram.guest_memory()
        .write_slice(b"bulkhead", GuestAddress(0x1234))
        .unwrap();
    let mut seen = [0; 8];
    rustix::io::pread(ram.fd(), &mut seen, 0x1234).unwrap();
    assert_eq!(&seen, b"bulkhead");
}

#[test]
fn memory_above_4_gib_is_the_rest_of_the_file() {
    let ram = ram(&config(3 << 30)).unwrap();
    ram.guest_memory()
        .write_obj(7u8, GuestAddress(layout::RAM_HIGH_START))
        .unwrap();
    let mut seen = [0];
    rustix::io::pread(ram.fd(), &mut seen, layout::RAM_LOW_END).unwrap();
    assert_eq!(seen, [7]);
}

#[test]
fn prealloc_takes_the_pages_at_once() {
    let ram = ram(&MemoryConfig {
        prealloc: true,
        ..config(8 << 20)
    })
    .unwrap();
    let blocks = rustix::fs::fstat(ram.fd()).unwrap().st_blocks;
    assert_eq!(blocks * 512, 8 << 20);
}

#[test]
fn memory_is_all_there_when_every_page_was_touched() {
    let ram = ram(&config(8 << 20)).unwrap();
    let touch = |from: u64, to: u64| {
        for page in (from..to).step_by(4096) {
            let memory = ram.guest_memory();
            memory.write_obj(0_u8, GuestAddress(page)).unwrap();
        }
    };
    assert!(!ram.is_all_there());
    // The rest is more than a huge page, of which one touch may take all.
    touch(0, 5 << 20);
    assert!(!ram.is_all_there());
    touch(5 << 20, 8 << 20);
    assert!(ram.is_all_there());
}

#[test]
fn more_memory_than_the_host_has_is_refused_with_both_numbers() {
    let refused = ram(&config(1 << 44)).unwrap_err().to_string();
    assert!(
        refused.contains("16777216 MiB") && refused.contains("the host has"),
        "{refused}"
    );
}

#[test]
fn huge_pages_that_are_not_there_are_refused_by_name() {
    // More than the host has free in its pool: the pool's maximum plus one page.
    let pool = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    let Ok(pool) = pool else {
        eprintln!("skipped: this kernel has no 2 MiB huge pages");
        return;
    };
    let pages: u64 = pool.trim().parse().unwrap();
    let huge = Some(HugetlbConfig {
        page_size_bytes: 2 << 20,
    });
    let refused = ram(&MemoryConfig {
        hugetlb: huge,
        ..config((pages + 1) << 21)
    })
    .unwrap_err();
    assert!(
        matches!(refused, RamError::HugePages { page_kib: 2048, .. }),
        "{refused}"
    );
}
