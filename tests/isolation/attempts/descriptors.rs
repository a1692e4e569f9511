//! Descriptors that the process has, used for what they are not for. /dev/zero stands for devices: it refuses a request with
//! ENOTTY, which shows that the request reached it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::{ATTACH, Attempt, Scene, VCPU, reached};
use crate::layers::Layer::{Filter, Landlock, Root};
use crate::raw_call::{bytes, raw, text};
use crate::role::Role::{self, Iommufd, Type1};

const VFIO_DEVICE_GET_REGION_INFO: u64 = 0x3b6c;
const VFIO_DEVICE_RESET: u64 = 0x3b6f;
/// VFIO_IOMMU_MAP_DMA of a container, VFIO_DEVICE_PCI_HOT_RESET of a device.
const MAP_DMA_OR_HOT_RESET: u64 = 0x3b71;
const IOMMU_IOAS_MAP: u64 = 0x3b85;
const KVM_CREATE_VM: u64 = 0xae01;
const KVM_CREATE_DEVICE: u64 = 0xc00c_aee0;
const F_DUPFD: u64 = 0;
const READ: u64 = libc::PROT_READ.unsigned_abs() as u64;
const READ_EXEC: u64 = (libc::PROT_READ | libc::PROT_EXEC).unsigned_abs() as u64;
const PRIVATE: u64 = libc::MAP_PRIVATE.unsigned_abs() as u64;
const RDWR: u64 = libc::O_RDWR.unsigned_abs() as u64;
const AT_FDCWD: u64 = (-100_i64).cast_unsigned();

const VMM: &[Role] = &[VCPU, ATTACH];
const SERVERS: &[Role] = &[Type1, Iommufd];

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new("a request of VFIO on a lent BAR", vfio_on_lent, &[Filter]).only(VMM),
    Attempt::new("reset the device of a lent BAR", reset_lent, &[Filter]).only(VMM),
    Attempt::new("read a lent BAR's device", read_lent, &[Filter]).only(VMM),
    Attempt::new("read its configuration space", pread_lent, &[Filter]).only(VMM),
    Attempt::new("write its configuration space", pwrite_lent, &[Filter]).only(VMM),
    Attempt::new("seek in it", seek_lent, &[Filter]).only(VMM),
    Attempt::new("copy it", copy_lent, &[Filter]).only(VMM),
    Attempt::new(
        "copy it over a descriptor of the start",
        copy_lent_over,
        &[Filter],
    )
    .only(VMM),
    Attempt::new("open it anew", open_lent_anew, &[Filter, Landlock, Root]).only(VMM),
    Attempt::new("splice it", splice_lent, &[Filter]).only(VMM),
    Attempt::new("send it as a file", sendfile_lent, &[Filter]).only(VMM),
    Attempt::new(
        "map it, on the thread that runs the guest",
        map_lent,
        &[Filter],
    )
    .only(&[VCPU]),
    Attempt::new("map it to execute it", execute_lent, &[Filter]).only(VMM),
    Attempt::new("make another VM", make_vm, &[Filter]).only(VMM),
    Attempt::new("give KVM a device", make_kvm_device, &[Filter]).only(VMM),
    Attempt::new("close a descriptor of the start", close_early, &[Filter]).only(VMM),
    Attempt::new("reset another device", reset_other, &[Filter]).only(SERVERS),
    Attempt::new("reset the whole bus", hot_reset, &[Filter]).only(SERVERS),
    Attempt::new("map own memory for DMA", map_own_memory, &[Filter]).only(&[Iommufd]),
    Attempt::new("read another device", read_other, &[Filter]).only(SERVERS),
    Attempt::new(
        "put another file in the device's place",
        replace_device,
        &[Filter],
    )
    .only(SERVERS),
    Attempt::new("free the device's number", close_device, &[Filter]).only(SERVERS),
    Attempt::new("make a VM", make_vm, &[Filter]).only(SERVERS),
];

fn number(fd: RawFd) -> u64 {
    u64::from(fd.unsigned_abs())
}

