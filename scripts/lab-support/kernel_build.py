"""The lab's own kernel, "iommufd": no Debian kernel has CONFIG_IOMMUFD, so this one is built, once, from Debian's source package.

Which options it has: files/kernel-iommufd.config; everything else is off, and nothing is a module. The source is deleted
after the build. Installs nothing: scripts/setup brings the tools that a kernel build needs.
Limit: a build ends after BUILD_TIMEOUT_S; docs/lab.md says how long it takes.
"""

import os
import pathlib
import re
import shutil
import subprocess
import time

import contents
from kernels import OWN_KERNEL as NAME
from packages import Suite
from report import LabError, progress

SUITE = "trixie-backports"
SOURCE_PACKAGE = "linux-source"
CONFIG = contents.FILES / "kernel-iommufd.config"
# Raise it when build() makes something else of the same configuration.
RECIPE = 1
BUILD_TIMEOUT_S = 3600
PROGRESS_S = 30

# Sources that no such kernel needs, two thirds of the archive by size. Kconfig and make want the folders' other files.
UNUSED = (
    *(f"drivers/{folder}/*.[ch]" for folder in ("accel", "gpu", "infiniband", "media", "net/ethernet", "net/wireless", "scsi", "staging", "usb")),
    "arch/[!x]*/*.[chS]", "arch/*/*.dts*", "sound/*.[ch]", "tools/perf/*", "tools/testing/*", "Documentation/*.rst", "Documentation/*.yaml",
)

# A program or header of each package that a build needs; Debian's names.
NEEDED = {
    "gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils", "/usr/include/gelf.h": "libelf-dev",
}


def kernel(cache):
    """A folder like that of an unpacked kernel package. The caller does not hold the cache.Cache locked."""
    recipe = (SUITE, SOURCE_PACKAGE, CONFIG.read_bytes(), RECIPE)
    return cache.slow_artifact(f"kernel-{NAME}", recipe, lambda folder, scratch: build(cache, folder, scratch))


def build(cache, folder, scratch):
    missing = [package for wanted, package in NEEDED.items() if not there(wanted)]
    if missing:
        raise LabError(f"building the kernel {NAME} needs the packages {' '.join(missing)}: scripts/setup installs them")
    tree = scratch / "linux"
    tree.mkdir()
    with cache.locked():
        suite = Suite(SUITE, cache.folder / "apt" / SUITE)
        suite.unpack(suite.closure([SOURCE_PACKAGE], r"linux-source-"), scratch)
    sources = list(scratch.glob("usr/src/linux-source-*.tar.xz"))
    if len(sources) != 1:
        raise LabError(f"the package {SOURCE_PACKAGE} of {SUITE} holds {len(sources)} kernel sources instead of one")
    progress(f"unpacking {sources[0].name}")
    call(["tar", "-xJf", sources[0], "--strip-components=1", *(f"--exclude=*/{pattern}" for pattern in UNUSED)], tree)
    log = cache.folder / f"kernel-{NAME}.log"
    with open(log, "w") as output:
        call(["make", f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig"], tree, output)
        check_config((tree / ".config").read_text())
        compile_image(tree, output)
    release = (tree / "include/config/kernel.release").read_text().strip()
    (folder / "boot").mkdir(parents=True)
    shutil.copyfile(tree / "arch/x86/boot/bzImage", folder / "boot" / f"vmlinuz-{release}")
    (folder / "lib/modules" / release).mkdir(parents=True)
    progress(f"Linux {release} is built")


def there(wanted):
    return pathlib.Path(wanted).exists() if wanted.startswith("/") else shutil.which(wanted) is not None


def check_config(made):
    """Kconfig drops without a word what depends on something that is off: then the lab would lack what its tests need."""
    asked = re.findall(r"^(CONFIG_\w+)=(y|\"[^\"]*\"|\d+)$", CONFIG.read_text(), re.MULTILINE)
    dropped = [name for name, value in asked if f"\n{name}={value}\n" not in f"\n{made}"]
    if dropped:
        raise LabError(f"{CONFIG.name} asks for {', '.join(dropped)}, which this kernel drops: what they depend on is off or renamed")


def compile_image(tree, output):
    """make bzImage, with a line of progress now and then: nobody should have to guess whether it hangs."""
    jobs = len(os.sched_getaffinity(0))
    progress(f"building the kernel with {jobs} jobs: minutes, once; details in {output.name}")
    # A process group of its own, so that an interrupt ends the compilers too.
    words = ["make", f"-j{jobs}", "bzImage"]
    with subprocess.Popen(words, cwd=tree, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True) as make:
        started = time.monotonic()
        try:
            while wait(make) is None:
                seconds = time.monotonic() - started
                if seconds > BUILD_TIMEOUT_S:
                    raise LabError(f"the kernel was not built within {BUILD_TIMEOUT_S} s: see {output.name}")
                progress(f"building the kernel: {objects(output.name)} files compiled")
        finally:
            if make.returncode is None:
                os.killpg(make.pid, 9)
    if make.returncode != 0:
        raise LabError(f"the kernel does not build: see {output.name}")


def wait(process):
    try:
        return process.wait(PROGRESS_S)
    except subprocess.TimeoutExpired:
        return None


def objects(log):
    return sum(line.startswith("  CC ") for line in pathlib.Path(log).read_text(errors="replace").splitlines())


def call(words, folder, output=subprocess.DEVNULL):
    done = subprocess.run(list(map(str, words)), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        where = f": see {output.name}" if output is not subprocess.DEVNULL else ""
        raise LabError(f"{' '.join(map(str, words))} failed in {folder}{where}")
