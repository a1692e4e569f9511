"""Which kernels the lab boots, and which of their modules it loads in which order.

Each is the kernel that Debian's meta package names today, not a fixed version.
Does not configure or build kernels.
"""

import lzma
import pathlib
import re
import subprocess

from report import LabError

META_PACKAGE = "linux-image-cloud-amd64"

# What the user calls a kernel -> the Debian suite whose cloud kernel it is.
SUITES = {"6.1": "bookworm", "6.12": "trixie", "7": "trixie-backports"}

# The guest always runs this one.
GUEST_KERNEL = "6.1"

# Loaded at boot, dependencies first; a name that a kernel has built in is skipped.
LAB_MODULES = (
    "virtio_pci", "virtio_console", "nvme", "kvm", "kvm_amd", "vfio", "vfio_iommu_type1", "vfio_pci",
)
GUEST_MODULES = ("nvme", "e1000e", "8250_pci")


def download(suite, root):
    """Unpacks the kernel of a packages.Suite into the folder `root`."""
    # The meta package needs linux-image-VERSION, which newer releases split into linux-binary and linux-modules.
    suite.unpack(suite.closure([META_PACKAGE], r"linux-(image|binary|modules)-"), root)


def image(root):
    """The bzImage below an unpacked kernel."""
    found = sorted(pathlib.Path(root).glob("boot/vmlinuz-*"))
    found = found or sorted(pathlib.Path(root).glob("usr/lib/modules/*/vmlinuz"))
    if len(found) != 1:
        raise LabError(f"the kernel packages below {root} hold {len(found)} kernel images instead of one")
    return found[0]


def release(root):
    """What uname -r says of an unpacked kernel: the name of its modules folder."""
    return next(pathlib.Path(root).glob("**/lib/modules/*")).name


def modules(root, wanted):
    """(name, content) of the modules in `wanted` and what they need, in load order."""
    paths = {module_name(path): path for path in pathlib.Path(root).rglob("*.ko*")}
    ordered = {}

    def add(name):
        if name in ordered or name not in paths:
            return  # built in, or not part of this kernel
        content = read(paths[name])
        ordered[name] = None
        for needed in depends(content):
            add(needed)
        ordered.pop(name)
        ordered[name] = content

    for name in wanted:
        add(name)
    return list(ordered.items())


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
