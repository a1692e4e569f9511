"""The artifacts that the lab keeps in its cache, and what each is made from.

An artifact whose recipe is unchanged is not made again: a second start neither downloads nor unpacks.
"""

import pathlib

import contents
import kernels
import systemd
import unpacked
from packages import Suite

# The tools of both machines come from this suite, whatever this machine runs.
TOOLS_SUITE = "bookworm"


class Shelf:
    """Makes artifacts in a cache.Cache, which the caller holds locked."""

    def __init__(self, cache):
        self._cache = cache
        self._suites = {}

    def unpacked(self, name, suite_name, packages, follow):
        """A folder with packages, and those they need whose name matches `follow`."""
        def build(folder):
            suite = self._suite(suite_name)
            suite.unpack(suite.closure(packages, follow), folder)

        return self._cache.artifact(name, (suite_name, packages, follow), build)

    def kernel(self, version):
        """A folder with the unpacked packages of a kernel."""
        suite, meta_package = kernels.SOURCES[version]
        wanted = kernels.modules_of(version)
        return self._cache.artifact(
            f"kernel-{version}", (suite, meta_package, wanted),
            lambda folder: kernels.download(self._suite(suite), meta_package, wanted, folder),
        )

    def vmlinux(self, kernel):
        """The ELF kernel of an unpacked kernel."""
        lz4 = unpacked.command(self.unpacked("lz4", TOOLS_SUITE, ("lz4",), contents.LIBRARY_PACKAGES), "usr/bin/lz4")
        return self._cache.artifact(
            f"vmlinux-{kernel.name}", source_of(kernels),
            lambda path: path.write_bytes(kernels.vmlinux(kernels.image(kernel), lz4)),
        )

    def modules(self, name, kernel, loaded, spare):
        """An archive of modules of an unpacked kernel."""
        def build(path):
            available = kernels.modules(kernel, loaded + spare)
            with open(path, "wb") as file:
                contents.modules(available, loaded, kernels.release(kernel)).write(file)

        recipe = (loaded, spare, source_of(contents), source_of(kernels))
        return self._cache.artifact(f"{name}-{kernel.name}", recipe, build)

    def tools(self, name, root, programs):
        """An archive of programs out of an unpacked folder."""
        def build(path):
            with open(path, "wb") as file:
                contents.tools(root, programs).write(file)

        return self._cache.artifact(name, (root.name, programs, source_of(contents)), build)

    def python(self):
        """An archive of Python 3."""
        root = self.unpacked("python", TOOLS_SUITE, contents.PYTHON, contents.PYTHON_PACKAGES)

        def build(path):
            with open(path, "wb") as file:
                contents.python(root).write(file)

        return self._cache.artifact("lab-python", (root.name, source_of(contents)), build)

    def systemd(self):
        """An archive with systemd as process 1."""
        root = self.unpacked("systemd", TOOLS_SUITE, systemd.PACKAGES, systemd.FOLLOW)

        def build(path):
            with open(path, "wb") as file:
                systemd.archive(root).write(file)

        recipe = (root.name, source_of(systemd), (contents.FILES / "lab-init-systemd").read_bytes())
        return self._cache.artifact("lab-systemd", recipe, build)

    def _suite(self, name):
        if name not in self._suites:
            self._suites[name] = Suite(name, self._cache.folder / "apt" / name)
        return self._suites[name]


def source_of(module):
    """A change in the code that makes an artifact makes a new artifact."""
    return pathlib.Path(module.__file__).read_bytes()
