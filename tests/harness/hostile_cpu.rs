//! What a guest's second CPU can do to its machine, for `bare_guest`s whose first CPU obeys (`obedient_guest`) and looks.
//!
//! The code is for real mode at `CODE`, where a start-up message (SIPI) of vector 8 begins. It goes to flat 32-bit segments and does
//! what the words at `WORDS` say.

/// Where the code has to be.
pub const CODE: u32 = 0x8000;
/// Steps done, ends reached, what to do, nothing, and its three parameters.
pub const WORDS: u32 = 0x9000;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub enum Deed {
    /// Reads and writes memory from `first` to `end` at every address, in every width: 1, 2, 4 and 8 bytes.
    Memory { first: u32, end: u32 },
    /// The same for port 0xcf8's registers from `first` to `end`, through 0xcfc to 0xcff and beyond; also narrow accesses of 0xcf8
    /// itself, but for 0xcf9, which resets.
    Ports { first: u32, end: u32 },
    /// Reads and writes two places for ever.
    Hammer { one: u32, other: u32 },
    /// So many writes of noise to places from `first` on, at offsets within `mask`.
    Noise { first: u32, mask: u32, count: u32 },
}

impl Deed {
    /// Its words, from the third one on.
    pub fn words(self) -> [u32; 5] {
        match self {
            Deed::Memory { first, end } => [0, 0, first, end, 0],
            Deed::Ports { first, end } => [1, 0, first, end, 0],
            Deed::Hammer { one, other } => [2, 0, one, other, 0],
            Deed::Noise { first, mask, count } => [3, 0, first, mask, count],
        }
    }
}