fn lent(scene: &Scene) -> u64 {
    number(scene.held.lent.as_raw_fd())
}

fn other(scene: &Scene) -> u64 {
    number(scene.held.other.as_raw_fd())
}

fn device(scene: &Scene) -> u64 {
    number(scene.held.device.as_raw_fd())
}

fn request(descriptor: u64, request: u64) -> io::Result<()> {
    reached(
        raw(libc::SYS_ioctl, &[descriptor, request, 0]),
        &[libc::ENOTTY],
    )
}

fn vfio_on_lent(scene: &Scene) -> io::Result<()> {
    request(lent(scene), VFIO_DEVICE_GET_REGION_INFO)
}

fn reset_lent(scene: &Scene) -> io::Result<()> {
    request(lent(scene), VFIO_DEVICE_RESET)
}

fn read_lent(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_read, &[lent(scene), bytes(&mut [0; 8]), 8]).map(drop)
}

fn pread_lent(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_pread64, &[lent(scene), bytes(&mut [0; 8]), 8, 0]).map(drop)
}

/// Opened for reading here.
fn pwrite_lent(scene: &Scene) -> io::Result<()> {
    let result = raw(libc::SYS_pwrite64, &[lent(scene), bytes(&mut [0; 8]), 8, 0]);
    reached(result, &[libc::EBADF])
}

fn seek_lent(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_lseek, &[lent(scene), 0, 0]).map(drop)
}

fn copy_lent(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_fcntl, &[lent(scene), F_DUPFD, 0]).map(drop)
}

fn copy_lent_over(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_dup2, &[lent(scene), other(scene)]).map(drop)
}

fn open_lent_anew(scene: &Scene) -> io::Result<()> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", lent(scene)))?;
    raw(libc::SYS_openat, &[AT_FDCWD, text(&path), RDWR]).map(drop)
}

/// Into what is no pipe.
fn splice_lent(scene: &Scene) -> io::Result<()> {
    let result = raw(libc::SYS_splice, &[lent(scene), 0, other(scene), 0, 8, 0]);
    reached(result, &[libc::EBADF, libc::EINVAL])
}

fn sendfile_lent(scene: &Scene) -> io::Result<()> {
    let memory = number(scene.held.memory.as_raw_fd());
    let result = raw(libc::SYS_sendfile, &[memory, lent(scene), 0, 8]);
    reached(result, &[libc::EINVAL])
}

fn map_lent(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_mmap, &[0, 4096, READ, PRIVATE, lent(scene), 0]).map(drop)
}

fn execute_lent(scene: &Scene) -> io::Result<()> {
    let result = raw(
        libc::SYS_mmap,
        &[0, 4096, READ_EXEC, PRIVATE, lent(scene), 0],
    );
    // A file system without programs.
    reached(result, &[libc::EPERM])
}

fn make_vm(scene: &Scene) -> io::Result<()> {
    request(other(scene), KVM_CREATE_VM)
}

fn make_kvm_device(scene: &Scene) -> io::Result<()> {
    request(other(scene), KVM_CREATE_DEVICE)
}

fn close_early(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_close, &[other(scene)]).map(drop)
}

fn reset_other(scene: &Scene) -> io::Result<()> {
    request(other(scene), VFIO_DEVICE_RESET)
}

fn hot_reset(scene: &Scene) -> io::Result<()> {
    request(device(scene), MAP_DMA_OR_HOT_RESET)
}

fn map_own_memory(scene: &Scene) -> io::Result<()> {
    request(number(scene.held.iommu.as_raw_fd()), IOMMU_IOAS_MAP)
}

fn read_other(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_pread64, &[other(scene), bytes(&mut [0; 8]), 8, 0]).map(drop)
}

fn replace_device(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_dup2, &[other(scene), device(scene)]).map(drop)
}

fn close_device(scene: &Scene) -> io::Result<()> {
    raw(libc::SYS_close, &[device(scene)]).map(drop)
}
