"""Which files the lab machine (L1) and the inner guest (L2) are made of.

Three kinds of archives: tools from Debian packages (cached), kernel modules (cached), and what changes
from run to run: init, the command, our binaries, the files the user copies in.
Does not download (see packages.py) and does not start anything (see machine.py).
"""

import os
import pathlib
import re
import shlex
import subprocess

import terminal
import unpacked
from cpio import Archive, merged
from report import LabError

FILES = pathlib.Path(__file__).resolve().parent / "files"
LIBRARIES = "usr/lib/x86_64-linux-gnu"

# Packages of both machines; their libraries are found through their dependencies.
TOOLS = ("busybox-static", "pciutils", "nvme-cli", "pci.ids")
LAB_TOOLS = ("bash", "strace")
LIBRARY_PACKAGES = r"(?!libperl|libpam)(lib|zlib)"
PYTHON = ("python3-minimal", "libpython3-stdlib")
PYTHON_PACKAGES = r"(?!libperl|libpam)(lib|zlib|python3)"

# Programs that are taken from the packages; everything else in their bin folders is left out.
PROGRAMS = ("busybox", "lspci", "setpci", "nvme")
LAB_PROGRAMS = ("bash", "strace")

DATA_FILES = ("usr/share/misc/pci.ids",)

# The dynamic linker and the libraries that must have exactly its version. Binaries built on this machine need
# this machine's, and older programs run with newer ones.
GLIBC = (
    "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libmvec.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1",
    "libresolv.so.2", "libutil.so.1", "libanl.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libthread_db.so.1",
)

# lspci -k asks libkmod for modules that fit a device, and complains where the index files are missing. The lab loads
# modules by name, so an index without entries serves: magic, version, offset of no node (kmod's libkmod-index.c).
EMPTY_INDEX = bytes.fromhex("b007f457 00020001 00000000")
INDEXES = ("dep", "alias", "symbols", "builtin.alias", "builtin")
BINARIES = ("bulkhead-vmm", "bulkhead-device-server")


def tools(root, programs):
    """Archive of the wanted programs below an unpacked `root`, and of the libraries that they load."""
    archive = skeleton()
    wanted = set(programs)
    libraries = {}
    for path in sorted(pathlib.Path(root).rglob("*")):
        name = merged(str(path.relative_to(root)))
        folder, base = os.path.split(name)
        if folder in ("usr/bin", "usr/sbin") and base in wanted:
            archive.tree(path, f"usr/bin/{base}")
            libraries.update(unpacked.libraries(root, path.relative_to(root)))
        elif name in DATA_FILES:
            archive.tree(path, name)
    for name, file in sorted(libraries.items()):
        archive.file(f"{LIBRARIES}/{name}", file, 0o755)
    archive.symlink(f"usr/lib64/{unpacked.LINKER}", f"/{LIBRARIES}/{unpacked.LINKER}")
    for applet in busybox_applets(pathlib.Path(root)):
        if applet not in wanted:
            archive.symlink(f"usr/bin/{applet}", "busybox")
    return archive


def python(root):
    """Archive of Python 3 below an unpacked `root`, with the libraries that it needs."""
    archive = Archive()
    for path in sorted(pathlib.Path(root).rglob("*")):
        name = merged(str(path.relative_to(root)))
        folder, base = os.path.split(name)
        if folder == "usr/bin" and base.startswith("python3"):
            archive.tree(path, name)
        elif name.startswith("usr/lib/python3") and not path.is_dir() and "/test/" not in name:
            archive.tree(path, name)
        elif folder == LIBRARIES and ".so" in base and not path.is_dir():
            # Its extension modules load some of them.
            archive.tree(path, name)
    return archive


def skeleton():
    archive = Archive()
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.directory(f"usr/{name}")
        archive.symlink(name, f"usr/{name}")
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc", "mnt"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    return archive