/// The code. Assembled by GNU as from what stands beside it.
#[rustfmt::skip]
pub const PROGRAM: &[u8] = &[
    0xfa,                                       // 0x00 cli
    0x31, 0xc0,                                 // 0x01 xor ax,ax
    0x8e, 0xd8,                                 // 0x03 mov ds,ax
    0x66, 0x0f, 0x01, 0x16, 0x08, 0x81,         // 0x05 lgdtd 0x8108
    0x0f, 0x20, 0xc0,                           // 0x0b mov eax,cr0
    0x0c, 0x01,                                 // 0x0e or al,0x1
    0x0f, 0x22, 0xc0,                           // 0x10 mov cr0,eax
    0x66, 0xea, 0x1b, 0x80, 0x00, 0x00, 0x08, 0x00,// 0x13 jmp 0x8:0x801b
    0x66, 0xb8, 0x10, 0x00,                     // 0x1b pm: mov ax,0x10
    0x8e, 0xd8,                                 // 0x1f mov ds,eax
    0x8e, 0xd0,                                 // 0x21 mov ss,eax
    0xbc, 0x00, 0x70, 0x00, 0x00,               // 0x23 mov esp,0x7000
    0xbd, 0x00, 0x90, 0x00, 0x00,               // 0x28 mov ebp,0x9000
    0x8b, 0x75, 0x10,                           // 0x2d mov esi,[ebp+0x10]
    0x8b, 0x7d, 0x14,                           // 0x30 mov edi,[ebp+0x14]
    0x83, 0xcb, 0xff,                           // 0x33 or ebx,0xffffffff
    0x8b, 0x45, 0x08,                           // 0x36 mov eax,[ebp+0x8]
    0x48,                                       // 0x39 dec eax
    0x74, 0x2e,                                 // 0x3a je 806a
    0x48,                                       // 0x3c dec eax
    0x74, 0x69,                                 // 0x3d je 80a8
    0x48,                                       // 0x3f dec eax
    0x74, 0x78,                                 // 0x40 je 80ba
    0x8a, 0x06,                                 // 0x42 memory: mov al,[esi]
    0x66, 0x8b, 0x06,                           // 0x44 mov ax,[esi]
    0x8b, 0x06,                                 // 0x47 mov eax,[esi]
    0x0f, 0x6f, 0x06,                           // 0x49 movq mm0,Q[esi]
    0x88, 0x1e,                                 // 0x4c mov [esi],bl
    0x66, 0x89, 0x1e,                           // 0x4e mov [esi],bx
    0x89, 0x1e,                                 // 0x51 mov [esi],ebx
    0x0f, 0x7f, 0x06,                           // 0x53 movq Q[esi],mm0
    0xc7, 0x06, 0x00, 0x00, 0x00, 0x00,         // 0x56 mov [esi],0x0
    0xff, 0x45, 0x00,                           // 0x5c inc [ebp+0x0]
    0x46,                                       // 0x5f inc esi
    0x39, 0xfe,                                 // 0x60 cmp esi,edi
    0x72, 0xde,                                 // 0x62 jb 8042
    0xff, 0x45, 0x04,                           // 0x64 done: inc [ebp+0x4]
    0xf4,                                       // 0x67 stop: hlt
    0xeb, 0xfd,                                 // 0x68 jmp 8067
    0x89, 0xf1,                                 // 0x6a ports: mov ecx,esi
    0x66, 0xba, 0xf8, 0x0c,                     // 0x6c mov dx,0xcf8
    0x89, 0xc8,                                 // 0x70 mov eax,ecx
    0xef,                                       // 0x72 out dx,eax
    0xec,                                       // 0x73 in al,dx
    0x66, 0xed,                                 // 0x74 in ax,dx
    0xb2, 0xfc,                                 // 0x76 mov dl,0xfc
    0xec,                                       // 0x78 in al,dx
    0x66, 0xed,                                 // 0x79 in ax,dx
    0xed,                                       // 0x7b in eax,dx
    0x89, 0xd8,                                 // 0x7c mov eax,ebx
    0xee,                                       // 0x7e out dx,al
    0x66, 0xef,                                 // 0x7f out dx,ax
    0xef,                                       // 0x81 out dx,eax
    0xff, 0x45, 0x00,                           // 0x82 inc [ebp+0x0]
    0xfe, 0xc2,                                 // 0x85 inc dl
    0x75, 0xef,                                 // 0x87 jne 8078
    0x66, 0xba, 0xf8, 0x0c,                     // 0x89 mov dx,0xcf8
    0xec,                                       // 0x8d in al,dx
    0x66, 0xed,                                 // 0x8e in ax,dx
    0xed,                                       // 0x90 in eax,dx
    0xfe, 0xc2,                                 // 0x91 inc dl
    0x80, 0xfa, 0xfc,                           // 0x93 cmp dl,0xfc
    0x72, 0xf5,                                 // 0x96 jb 808d
    0xb2, 0xfa,                                 // 0x98 mov dl,0xfa
    0x89, 0xd8,                                 // 0x9a mov eax,ebx
    0xee,                                       // 0x9c out dx,al
    0x66, 0xef,                                 // 0x9d out dx,ax
    0x83, 0xc1, 0x04,                           // 0x9f add ecx,0x4
    0x39, 0xf9,                                 // 0xa2 cmp ecx,edi
    0x72, 0xc6,                                 // 0xa4 jb 806c
    0xeb, 0xbc,                                 // 0xa6 jmp 8064
    0x8b, 0x06,                                 // 0xa8 hammer: mov eax,[esi]
    0x89, 0x46, 0x04,                           // 0xaa mov [esi+0x4],eax
    0x8b, 0x07,                                 // 0xad mov eax,[edi]
    0x89, 0x47, 0x08,                           // 0xaf mov [edi+0x8],eax
    0x88, 0x47, 0x09,                           // 0xb2 mov [edi+0x9],al
    0xff, 0x45, 0x00,                           // 0xb5 inc [ebp+0x0]
    0xeb, 0xee,                                 // 0xb8 jmp 80a8
    0x8b, 0x4d, 0x18,                           // 0xba fuzz: mov ecx,[ebp+0x18]
    0x69, 0xdb, 0x6d, 0x4e, 0xc6, 0x41,         // 0xbd imul ebx,ebx,0x41c64e6d
    0x81, 0xc3, 0x39, 0x30, 0x00, 0x00,         // 0xc3 add ebx,0x3039
    0x89, 0xd8,                                 // 0xc9 mov eax,ebx
    0xc1, 0xe8, 0x08,                           // 0xcb shr eax,0x8
    0x21, 0xf8,                                 // 0xce and eax,edi
    0x69, 0xd3, 0x0d, 0x66, 0x19, 0x00,         // 0xd0 imul edx,ebx,0x19660d
    0x89, 0x14, 0x06,                           // 0xd6 mov [esi+eax*1],edx
    0x88, 0x74, 0x06, 0x01,                     // 0xd9 mov [esi+eax*1+0x1],dh
    0x8b, 0x14, 0x06,                           // 0xdd mov edx,[esi+eax*1]
    0xff, 0x45, 0x00,                           // 0xe0 inc [ebp+0x0]
    0xe2, 0xd8,                                 // 0xe3 loop 80bd
    0xe9, 0x7a, 0xff, 0xff, 0xff,               // 0xe5 jmp 8064
    0x8d, 0xb6, 0x00, 0x00, 0x00, 0x00,         // 0xea lea esi,[esi+0x0]
    // The descriptor table and its pointer.
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00,
    0x17, 0x00, 0xf0, 0x80, 0x00, 0x00,
];
