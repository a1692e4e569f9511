"""Which kernels the lab boots, and which of their modules it loads in which order.

Each is the kernel that Debian's meta package names today, not a fixed version.
Does not configure or build kernels (see kernel_build.py).
"""

import lzma
import pathlib
import re
import struct
import subprocess
import typing

from report import LabError

# What the user calls a kernel -> the Debian suite and the meta package that names it.
SOURCES = {
    "6.1": ("bookworm", "linux-image-cloud-amd64"),
    "6.12": ("trixie", "linux-image-cloud-amd64"),
    "7": ("trixie-backports", "linux-image-cloud-amd64"),
    "6.1-generic": ("bookworm", "linux-image-amd64"),
}
# Built here, see kernel_build.py.
OWN_KERNEL = "iommufd"
LAB_KERNELS = ("6.1", "6.12", "7", OWN_KERNEL)

# The guest boots either of these: the cloud kernel starts faster, the generic one has drivers for all devices.
GUEST_KERNEL = "6.1"
GUEST_KERNEL_GENERIC = "6.1-generic"

# Loaded at boot, dependencies first; a name that a kernel has built in, or does not have, is skipped.
LAB_MODULES = (
    "virtio_pci", "virtio_console", "virtio_net", "nvme", "kvm", "kvm_amd", "vfio", "vfio_iommu_type1", "vfio_pci",
)
GUEST_MODULES = ("nvme", "e1000e")

# In the guest for modprobe, not loaded at boot: drivers of other devices that QEMU offers to --device, and of the power button.
GUEST_SPARE_MODULES = (
    "8139cp", "8139too", "ahci", "button", "e1000", "e100", "igb", "mptsas", "pcnet32", "sd_mod", "sdhci_pci", "tulip", "virtio_blk",
    "virtio_net", "virtio_pci", "virtio_rng", "virtio_scsi", "vmxnet3", "xhci_pci",
)


def download(suite, meta_package, wanted, root):
    """Unpacks the kernel of a packages.Suite into the folder `root`, with no other modules than `wanted` need."""
    # The meta package needs linux-image-VERSION, which newer releases split into linux-binary and linux-modules.
    suite.unpack(suite.closure([meta_package], r"linux-(image|binary|modules)-"), root)
    leave_only(root, wanted)


def leave_only(root, wanted):
    """Deletes the modules below an unpacked kernel that `wanted` do not need."""
    kept = {module.name for module in modules(root, wanted)}
    for path in pathlib.Path(root).rglob("*.ko*"):
        if module_name(path) not in kept:
            path.unlink()


def image(root):
    """The bzImage below an unpacked kernel."""
    found = sorted(pathlib.Path(root).glob("boot/vmlinuz-*"))
    found = found or sorted(pathlib.Path(root).glob("usr/lib/modules/*/vmlinuz*"))
    if len(found) != 1:
        raise LabError(f"the kernel packages below {root} hold {len(found)} kernel images instead of one")
    return found[0]


def release(root):
    """What uname -r says of an unpacked kernel: the name of its modules folder."""
    return next(pathlib.Path(root).glob("**/lib/modules/*")).name


class Module(typing.NamedTuple):
    name: str
    content: bytes
    needs: tuple  # names of the modules that must be loaded before it


def modules(root, wanted):
    """The Modules in `wanted` and what they need, in load order."""
    paths = {module_name(path): path for path in pathlib.Path(root).rglob("*.ko*")}
    ordered = {}

    def add(name):
        if name in ordered or name not in paths:
            return
        content = read(paths[name])
        needs = tuple(needed for needed in depends(content) if needed in paths)
        for needed in needs:
            add(needed)
        ordered[name] = Module(name, content, needs)

    for name in wanted:
        add(name)
    return list(ordered.values())


def vmlinux(bzimage, lz4):
    """The ELF kernel inside a bzImage that is compressed with LZ4, as Debian's cloud kernels are; `lz4` runs that program.

    Header fields: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". The last four bytes of the
    payload are the length of what is in it.
    """
    data = pathlib.Path(bzimage).read_bytes()
    setup_bytes = ((data[0x1F1] or 4) + 1) * 512
    payload_offset, payload_length = struct.unpack_from("<II", data, 0x248)
    start = setup_bytes + payload_offset
    payload = data[start:start + payload_length - 4]
    done = subprocess.run([*lz4, "-dc"], input=payload, capture_output=True, check=False)
    if done.stdout[:4] != b"\x7fELF":
        raise LabError(f"{bzimage} holds no ELF kernel compressed with LZ4: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def modules_of(version):
    """All modules that the lab may want of one kernel."""
    wanted = LAB_MODULES if version in LAB_KERNELS else ()
    wanted += GUEST_MODULES if version in (GUEST_KERNEL, GUEST_KERNEL_GENERIC) else ()
    return wanted + (GUEST_SPARE_MODULES if version == GUEST_KERNEL_GENERIC else ())


def module_name(path):
    return path.name.split(".ko")[0].replace("-", "_")


def read(path):
    """A module's ELF content: Debian compresses modules since 6.12, and busybox insmod reads plain ones."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, check=True).stdout
    return path.read_bytes()


def depends(content):
    """Names in the `depends=` line of a module's .modinfo section."""
    found = re.search(rb"\0depends=([^\0]*)\0", content)
    names = found[1].decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]
