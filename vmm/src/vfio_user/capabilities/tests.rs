use super::*;
use proptest::prelude::*;

/// Configuration space with a capability list; each entry is put at its offset and linked to the next.
fn with(entries: &[(usize, &[u8])]) -> Vec<u8> {
    let mut space = vec![0; EXTENDED_BYTES];
    space[STATUS] = 0x10;
    let mut link = CAPABILITY_POINTER;
    for (offset, bytes) in entries {
        space[link] = u8::try_from(*offset).unwrap();
        space[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        link = offset + 1;
        space[link] = 0;
    }
    space
}

const MSIX: [u8; 12] = [0x11, 0, 0x40, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0];

#[test]
fn msix_of_an_nvme_controller_is_found() {
    let found = find(&with(&[(0x80, &[0x10; 20]), (0x40, &MSIX)])).unwrap();
    let layout = found.msix.unwrap();
    assert_eq!((layout.offset, layout.vectors), (0x40, 65));
    assert_eq!(
        (layout.table, layout.pending),
        (
            InBar {
                bar: 0,
                offset: 0x2000
            },
            InBar {
                bar: 0,
                offset: 0x3000
            }
        )
    );
}

#[test]
fn msi_with_masking_and_64_bit_has_24_bytes() {
    let found = find(&with(&[(0x50, &[0x05, 0, 0x8a, 0x01])])).unwrap();
    let layout = found.msi.unwrap();
    assert_eq!(
        (
            layout.vectors,
            layout.wide,
            layout.masking,
            layout.len_bytes()
        ),
        (32, true, true, 24)
    );
}

#[test]
fn reset_bits_are_found_only_where_the_device_says_so() {
    let mut express = [0; 20];
    express[0] = 0x10;
    let without = find(&with(&[(0x40, &express)])).unwrap();
    express[7] = 0x10;
    let found = find(&with(&[(0x40, &express), (0x60, &[0x13, 0, 6, 3, 0, 0])])).unwrap();
    assert_eq!(without.function_resets, []);
    let bits = [
        FunctionResetBit {
            offset: 0x49,
            mask: 0x80,
        },
        FunctionResetBit {
            offset: 0x64,
            mask: 1,
        },
    ];
    assert_eq!(found.function_resets, bits);
}

#[test]
fn list_without_the_status_bit_is_not_walked() {
    let mut space = with(&[(0x40, &MSIX)]);
    space[STATUS] = 0;
    assert_eq!(find(&space), Ok(Capabilities::default()));
}

#[test]
fn list_that_comes_back_is_refused() {
    let mut space = with(&[(0x40, &[0x09]), (0x50, &[0x09])]);
    space[0x51] = 0x40;
    assert_eq!(find(&space), Err(CapabilityError::Loop(0x40)));
}

#[test]
fn pointer_into_the_header_is_refused() {
    let mut space = with(&[(0x40, &[0x09])]);
    space[0x41] = 0x3c;
    assert_eq!(find(&space), Err(CapabilityError::OutOfArea(0x3c)));
}

#[test]
fn second_msix_and_overlapping_capabilities_are_refused() {
    let twice = with(&[(0x40, &MSIX), (0x60, &MSIX)]);
    assert_eq!(
        find(&twice),
        Err(CapabilityError::Overlap {
            id: 0x11,
            offset: 0x60
        })
    );
    let overlapping = with(&[(0x40, &MSIX), (0x48, &[0x05, 0, 0, 0])]);
    assert!(matches!(
        find(&overlapping),
        Err(CapabilityError::Overlap { .. })
    ));
}

#[test]
fn capability_that_passes_byte_255_is_refused() {
    let space = with(&[(0xf8, &MSIX[..8])]);
    assert_eq!(
        find(&space),
        Err(CapabilityError::TooLong {
            id: 0x11,
            offset: 0xf8
        })
    );
}

#[test]
fn msi_with_128_vectors_is_refused() {
    let space = with(&[(0x50, &[0x05, 0, 0x0e, 0])]);
    assert_eq!(find(&space), Err(CapabilityError::MsiVectors(128)));
}

#[test]
fn extended_capabilities_to_hide_are_found_and_loops_refused() {
    let mut space = with(&[]);
    space[0x100..0x104].copy_from_slice(&0x1501_0001u32.to_le_bytes());
    space[0x150..0x154].copy_from_slice(&0x0001_0010u32.to_le_bytes());
    assert_eq!(find(&space).unwrap().hidden, [0x150]);
    space[0x150..0x154].copy_from_slice(&0x1001_0010u32.to_le_bytes());
    assert_eq!(find(&space), Err(CapabilityError::Loop(0x100)));
}

proptest! {
    #[test]
    fn hostile_space_never_panics_and_ends(space in prop::collection::vec(any::<u8>(), 0..4097)) {
        let _result = find(&space);
    }
}
