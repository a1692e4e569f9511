//! System calls by their numbers, as an attacker makes them: those that no library offers, and those of other ABIs.
#![expect(
    unsafe_code,
    reason = "an attacker's calls have no safe form; each runs in a process that does nothing else"
)]
// UNSAFETY: system calls that no wrapper of rustix or nix makes.

use std::io;

/// The bit that makes a number one of the x32 ABI.
pub(crate) const X32_BIT: i64 = 0x4000_0000;
/// getpid of the i386 ABI. Spec: Linux, arch/x86/entry/syscalls/syscall_32.tbl.
const I386_GETPID: u64 = 20;

/// Makes a call; what is left out of its arguments is 0.
pub(crate) fn raw(number: i64, arguments: &[u64]) -> io::Result<u64> {
    let mut all = [0; 6];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = *argument;
    }
    let [a, b, c, d, e, f] = all;
    // SAFETY: pointers among the arguments come from `text` and `bytes`, whose owners outlive the call; what the kernel writes
    // to is of the size that the call documents. Addresses of other calls are the kernel's to refuse.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    u64::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

/// getpid through the interrupt of the i386 ABI.
pub(crate) fn i386_getpid() -> io::Result<u64> {
    let mut value = I386_GETPID;
    // SAFETY: the call takes no argument and changes no register but rax; the kernel may clear r8 to r11.
    unsafe {
        core::arch::asm!(
            "int 0x80",
            inout("rax") value,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let result = i32::try_from(value & 0xffff_ffff).unwrap_or(-libc::ENOSYS);
    u64::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
}

/// A string as an argument.
pub(crate) fn text(text: &std::ffi::CStr) -> u64 {
    text.as_ptr().addr() as u64
}

/// A buffer as an argument.
pub(crate) fn bytes(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().addr() as u64
}
