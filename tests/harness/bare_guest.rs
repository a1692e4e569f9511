//! A guest of a few instructions, for tests that need a running VM and no Linux: it starts at once, also where KVM cannot
//! boot Linux.
//!
//! It is an ELF file with a PVH entry: 32-bit protected mode, flat segments, no interrupts.

use std::path::Path;

use anyhow::Result;

/// Where it is loaded and starts.
const ENTRY: u32 = 0x10_0000;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_ENTRY_NOTE: u32 = 18;
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;

/// 1: hlt; jmp 1b.
pub const HALT: &[u8] = &[0xf4, 0xeb, 0xfd];

/// mov dx, 0x3f8; mov al, '.'; 1: mov ecx, 100000; 2: loop 2b; out dx, al; jmp 1b: a serial port that never rests.
pub const TICK: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xb9, 0xa0, 0x86, 0x01, 0x00, 0xe2, 0xfe, 0xee, 0xeb, 0xf6,
];

/// mov dx, 0x604; mov ax, SLP_EN | S5; out dx, ax, as the FADT and `\_S5` of bulkhead-vmm say; then halt.
pub const POWER_OFF: &[u8] = &[
    0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4, 0xeb, 0xfd,
];

/// mov dx, 0xcf9; mov al, 6; out dx, al; then halt.
pub const RESET: &[u8] = &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd];

/// mov esp, 0x200000; push 0; push 0; lidt [esp]; ud2: a triple fault.
pub const TRIPLE_FAULT: &[u8] = &[
    0xbc, 0x00, 0x00, 0x20, 0x00, 0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b,
];

/// mov dx, 0x3fd; 1: in al, dx; test al, 1; jz 1b; mov dx, 0x3f8; in al, dx: waits for a byte on the serial port.
const WAIT: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec,
];

/// `program`, once it has said on the serial port: this byte, the first of its command line, and how many initrds it has, as a
/// digit.
///
/// mov dx, 0x3f8; mov al, name; out dx, al; mov ecx, [ebx + cmdline_paddr]; mov al, [ecx]; out dx, al; mov al, [ebx + nr_modules];
/// add al, '0'; out dx, al.
pub fn after_its_name(name: u8, program: &[u8]) -> Vec<u8> {
    let says = [
        0x66, 0xba, 0xf8, 0x03, 0xb0, name, 0xee, 0x8b, 0x4b, 0x18, 0x8a, 0x01, 0xee, 0x8a, 0x43,
        0x0c, 0x04, b'0', 0xee,
    ];
    [&says, program].concat()
}

/// `program`, once a byte came over the serial port.
pub fn after_a_byte(program: &[u8]) -> Vec<u8> {
    [WAIT, program].concat()
}

/// Writes a kernel that is this program.
pub fn write(program: &[u8], kernel: &Path) -> Result<()> {
    let mut code = program.to_vec();
    code.resize(code.len().next_multiple_of(16), 0x90);
    let code_len = u64::try_from(code.len())?;
    let start = HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
    let mut note = Vec::new();
    for word in [4, 4, PVH_ENTRY_NOTE] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());
    let note_len = u64::try_from(note.len())?;

    let mut file = Bytes(b"\x7fELF\x02\x01\x01".to_vec());
    file.0.resize(16, 0);
    file.half(&[2, 62]).word(&[1]);
    file.long(&[ENTRY.into(), HEADER_BYTES, 0]);
    file.word(&[0]).half(&[64, 56, 2, 0, 0, 0]);
    file.word(&[1, 5]);
    let entry = u64::from(ENTRY);
    file.long(&[start, entry, entry, code_len, code_len, 16]);
    file.word(&[4, 4]);
    file.long(&[start + code_len, 0, 0, note_len, note_len, 4]);
    file.0.extend(code);
    file.0.extend(note);
    Ok(std::fs::write(kernel, file.0)?)
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn half(&mut self, values: &[u16]) -> &mut Self {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn word(&mut self, values: &[u32]) -> &mut Self {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn long(&mut self, values: &[u64]) -> &mut Self {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }
}
