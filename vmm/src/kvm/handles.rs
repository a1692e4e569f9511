//! What kvm_ioctls offers only as raw file descriptors and unions, made safe.

// UNSAFETY: kvm_ioctls takes ownership of a raw fd to make a `Kvm`, vmm_sys_util of one to make an `EventFd`, and both
// leave the `kvm_run` page's unions to the caller. KVM_IOEVENTFD for writes of one width and any value is one
// that kvm_ioctls does not offer.
#![expect(unsafe_code, reason = "raw fd ownership and kvm_run unions, see above")]

use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_run};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

/// The open `/dev/kvm` as kvm_ioctls wants it.
pub(super) fn kvm(file: OwnedFd) -> Kvm {
    // SAFETY: from_raw_fd's contract is that the fd is open and owned by nobody else: `into_raw_fd` of an OwnedFd
    // gives exactly that.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

/// An eventfd as kvm_ioctls wants it, without a copy of the descriptor: it is never closed from here.
pub(super) struct EventFdView<'a> {
    event: ManuallyDrop<EventFd>,
    _open: PhantomData<BorrowedFd<'a>>,
}

impl EventFdView<'_> {
    pub(super) fn new(fd: BorrowedFd<'_>) -> EventFdView<'_> {
        // SAFETY: from_raw_fd's contract is that the fd is open and that nobody closes it twice:
        // - it is open for as long as the view lives, whose lifetime is that of the borrow;
        // - the view never drops the `EventFd`, so only the fd's owner closes it.
        // If it is no eventfd, KVM refuses it.
        let event = unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) };
        EventFdView {
            event: ManuallyDrop::new(event),
            _open: PhantomData,
        }
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }
}

/// Ties an eventfd to guest writes, or unties it.
pub(super) fn set_ioevent(vm: &VmFd, event: &kvm_ioeventfd) -> io::Result<()> {
    // SAFETY: the ioctl reads a `kvm_ioeventfd` at the address, which the borrow is, and writes nothing; the fd is a
    // VM's. A descriptor in it that is no eventfd is refused.
    let result = unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), event) };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// A pointer to a vCPU's `kvm_run` page, to look at the exit that `VcpuFd::run` just reported while its data is
/// borrowed. Valid as long as the vCPU is: the page is unmapped with it.
#[derive(Clone, Copy)]
pub(super) struct RunPage(*const kvm_run);

impl RunPage {
    pub(super) fn new(run: &mut kvm_run) -> RunPage {
        RunPage(ptr::from_mut(run).cast_const())
    }

    /// The width in bytes of one access of a KVM_EXIT_IO.
    pub(super) fn port_access_width(self) -> usize {
        // SAFETY: the pointer comes from a `&mut kvm_run` of a vCPU that is alive while `exit::run_once`, the only
        // caller, runs it; only the address of the field is taken, no reference to the shared page.
        let at = unsafe { ptr::addr_of!((*self.0).__bindgen_anon_1.io.size) };
        // SAFETY: the page is mapped (see above), a byte is always aligned, and any content is a valid byte.
        let width = unsafe { at.read_volatile() };
        usize::from(width.max(1))
    }

    /// The suberror of a KVM_EXIT_INTERNAL_ERROR and its data words.
    pub(super) fn internal_error(self) -> (u32, Vec<u64>) {
        // SAFETY: as in `port_access_width`: live page, and only an address is taken.
        let at = unsafe { ptr::addr_of!((*self.0).__bindgen_anon_1.internal) };
        // SAFETY: the page is mapped, bindgen's layout keeps the field aligned, and it holds only integers.
        let internal = unsafe { at.read_volatile() };
        let count =
            usize::try_from(internal.ndata).map_or(0, |count| count.min(internal.data.len()));
        (
            internal.suberror,
            internal.data.iter().take(count).copied().collect(),
        )
    }
}
