"""The lab machine as a QEMU command line: which devices, at which addresses, with which IOMMU.

The machine is emulated (TCG): it has an IOMMU and nested virtualization whatever this machine has.
Does not start it (see session.py).
"""

import pathlib

import unpacked

# QEMU with the firmware, option ROMs and libraries it needs, unpacked from these packages. Not bookworm's QEMU 7.2: under
# it 4 of 20 boots of Linux 6.12 died with corrupted EFLAGS after cmpxchg16b; under trixie's 10.0 none of 20. Up to 10.1 a guest's exit
# can lose an interrupt that arrives at the same moment (interrupt_request is changed without atomics in svm_helper.c); where that
# was the timer's, the machine stands still until another comes: see session.py, PING_S. Not 11.1, which has that mended: under
# it six guests hung in one run of all tests, of some 150, and none under 10.0.
QEMU_SUITE = "trixie"
QEMU_PACKAGES = ("qemu-system-x86",)
QEMU_FOLLOW = r"(?!libperl|libpam)(lib|zlib|qemu-|seabios|ipxe)"

IOMMUS = {
    "intel": "intel-iommu,intremap=on,caching-mode=on",
    "intel-no-ir": "intel-iommu,intremap=off,caching-mode=on",
    "none": None,
}
# Where KVM is built in it takes the TSC's first calibration, which is up to 2 permille off beside other load, for the frequency of
# its guests. Beyond its tolerance (250 ppm) of what Linux measures later their timers stop.
# Linux tries the timer for 40 ms at boot and panics where no four ticks came, which beside other load happens.
KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1 quiet mitigations=off intel_iommu=on iommu=pt kvm.tsc_tolerance_ppm=50000 no_timer_check"

# Ports that the lab's init opens by these names (see files/lab-session).
PORTS = ("lab-control", "lab-out", "lab-err", "lab-results")

# By this files/lab-state knows its disk.
STATE_SERIAL = "lab-state"

# The second serial port, /dev/ttyS1, is there for --shell.
TERMINAL = "lab-terminal"


def qemu(root):
    """The command that runs the QEMU unpacked below `root`."""
    data = [pathlib.Path(root) / name for name in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")]
    return [*unpacked.command(root, "usr/bin/qemu-system-x86_64"), *(part for folder in data for part in ("-L", str(folder)))]


def qemu_environment(root):
    return {"QEMU_MODULE_DIR": str(pathlib.Path(root) / "usr/lib/x86_64-linux-gnu/qemu")}


def arguments(options, kernel, initrd, disks, console_log, port_fds):
    """QEMU's arguments for one run; `disks` are the lab's disk and, where the machine is rebooted, the one that keeps its files."""
    disk, state = disks
    iommu = IOMMUS[options.iommu]
    words = [
        "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-M", "q35,kernel-irqchip=split",
        "-smp", str(options.cpus), "-m", str(options.memory),
        "-nodefaults", "-display", "none", "-monitor", "none", *([] if options.reboots else ["-no-reboot"]),
        *(["-device", iommu] if iommu else []),
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", KERNEL_COMMAND_LINE,
        "-chardev", f"file,id=console,path={escaped(console_log)}", "-serial", "chardev:console",
        "-drive", f"file={escaped(disk)},if=none,id=lab-disk,format=raw,cache=writeback",
        "-device", "nvme,drive=lab-disk,serial=bulkhead-lab,addr=4",
        # A network of two, this NIC and QEMU's own 10.0.2.2, which answers ping: nothing reaches this machine.
        "-netdev", "user,id=lab-net,restrict=on",
        "-device", "e1000e,netdev=lab-net,addr=5,romfile=",
        "-device", "virtio-serial-pci,id=lab-ports,addr=1e",
    ]
    if options.reboots:
        words += [
            "-drive", f"file={escaped(state)},if=none,id=lab-state,format=raw,cache=writeback",
            "-device", f"nvme,drive=lab-state,serial={STATE_SERIAL},addr=1d",
        ]
    for name, fd in port_fds.items():
        words += ["-chardev", f"socket,id={name},fd={fd}"]
        if name == TERMINAL:
            words += ["-serial", f"chardev:{name}"]
        else:
            words += ["-device", f"virtserialport,bus=lab-ports.0,chardev={name},name={name}"]
    words += options.qemu_arg
    for device in options.device:
        words += ["-device", device]
    return words


def escaped(path):
    """A path inside a QEMU option string."""
    return str(path).replace(",", ",,")
