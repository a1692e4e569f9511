"""What the lab keeps between runs, outside the tree, and who may change it.

Every artifact is built in a scratch folder and renamed into place, under one lock, so a killed or a second
lab never sees half of one. An artifact's name carries a digest of what it is made from: a changed recipe
builds a new one and deletes the old.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile

from report import LabError, progress

LOCK_FILE = "lock"


class Cache:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"cannot create the cache {folder}: {error.strerror}; set XDG_CACHE_HOME") from error

    @contextlib.contextmanager
    def locked(self):
        """Holds the cache against other labs; the kernel releases it if this process dies."""
        with open(self.folder / LOCK_FILE, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another lab that is filling the cache")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def artifact(self, name, recipe, build):
        """The path of `name`; calls build(scratch path) when there is none made from `recipe`."""
        digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
        path = self.folder / f"{name}-{digest}"
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(prefix="building-", dir=self.folder) as scratch:
            made = pathlib.Path(scratch) / "made"
            build(made)
            for old in self.folder.glob(f"{name}-{'[0-9a-f]' * 12}"):
                remove(old)
            os.rename(made, path)
        return path


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
