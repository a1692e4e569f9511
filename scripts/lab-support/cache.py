"""What the lab keeps between runs, outside the tree, and who may change it.

Every artifact is built in a scratch folder and renamed into place, under one lock, so a killed or a second
lab never sees half of one. An artifact's name carries a digest of what it is made from: a changed recipe
builds a new one. What no lab used for UNUSED_S is deleted.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile
import time

from report import LabError, progress

LOCK_FILE = "lock"
DIGEST_CHARACTERS = 12
UNUSED_S = 14 * 24 * 3600


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
        with exclusive(self.folder / LOCK_FILE, "waiting for another lab that is filling the cache"):
            yield

    @contextlib.contextmanager
    def scratch(self):
        """A folder for one run. It is locked as long as the run lives, so that the next run can delete what a
        killed one left behind."""
        runs = self.folder / "runs"
        with self.locked():
            runs.mkdir(exist_ok=True)
            for old in runs.iterdir():
                sweep(old)
            folder = pathlib.Path(tempfile.mkdtemp(dir=runs))
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            os.close(held)

    def artifact(self, name, recipe, build):
        """The path of `name`; calls build(scratch path) when there is none made from `recipe`."""
        path = self._path(name, recipe)
        if path.exists():
            os.utime(path)
            return path
        made = self.folder / "building"
        remove(made)  # of a lab that was killed
        build(made)
        os.rename(made, path)
        os.utime(path)
        self._delete_unused()
        return path

    def slow_artifact(self, name, recipe, build):
        """The same for what takes minutes: others use the cache meanwhile, so the caller must not hold it locked.

        Calls build(path to make, folder for what is needed on the way).
        """
        path = self._path(name, recipe)
        with exclusive(self.folder / f"{name}.lock", f"waiting for another lab that is making {name}"):
            if not path.exists():
                with self.scratch() as scratch:
                    build(scratch / name, scratch)
                    os.rename(scratch / name, path)
            os.utime(path)
        return path

    def _path(self, name, recipe):
        digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:DIGEST_CHARACTERS]
        return self.folder / f"{name}-{digest}"

    def _delete_unused(self):
        # Not at once: another checkout of the project may have the older recipe and use the older artifact now.
        for path in self.folder.glob(f"*-{'[0-9a-f]' * DIGEST_CHARACTERS}"):
            if time.time() - path.stat().st_mtime > UNUSED_S:
                remove(path)


@contextlib.contextmanager
def exclusive(path, waiting):
    """Holds a lock file; says that it is `waiting` if another process does."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(folder):
    """Deletes the scratch folder of a run that is over; one that is held, or just gone, is left alone."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(held)


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
