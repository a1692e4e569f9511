"""The lab's kernel with iommufd: no Debian kernel has CONFIG_IOMMUFD, so this one is Debian's cloud kernel, with VFIO's modules built again
from Debian's source of the same version, and iommufd as one module more.

Modules and kernel have to agree on every structure, so the configuration is Debian's but for files/kernel-iommufd.config and
what the compiler decides; another difference is refused. The source is deleted after the build. Installs nothing: scripts/setup brings the
tools that a build needs.
Limit: each step of a build ends after STEP_TIMEOUT_S; docs/lab.md says how long it takes.
"""

import os
import pathlib
import re
import shutil
import subprocess

import contents
import kernels
from kernels import OWN_KERNEL as NAME
from packages import Suite
from report import LabError, progress

SUITE = "trixie-backports"
SOURCE_PACKAGE = "linux-source"
# Packages of the source's version: what a module is built with, and the kernel itself. Not the signed kernel, which comes days later.
HEADERS = r"linux-headers-.*-cloud-amd64"
KERNEL = r"linux-(image-unsigned|binary-unsigned|modules)-.*-cloud-amd64"
CONFIG = contents.FILES / "kernel-iommufd.config"
# Raise it when build() makes something else of the same configuration.
RECIPE = 2
STEP_TIMEOUT_S = 900

# Sources that no such module needs. Kconfig and make want the folders' other files.
UNUSED = (
    "drivers/[!iv]*/*.[chS]", "drivers/v[!f]*/*.[ch]", "drivers/i[!o]*/*.[ch]", "sound/*.[ch]", "samples/*.[ch]",
    *(f"{folder}/*.c" for folder in ("fs", "net", "crypto", "mm")), "arch/[!x]*/*.[chS]", "arch/*/*.dts*",
    "tools/perf/*", "tools/testing/*.[ch]", "Documentation/*.rst", "Documentation/*.yaml",
)

# What the compiler and the other tools decide, and no structure depends on.
OF_THE_TOOLS = r"CONFIG_(AS|LD|LLD|CC|GCC|RUST|RUSTC|BINDGEN|PAHOLE|OPENSSL)_\w+|CONFIG_(CC_IS|HAVE_RUST|RUST)\w*"
# What iommufd turns on by itself, and what the modules bring (see add_to_iommufd).
OF_IOMMUFD = r"CONFIG_(IOMMUFD\w*|INTERVAL_TREE_SPAN_ITER)"

# Of the configuration, for make alone: no debug information, no signature, and none of the programs that a whole kernel needs.
NOT_MADE = ("DEBUG_INFO", "DEBUG_INFO_BTF", "DEBUG_INFO_BTF_MODULES", "MODULE_SIG_FORMAT", "BUILDTIME_TABLE_SORT")

IOMMUFD = "drivers/iommu/iommufd"
VFIO = "drivers/vfio"

# A program or header of each package that a build needs; Debian's names.
NEEDED = {
    "gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils", "/usr/include/gelf.h": "libelf-dev",
}


def kernel(cache):
    """A folder like that of an unpacked kernel package. The caller does not hold the cache.Cache locked."""
    recipe = (SUITE, SOURCE_PACKAGE, CONFIG.read_bytes(), kernels.modules_of(NAME), RECIPE)
    return cache.slow_artifact(f"kernel-{NAME}", recipe, lambda folder, scratch: build(cache, folder, scratch))


def build(cache, folder, scratch):
    missing = [package for wanted, package in NEEDED.items() if not there(wanted)]
    if missing:
        raise LabError(f"building the kernel {NAME} needs the packages {' '.join(missing)}: scripts/setup installs them")
    packages = scratch / "packages"
    packages.mkdir()
    with cache.locked():
        release = download(Suite(SUITE, cache.folder / "apt" / SUITE), packages, folder)
    tree = scratch / "linux"
    tree.mkdir()
    with open(cache.folder / f"kernel-{NAME}.log", "w") as output:
        unpack_source(packages, tree, output)
        configure(packages / "usr/src" / f"linux-headers-{release}", tree, output)
        add_to_iommufd(tree)
        make(tree, output, release, *(f"CONFIG_{name}=" for name in NOT_MADE), "modules_prepare")
        for part in (IOMMUFD, VFIO):
            progress(f"building {part}")
            symbols = f"KBUILD_EXTRA_SYMBOLS={tree / IOMMUFD / 'Module.symvers'}" if part == VFIO else ""
            make(tree, output, release, *(f"CONFIG_{name}=" for name in NOT_MADE), f"M={part}", *filter(None, [symbols]), "modules")
    replace(folder, tree)
    progress(f"Linux {release} has iommufd")


def there(wanted):
    return pathlib.Path(wanted).exists() if wanted.startswith("/") else shutil.which(wanted) is not None


