"""How files become an initramfs: a writer for the "newc" cpio format.

Format: Linux Documentation/driver-api/early-userspace/buffer-format. The kernel unpacks concatenated
archives in order and later entries replace earlier ones, which is what lets the lab append a small
archive per run to large cached ones.
Does not read archives, and does not know which files the lab wants (see contents.py).
Limit: a file must be smaller than 4 GiB (the format's size field).
"""

import os
import stat

MAX_FILE_BYTES = (1 << 32) - 1
MERGED_DIRECTORIES = ("bin", "sbin", "lib", "lib64")


class Archive:
    """Collects entries, then writes them once. Parent directories are added by themselves."""

    def __init__(self):
        self._entries = {}

    def directory(self, path, mode=0o755):
        self._add(path, stat.S_IFDIR | mode)

    def file(self, path, data, mode=0o644):
        """`data` is bytes, or an os.PathLike whose content is read when the archive is written."""
        self._add(path, stat.S_IFREG | mode, data)

    def symlink(self, path, target):
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path, major, minor, mode=0o600):
        self._add(path, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, source, path):
        """Adds the file, symlink or folder `source` of this machine at `path`."""
        info = os.lstat(source)
        if stat.S_ISLNK(info.st_mode):
            self.symlink(path, os.readlink(source))
        elif stat.S_ISREG(info.st_mode):
            self._add(path, info.st_mode, source)
        elif stat.S_ISDIR(info.st_mode):
            self.directory(path, stat.S_IMODE(info.st_mode))
            for name in sorted(os.listdir(source)):
                self.tree(os.path.join(source, name), f"{path}/{name}")

    def write(self, destination):
        """Writes the archive to an open binary file."""
        for inode, (path, (mode, data, device)) in enumerate(self._entries.items(), start=1):
            if not isinstance(data, bytes):
                with open(data, "rb") as source:
                    data = source.read()
            write_entry(destination, path, inode, mode, data, device)
        write_entry(destination, "TRAILER!!!", 0, 0, b"", (0, 0))

    def _add(self, path, mode, data=b"", device=(0, 0)):
        path = merged(path.strip("/"))
        parent = os.path.dirname(path)
        if parent and parent not in self._entries:
            self._add(parent, stat.S_IFDIR | 0o755)
        if stat.S_ISDIR(mode) and path in self._entries:
            return
        self._entries[path] = (mode, data, device)


def merged(path):
    """Debian's merged /usr: /bin, /sbin, /lib and /lib64 are links, so their content goes below usr/."""
    first, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and first in MERGED_DIRECTORIES else path


def write_entry(destination, path, inode, mode, data, device):
    name = path.encode() + b"\0"
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is {len(data)} bytes; a cpio archive holds files below 4 GiB")
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, device[0], device[1], len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    destination.write(head + b"\0" * (-len(head) % 4))
    destination.write(data)
    destination.write(b"\0" * (-len(data) % 4))
