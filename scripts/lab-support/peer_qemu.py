"""A QEMU that has the vfio-user-pci client (10.1 or newer), and the lab's guest for it: what tests/interop boots.

It is the lab's own QEMU (machine.py).
"""

import json

import contents
import kernels
import machine
from shelf import TOOLS_SUITE


def parts(shelf, guest_initrd):
    """Fills the cache with what is missing; JSON with the words of a command that boots the guest's kernel."""
    qemu = shelf.unpacked("qemu", machine.QEMU_SUITE, machine.QEMU_PACKAGES, machine.QEMU_FOLLOW)
    tools = shelf.unpacked("tools", TOOLS_SUITE, contents.TOOLS + contents.LAB_TOOLS, contents.LIBRARY_PACKAGES)
    kernel = shelf.kernel(kernels.GUEST_KERNEL_GENERIC)
    archives = [
        shelf.tools("guest-tools", tools, contents.PROGRAMS),
        shelf.modules("guest-modules", kernel, kernels.GUEST_MODULES, kernels.GUEST_SPARE_MODULES),
    ]
    with open(guest_initrd, "wb") as file:
        for archive in archives:
            file.write(archive.read_bytes())
        contents.guest_init().write(file)
    return json.dumps({
        "command": machine.qemu(qemu),
        "environment": machine.qemu_environment(qemu),
        "kernel": str(kernels.image(kernel)),
    })
