"""The lab's command line and environment, parsed once and checked."""

import argparse
import os
import pathlib

from kernels import LAB_KERNELS
from machine import IOMMUS
from report import LabError

DEFAULT_TIMEOUT_S = 300
STILL_TIMEOUT_S = 120
BOOT_TIMEOUT_S = 90

HELP = """\
Boots the lab machine and runs COMMAND in it as root, with our release binaries on PATH.

The lab machine is a QEMU machine under software emulation, with an IOMMU, nested virtualization, an NVMe
disk at 0000:00:04.0 and an e1000e NIC at 0000:00:05.0: /dev/vfio, /dev/kvm and PCI devices for tests, whatever
this machine has. Kernels and tools are Debian packages, fetched once and kept outside the tree.
"""
EPILOG = """\
inside the machine:
  PATH              /lab/bin (bulkhead-vmm, bulkhead-device-server, lab-bind, lab-unbind, lab-guest-initrd),
                    /lab/in (what --copy-in named), busybox, bash, lspci, nvme, strace
  LAB_OUT           a folder; its content is in LAB_OUT on this machine afterwards, beside console.log
  LAB_GUEST_KERNEL  bzImage for the inner guest: Debian's cloud kernel 6.1, which has a driver for the NVMe
  LAB_GUEST_VMLINUX the same as an ELF file with a PVH entry: starts 2 s earlier, since nothing is decompressed
  LAB_GUEST_INITRD  initrd for the inner guest: prints GUEST-READY, runs the script that the kernel command
                    line gives as run=BASE64, prints GUEST-EXIT STATUS and powers off
  LAB_GUEST_KERNEL_GENERIC, LAB_GUEST_INITRD_GENERIC  Debian's generic kernel 6.1 (bzImage) and its initrd: starts slower, has
                    drivers for the e1000e and other devices
  LAB, LAB_KERNEL   1, and the kernel as --kernel names it
  LAB_BOOT          1, and after each reboot one more
  lab-bind 0000:00:04.0 gives a device to vfio-pci, lab-unbind takes it back
  lab-guest-initrd SCRIPT OUTPUT makes an initrd with a script that is too long for run= (about 1400 bytes)

environment on this machine:
  LAB_OUT           where the results go (default: target/lab-out, emptied first)
  LAB_KEEP_NVME=1   keep the NVMe disk, as the run left it, as LAB_OUT/nvme.img
  BULKHEAD_BIN_DIR  where our binaries are (default: CARGO_TARGET_DIR/release, else target/release)
  XDG_CACHE_HOME    where downloads and the built kernel are kept, in bulkhead-lab (default: ~/.cache)

exit status: COMMAND's; 124 after a timeout or a boot that hangs; 125 if the machine died; 2 if the lab could
not start, with the reason on stderr.

examples:
  scripts/lab -- sh -c 'lab-bind 0000:00:04.0; ls /dev/vfio; lspci -nnk'
  scripts/lab --kernel 6.1 --iommu none -- bulkhead-device-server host list
  scripts/lab --qemu-arg -netdev --qemu-arg user,id=n,restrict=on --device igb,netdev=n,addr=6 -- lspci
  scripts/lab --device pcie-root-port,id=rp,chassis=1,addr=8 --device edu,bus=rp -- lspci -tv
  scripts/lab --shell
"""


def parse(arguments, root):
    """The options of a run; argparse itself exits with 2 and says what is wrong."""
    words = list(arguments)
    command = []
    if "--" in words:
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1:]
    options = parser().parse_args(joined(words))
    options.command = command
    if [options.shell, options.prepare, bool(command)].count(True) != 1:
        raise LabError("say what to run: -- COMMAND..., or --shell for a prompt, or --prepare (and no two of them)")
    if options.reboots and (options.init != "systemd" or options.shell):
        raise LabError("--reboots needs --init systemd and a COMMAND")
    for path in options.copy_in:
        if not path.exists():
            raise LabError(f"--copy-in {path}: no such file or folder")
    names = [path.name for path in options.copy_in]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise LabError(f"--copy-in: {', '.join(sorted(twice))} is given twice; /lab/in has one file of a name")
    if options.timeout is None:
        options.timeout = 0 if options.shell else DEFAULT_TIMEOUT_S
    options.boot_timeout = BOOT_TIMEOUT_S
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or root / "target")
    options.binaries = pathlib.Path(os.environ.get("BULKHEAD_BIN_DIR") or target / "release")
    options.keep_disk = os.environ.get("LAB_KEEP_NVME") == "1"
    return options


def joined(words):
    """--qemu-arg -drive as --qemu-arg=-drive: argparse would take the value for an option."""
    result = []
    for word in words:
        if result and result[-1] in ("--qemu-arg", "--device"):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


def parser():
    made = argparse.ArgumentParser(
        prog="scripts/lab", description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="scripts/lab [OPTION]... (-- COMMAND... | --shell | --prepare)", allow_abbrev=False,
    )
    made.add_argument("--kernel", choices=LAB_KERNELS, default="6.1", help="the machine's kernel: Debian's cloud kernel of that version, or iommufd, the one with iommufd, which is built the first time (default: %(default)s)")
    made.add_argument("--iommu", choices=IOMMUS, default="intel", help="intel-no-ir has no interrupt remapping (default: %(default)s)")
    made.add_argument("--init", choices=("busybox", "systemd"), default="busybox", help="process 1; with systemd the command runs in lab.service (default: %(default)s)")
    made.add_argument("--device", metavar="STRING", action="append", default=[], help="one more QEMU -device; may be repeated")
    made.add_argument("--qemu-arg", metavar="ARG", action="append", default=[], help="one more QEMU argument, for what a device needs; may be repeated")
    made.add_argument("--cpus", type=between(1, 64), default=1, metavar="N", help="default: %(default)s; with more, guests of the machine hang now and then (docs/lab.md)")
    made.add_argument("--memory", type=between(512, 1 << 20), default=3072, metavar="MIB", help="default: %(default)s")
    made.add_argument("--copy-in", type=pathlib.Path, metavar="PATH", action="append", default=[], help="put a file or folder into /lab/in, with the libraries it needs; may be repeated")
    made.add_argument("--timeout", type=between(1, 86400), metavar="S", help=f"seconds for the whole run (default: {DEFAULT_TIMEOUT_S}; none with --shell)")
    made.add_argument("--still-timeout", type=between(10, 86400), default=STILL_TIMEOUT_S, metavar="S", help="seconds after which a machine that answers no ping is given up (default: %(default)s)")
    made.add_argument("--reboots", type=between(0, 8), default=0, metavar="N", help="how often COMMAND reboots the machine, and is run again after; files that it wrote are kept (docs/lab.md); needs --init systemd (default: %(default)s: a reboot ends the machine)")
    made.add_argument("--python", action="store_true", help="Python 3 is there too, with its standard library (30 MB)")
    made.add_argument("--prepare", action="store_true", help="fetch and build what such a run needs, and run nothing")
    made.add_argument("--shell", action="store_true", help="a prompt in the machine instead of COMMAND")
    return made


def between(least, most):
    def number(text):
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return number
