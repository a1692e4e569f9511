use std::io::Write;
use std::os::fd::OwnedFd;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::memory_map::{Piece, RAM, RESERVED, pieces};
use super::{BootError, BootFiles, HIGH_MEMORY, Image, ImageKind};
use crate::kvm::CpuState;
use crate::memory::layout::{RAM_HIGH_START, RAM_LOW_END, RamRegion};

const MIB: u64 = 1 << 20;

fn ram(mib: u64) -> (GuestMemoryMmap, [RamRegion; 1]) {
    let len = usize::try_from(mib * MIB).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).unwrap();
    (
        memory,
        [RamRegion {
            gpa: 0,
            len: mib * MIB,
            file_offset: 0,
        }],
    )
}

fn file(content: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = std::fs::File::from(fd);
    file.write_all(content).unwrap();
    file.into()
}

fn boot(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    mib: u64,
) -> (Result<CpuState, BootError>, GuestMemoryMmap) {
    let (memory, regions) = ram(mib);
    let state = files(kernel, initrd, mib).and_then(|files| {
        // What a check says holds when it comes to loading.
        let checked = files.check(&regions).map_err(|error| error.to_string());
        let loaded = files.load(&memory, &regions, &[1, 2, 3]);
        let load = loaded.as_ref().map(drop).map_err(ToString::to_string);
        assert_eq!(checked, load);
        loaded
    });
    (state, memory)
}

fn files(kernel: &[u8], initrd: Option<&[u8]>, mib: u64) -> Result<BootFiles, BootError> {
    let map = |kind, content| Image::map(kind, file(content), mib * MIB);
    Ok(BootFiles {
        kernel: map(ImageKind::Kernel, kernel)?,
        initrd: initrd
            .map(|content| map(ImageKind::Initrd, content))
            .transpose()?,
        append: "console=ttyS0".to_owned(),
    })
}

/// A setup header of protocol 2.15 with one sector of setup, then 4096 bytes of kernel.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut set =
        |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]);
    set(0x1f4, &256u32.to_le_bytes());
    set(0x202, b"HdrS");
    set(0x206, &0x020fu16.to_le_bytes());
    set(0x211, &[1]);
    set(0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(0x236, &1u16.to_le_bytes());
    set(0x238, &2047u32.to_le_bytes());
    set(0x258, &0x100_0000u64.to_le_bytes());
    set(0x260, &0x10_0000u32.to_le_bytes());
    image.extend([0xcc; 4096]);
    image
}

/// One loadable segment at 16 MiB and a PVH note, if wanted.
fn elf(note: bool) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut set =
        |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    set(0, b"\x7fELF\x02\x01\x01");
    set(16, &2u16.to_le_bytes());
    set(18, &62u16.to_le_bytes());
    set(24, &0x100_0000u64.to_le_bytes());
    set(32, &64u64.to_le_bytes());
    set(54, &56u16.to_le_bytes());
    set(56, &(1 + u16::from(note)).to_le_bytes());
    let mut segment =
        |at: usize, kind: u32, offset: u64, address: u64, in_file: u64, in_memory: u64| {
            set(at, &kind.to_le_bytes());
            for (index, value) in [offset, address, address, in_file, in_memory]
                .into_iter()
                .enumerate()
            {
                set(at + 8 + index * 8, &value.to_le_bytes());
            }
            set(at + 48, &4u64.to_le_bytes());
        };
    segment(64, 1, 0x800, 0x100_0000, 0x100, 0x2000);
    if note {
        segment(120, 4, 0x400, 0, 0x18, 0x18);
        set(
            0x400,
            &[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0],
        );
        set(0x410, &0x100_0010u64.to_le_bytes());
    }
    set(0x800, &[0x90; 0x100]);
    image
}

#[test]
fn bzimage_is_entered_at_its_64_bit_entry_with_a_zero_page() {
    let (state, memory) = boot(&bzimage(), Some(&[7; 5000]), 64);
    let CpuState::LongMode { rip, rsi, .. } = state.unwrap() else {
        panic!("not 64-bit")
    };
    assert_eq!(rip, HIGH_MEMORY + 0x200);
    let read = |offset: u64| memory.read_obj::<u32>(GuestAddress(rsi + offset)).unwrap();
    assert_eq!((read(0x218), read(0x21c)), (0x3ff_e000, 5000));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x3ff_e000)).unwrap(), 7);
    assert_eq!(read(0x70), 0xe_0000);
    let mut line = [0; 14];
    memory
        .read_slice(&mut line, GuestAddress(u64::from(read(0x228))))
        .unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    assert_eq!(
        memory.read_obj::<u8>(GuestAddress(HIGH_MEMORY)).unwrap(),
        0xcc
    );
}

#[test]
fn elf_is_entered_at_its_pvh_entry_with_a_start_info() {
    let (state, memory) = boot(&elf(true), Some(&[7; 5000]), 64);
    let CpuState::Protected { rip, rbx, .. } = state.unwrap() else {
        panic!("not protected mode")
    };
    assert_eq!(rip, 0x100_0010);
    assert_eq!(
        memory.read_obj::<u32>(GuestAddress(rbx)).unwrap(),
        0x336e_c578
    );
    assert_eq!(
        memory.read_obj::<u8>(GuestAddress(0x100_00ff)).unwrap(),
        0x90
    );
}