def download(suite, packages, folder):
    """Unpacks the source and its headers into `packages`, and the kernel of that version into `folder`. Gives the kernel's release."""
    source = suite.closure([SOURCE_PACKAGE], r"linux-source-")
    version = suite.version(source[-1])
    headers, kernel_packages = suite.of_version(HEADERS, version), suite.of_version(KERNEL, version)
    if len(headers) != 1 or not kernel_packages:
        raise LabError(f"{SUITE} has {len(headers)} cloud kernels of the version of {source[-1]}, {version}, instead of one")
    suite.unpack([*source, *headers], packages)
    suite.unpack(kernel_packages, folder)
    return headers[0].removeprefix("linux-headers-")


def unpack_source(packages, tree, output):
    sources = list(packages.glob("usr/src/linux-source-*.tar.xz"))
    if len(sources) != 1:
        raise LabError(f"the package {SOURCE_PACKAGE} of {SUITE} holds {len(sources)} kernel sources instead of one")
    progress(f"unpacking {sources[0].name}")
    run(["tar", "-xJf", sources[0], "--strip-components=1", *(f"--exclude=*/{pattern}" for pattern in UNUSED)], tree, output)


def configure(headers, tree, output):
    """Debian's configuration and ours, and the symbols of Debian's kernel but for those of the modules that are built here."""
    debian, ours = (headers / ".config").read_text(), CONFIG.read_text()
    (tree / ".config").write_text(debian + ours)
    # It says its version, and is not run: without it Kconfig drops what depends on it, and structures change.
    pahole = tree / "pahole"
    version = re.search(r"^CONFIG_PAHOLE_VERSION=(\d)(\d+)$", debian, re.MULTILINE)
    pahole.write_text(f"#!/bin/sh\necho v{version[1]}.{version[2]}\n" if version else "#!/bin/sh\nexit 1\n")
    pahole.chmod(0o755)
    make(tree, output, "", "olddefconfig")
    check_config(values(debian), values(ours), values((tree / ".config").read_text()))
    symbols = (headers / "Module.symvers").read_text().splitlines(keepends=True)
    (tree / "Module.symvers").write_text("".join(line for line in symbols if f"\t{VFIO}/" not in line))


def values(config):
    """Name -> value of a configuration; what is off is "n"."""
    set_ones = re.findall(r"^(CONFIG_\w+)=(.*)$", config, re.MULTILINE)
    return {**dict.fromkeys(re.findall(r"^# (CONFIG_\w+) is not set$", config, re.MULTILINE), "n"), **dict(set_ones)}


def check_config(debian, ours, made):
    """Kconfig drops without a word what depends on something that is off."""
    wanted = {**debian, **ours}
    names = [name for name in wanted.keys() | made.keys() if wanted.get(name, "n") != made.get(name, "n")]
    other = sorted(name for name in names if name in ours or not re.fullmatch(f"{OF_THE_TOOLS}|{OF_IOMMUFD}", name))
    if other:
        raise LabError(f"this machine would build modules that do not fit Debian's kernel, which differs in {', '.join(other)}")


def add_to_iommufd(tree):
    """Makes one module of what with CONFIG_IOMMUFD is in part in the kernel itself."""
    folder = tree / IOMMUFD
    iterator = re.search(r"^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER$.*?^#endif", (tree / "lib/interval_tree.c").read_text(), re.MULTILINE | re.DOTALL)
    if iterator is None:
        raise LabError("lib/interval_tree.c of this kernel has no span iterator where the lab looks for it")
    (folder / "span.c").write_text("#include <linux/interval_tree.h>\n" + re.sub(r"EXPORT_SYMBOL\w*\(.*\);", "", iterator[0]) + "\n")
    makefile = re.sub(r"^(obj-|iommufd_driver-).*$", "", (folder / "Makefile").read_text(), flags=re.MULTILINE)
    (folder / "Makefile").write_text(f"{makefile}iommufd-y += driver.o iova_bitmap.o span.o\nobj-m := iommufd.o\n")


def replace(folder, tree):
    """Puts the modules that were built in the place of Debian's, and leaves out those that the lab never loads."""
    modules = next(folder.glob("**/lib/modules/*"))
    for part in (IOMMUFD, VFIO):
        for path in (tree / part).rglob("*.ko"):
            for old in modules.rglob(f"{path.name}*"):
                old.unlink()
            shutil.copyfile(path, modules / path.name)
    kernels.leave_only(folder, kernels.modules_of(NAME))


def make(tree, output, release, *words):
    """Calls make. There is no Rust for it: whether this machine's fits is a matter of luck, and no structure depends on it."""
    named = [f"KERNELRELEASE={release}"] if release else []
    jobs = len(os.sched_getaffinity(0))
    run(["make", f"-j{jobs}", f"PAHOLE={tree / 'pahole'}", "RUSTC=false", *named, *words], tree, output)


def run(words, folder, output):
    """Runs a command in a process group of its own, so that an interrupt ends the compilers too."""
    words = list(map(str, words))
    with subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True) as process:
        try:
            process.wait(STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{words[0]} {words[-1]} did not end within {STEP_TIMEOUT_S} s: see {output.name}") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
    if process.returncode != 0:
        raise LabError(f"{words[0]} {words[-1]} failed: see {output.name}")
