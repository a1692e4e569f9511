//! A guest that does what a test tells it over the serial port: one access at a time, and prints what it read.
//!
//! A command is a letter, an address and a value, four bytes each, lowest first: `r` reads memory, `w` writes memory, `i` reads
//! a port, `o` writes a port. The answer is the register in eight hexadecimal digits and a line feed.

/// 32-bit code for `bare_guest::write`.
pub const PROGRAM: &[u8] = &[
    0xbc, 0x00, 0x00, 0x18, 0x00, //         mov esp, 0x180000
    0xe8, 0x61, 0x00, 0x00, 0x00, // next:   call byte
    0x88, 0xc3, //                           mov bl, al
    0xe8, 0x45, 0x00, 0x00, 0x00, //         call dword
    0x89, 0xc7, //                           mov edi, eax
    0xe8, 0x3e, 0x00, 0x00, 0x00, //         call dword
    0x89, 0xfa, //                           mov edx, edi
    0x80, 0xfb, b'r', //                     cmp bl, 'r'
    0x74, 0x0d, //                           je read
    0x80, 0xfb, b'w', //                     cmp bl, 'w'
    0x74, 0x0c, //                           je write
    0x80, 0xfb, b'i', //                     cmp bl, 'i'
    0x74, 0x0b, //                           je port
    0xef, 0xeb, 0x09, //                     out dx, eax; jmp print
    0x8b, 0x07, 0xeb, 0x05, // read:         mov eax, [edi]; jmp print
    0x89, 0x07, 0xeb, 0x01, // write:        mov [edi], eax; jmp print
    0xed, //                   port:         in eax, dx
    0x66, 0xba, 0xf8, 0x03, // print:        mov dx, 0x3f8
    0xbe, 0x08, 0x00, 0x00, 0x00, //         mov esi, 8
    0xc1, 0xc0, 0x04, 0x50, // digit:        rol eax, 4; push eax
    0x24, 0x0f, 0x04, 0x30, //               and al, 15; add al, '0'
    0x3c, 0x39, 0x76, 0x02, //               cmp al, '9'; jbe out
    0x04, 0x27, //                           add al, 'a' - '9' - 1
    0xee, 0x58, //             out:          out dx, al; pop eax
    0x4e, 0x75, 0xed, //                     dec esi; jnz digit
    0xb0, 0x0a, 0xee, //                     mov al, 10; out dx, al
    0xeb, 0xaf, //                           jmp next
    0xbd, 0x04, 0x00, 0x00, 0x00, // dword:  mov ebp, 4
    0xe8, 0x0b, 0x00, 0x00, 0x00, // more:   call byte
    0x88, 0xc1, 0xc1, 0xc9, 0x08, //         mov cl, al; ror ecx, 8
    0x4d, 0x75, 0xf3, //                     dec ebp; jnz more
    0x89, 0xc8, 0xc3, //                     mov eax, ecx; ret
    0x66, 0xba, 0xfd, 0x03, // byte:         mov dx, 0x3fd
    0xec, 0xa8, 0x01, 0x74, 0xfb, // poll:   in al, dx; test al, 1; jz poll
    0x66, 0xba, 0xf8, 0x03, 0xec, 0xc3, //   mov dx, 0x3f8; in al, dx; ret
];

/// A command as bytes.
pub fn command(letter: u8, address: u32, value: u32) -> Vec<u8> {
    [&[letter][..], &address.to_le_bytes(), &value.to_le_bytes()].concat()
}