def busybox_applets(root):
    busybox = next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())
    done = subprocess.run([busybox, "--list"], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


def modules(available, loaded, release):
    """Archive of kernels.Modules below the kernel's release name, with the list of those that init loads."""
    folder = f"usr/lib/modules/{release}"
    archive = Archive()
    for name in INDEXES:
        archive.file(f"{folder}/modules.{name}.bin", EMPTY_INDEX)
    dependencies, needed = [], set(loaded)
    for module in reversed(available):
        if module.name in needed:
            needed.update(module.needs)
    for module in available:
        archive.file(f"{folder}/{module.name}.ko", module.content)
        dependencies.append(f"{module.name}.ko:" + "".join(f" {name}.ko" for name in all_needs(module, available)))
    archive.file(f"{folder}/modules.dep", "".join(f"{line}\n" for line in dependencies).encode())
    at_boot = [module.name for module in available if module.name in needed]
    archive.file(f"{folder}/lab-modules", "".join(f"{name}\n" for name in at_boot).encode())
    return archive


def all_needs(module, available):
    """What `module` needs and what that needs in turn, the last to load first: modprobe looks no further than its line."""
    needed = set(module.needs)
    for other in reversed(available):
        if other.name in needed:
            needed.update(other.needs)
    return [other.name for other in reversed(available) if other.name in needed]


def guest_init():
    """Archive of the inner guest's init."""
    archive = Archive()
    archive.tree(FILES / "guest-init", "init")
    return archive


def run(options, guest):
    """Archive of what is particular to one run of the lab machine; `guest` is file name -> content below /lab/guest."""
    archive = Archive()
    if options.init == "busybox":
        archive.tree(FILES / "lab-init", "init")
    archive.tree(FILES / "lab-session", "lab/session")
    archive.tree(FILES / "lab-state", "lab/state")
    for name in ("lab-bind", "lab-unbind", "lab-guest-initrd"):
        archive.tree(FILES / name, f"lab/bin/{name}")
    archive.directory("lab/out")
    archive.directory("lab/in")
    for name, content in guest.items():
        archive.file(f"lab/guest/{name}", content)
    archive.file("lab/settings", settings(options).encode())
    programs = [(path, f"lab/bin/{path.name}") for path in binaries(options.binaries)]
    programs += [(path, f"lab/in/{path.name}") for path in options.copy_in]
    libraries = {}
    for source, path in programs:
        archive.tree(source.resolve(), path)
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        brought = {file.name for file in files}
        for file in files:
            libraries.update(shared_libraries(file, brought))
    for source in options.copy_in:
        if source.is_file():
            archive.file(f"lab/in/{source.name}", source, 0o755)
    libraries.update(host_glibc())
    for name, source in sorted(libraries.items()):
        archive.file(f"{LIBRARIES}/{name}", source, 0o755)
    return archive


def settings(options):
    """Shell assignments that init reads."""
    command = " ".join(shlex.quote(word) for word in options.command)
    values = {
        "LAB_KERNEL": options.kernel,
        "lab_mode": "shell" if options.shell else "command",
        "lab_command": command,
        "lab_reboots": str(options.reboots),
        "lab_columns": str(terminal.size().columns),
        "lab_rows": str(terminal.size().lines),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def binaries(folder):
    """Our release binaries, those that exist."""
    return [folder / name for name in BINARIES if (folder / name).is_file()]


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def shared_libraries(path, brought):
    """Library name -> file on this machine, for an ELF program or library (nothing for other files).

    `brought` are file names that come into the lab together with `path`: it may load those.
    """
    if not is_elf(path):
        return {}
    done = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    lost = set(re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)) - brought
    if lost:
        raise LabError(f"{path} needs {', '.join(sorted(lost))}, which this machine does not have: install it first")
    return {name: pathlib.Path(file) for name, file in re.findall(r"^\s*(\S+) => (/\S+)", done.stdout, re.MULTILINE)}


def host_glibc():
    folders = [pathlib.Path(name) for name in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64")]
    found = {}
    for name in GLIBC:
        for folder in folders:
            if (folder / name).exists():
                found.setdefault(name, folder / name)
    return found
