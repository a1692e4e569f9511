"""A QEMU that has the vfio-user-pci client, and the lab's guest for it: what tests/interop boots.

The lab itself stays with its own QEMU (machine.py); this one is from a newer suite and in a cache entry of its own. As a folder it goes into the lab machine, where scripts/bench runs it beside ours.
"""

import json
import pathlib
import shutil

import contents
import kernels
import machine
import unpacked
from shelf import TOOLS_SUITE

# QEMU >= 10.1. What a backports suite does not have comes from the suite that it adds to.
SUITE = "trixie-backports trixie"
PROGRAM = "usr/bin/qemu-system-x86_64"
# What a q35 machine without a display needs, and -kernel with an ELF file.
FIRMWARE = (
    "usr/share/seabios/bios-256k.bin", "usr/share/qemu/kvmvapic.bin", "usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/pvh.bin",
)
# Starts the program wherever the folder is, with the libraries that came with it.
RUN = f"""#!/bin/sh
here=$(dirname "$0")
exec "$here/{unpacked.LINKER}" --library-path "$here" "$here/qemu" -L "$here" "$@"
"""


def folder(shelf, target):
    """Makes the folder `target`, with QEMU, its libraries and firmware, and `run`, which starts it."""
    qemu = shelf.unpacked("peer-qemu", SUITE, machine.QEMU_PACKAGES, machine.QEMU_FOLLOW)
    target = pathlib.Path(target)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, file in unpacked.libraries(qemu, PROGRAM).items():
        shutil.copy2(file, target / name)
    shutil.copy2(qemu / PROGRAM, target / "qemu")
    for name in FIRMWARE:
        shutil.copy2(qemu / name, target)
    (target / "run").write_text(RUN)
    (target / "run").chmod(0o755)


def parts(shelf, guest_initrd):
    """Fills the cache with what is missing; JSON with the words of a command that boots the guest's kernel."""
    qemu = shelf.unpacked("peer-qemu", SUITE, machine.QEMU_PACKAGES, machine.QEMU_FOLLOW)
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
