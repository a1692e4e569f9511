"""Running programs of unpacked packages on this machine, with the dynamic linker and libraries that they came with.

Nothing of them is installed, and none of this machine's libraries is used.
"""

import pathlib
import re
import subprocess

from report import LabError

LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LINKER = "ld-linux-x86-64.so.2"


def command(root, program):
    """The words that run `program` (a path below the unpacked `root`)."""
    root = pathlib.Path(root)
    folders = [root / name for name in LIBRARY_FOLDERS if (root / name).exists()]
    linker = next((path / LINKER for path in folders if (path / LINKER).exists()), None)
    if linker is None:
        raise LabError(f"{root} has no {LINKER}: it is not what the lab unpacked; delete that folder")
    return [str(linker), "--library-path", ":".join(map(str, folders)), str(root / program)]


def libraries(root, program):
    """Name -> file of the libraries that `program` loads, the dynamic linker included; nothing for a static program."""
    linker, *words = command(root, program)
    done = subprocess.run([linker, "--list", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    found = re.findall(r"^\s*(\S+) => (/\S+)", done.stdout, re.MULTILINE)
    return {pathlib.Path(name).name: pathlib.Path(file).resolve() for name, file in found}