#[test]
fn elf_memory_beyond_its_file_is_zero_after_a_reset() {
    let (memory, regions) = ram(64);
    memory.write_obj(0xffu8, GuestAddress(0x100_1fff)).unwrap();
    let files = files(&elf(true), None, 64).unwrap();
    files.load(&memory, &regions, &[]).unwrap();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x100_1fff)).unwrap(), 0);
}

#[test]
fn kernel_file_that_is_cut_after_the_start_fails_a_reset_and_not_the_process() {
    let (memory, regions) = ram(64);
    let kernel = file(&bzimage());
    let cut = std::fs::File::from(kernel.try_clone().unwrap());
    let files = BootFiles {
        kernel: Image::map(ImageKind::Kernel, kernel, 64 * MIB).unwrap(),
        initrd: None,
        append: String::new(),
    };
    files.load(&memory, &regions, &[]).unwrap();
    cut.set_len(0).unwrap();
    let refused = files.load(&memory, &regions, &[]).unwrap_err();
    assert!(
        matches!(refused, BootError::Shorter { what: "kernel" }),
        "{refused}"
    );
}

#[test]
fn file_larger_than_memory_is_not_read() {
    let kernel = file(b"MZ");
    let sparse = std::fs::File::from(kernel.try_clone().unwrap());
    sparse.set_len(1 << 50).unwrap();
    let refused = Image::map(ImageKind::Kernel, kernel, 64 * MIB).unwrap_err();
    assert!(
        matches!(refused, BootError::NoRoom { has_mib: 64, .. }),
        "{refused}"
    );
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    for content in [&b""[..], b"MZ", &[0; 4096], b"\x7fELF"] {
        let refused = boot(content, None, 64).0.unwrap_err();
        assert!(matches!(refused, BootError::NotAKernel), "{refused}");
    }
}

#[test]
fn truncated_kernels_are_refused_with_both_lengths() {
    let whole = bzimage();
    let refused = boot(&whole[..whole.len() - 1], None, 64).0.unwrap_err();
    assert!(
        matches!(
            refused,
            BootError::Truncated {
                has: 5119,
                needs: 5120
            }
        ),
        "{refused}"
    );
    let whole = elf(true);
    let refused = boot(&whole[..0x8ff], None, 64).0.unwrap_err();
    assert!(
        matches!(
            refused,
            BootError::Truncated {
                has: 0x8ff,
                needs: 0x900
            }
        ),
        "{refused}"
    );
}

#[test]
fn elf_without_pvh_note_says_what_to_give() {
    let refused = boot(&elf(false), None, 64).0.unwrap_err().to_string();
    assert!(refused.contains("CONFIG_PVH=y"), "{refused}");
}

#[test]
fn kernel_and_initrd_larger_than_memory_are_refused() {
    assert!(matches!(
        boot(&bzimage(), None, 16).0.unwrap_err(),
        BootError::NoRoom {
            what: "the kernel",
            ..
        }
    ));
    let initrd = vec![0; 48 << 20];
    let refused = boot(&bzimage(), Some(&initrd), 64).0.unwrap_err();
    assert!(
        matches!(
            refused,
            BootError::NoRoom {
                what: "the initrd",
                needs_mib: 48,
                has_mib: 47
            }
        ),
        "{refused}"
    );
}

#[test]
fn old_bzimage_without_64_bit_entry_is_refused() {
    let mut image = bzimage();
    image[0x236] = 0;
    assert!(matches!(
        boot(&image, None, 64).0.unwrap_err(),
        BootError::Unsupported(_)
    ));
}

#[test]
fn command_line_longer_than_the_kernel_takes_is_refused() {
    let (_, regions) = ram(64);
    let mut files = files(&bzimage(), None, 64).unwrap();
    files.append = "x".repeat(2048);
    let refused = files.check(&regions).unwrap_err();
    assert!(
        matches!(
            refused,
            BootError::CommandLine {
                has: 2048,
                limit: 2047
            }
        ),
        "{refused}"
    );
}

/// Nothing that a file says makes a check panic, or lets through what loading then refuses.
#[test]
fn kernels_with_any_byte_changed_are_loaded_as_checked() {
    for kernel in [bzimage(), elf(true)] {
        for at in 0..kernel.len().min(0x420) {
            let mut changed = kernel.clone();
            changed[at] ^= 0xff;
            let _same = boot(&changed, None, 32);
        }
    }
}

#[test]
fn memory_map_reserves_the_hole_below_1_mib_and_ecam() {
    let regions = [
        RamRegion {
            gpa: 0,
            len: RAM_LOW_END,
            file_offset: 0,
        },
        RamRegion {
            gpa: RAM_HIGH_START,
            len: MIB,
            file_offset: RAM_LOW_END,
        },
    ];
    let piece = |start, len, kind| Piece { start, len, kind };
    assert_eq!(
        pieces(&regions),
        [
            piece(0, 0xa_0000, RAM),
            piece(0xa_0000, 0x6_0000, RESERVED),
            piece(MIB, RAM_LOW_END - MIB, RAM),
            piece(0xb000_0000, 0x1000_0000, RESERVED),
            piece(RAM_HIGH_START, MIB, RAM),
        ]
    );
}
