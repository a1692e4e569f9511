"""Where a run's results go on this machine: the folder LAB_OUT, its lock, and how the tar becomes files."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tarfile

from report import LabError, progress

LOCK_FILE = ".lab-lock"


@contextlib.contextmanager
def folder(root):
    """The folder of this run, held so that two runs never mix their results.

    The user's own LAB_OUT is used as it is. The default, target/lab-out, is emptied first, and a second
    run at the same time gets a folder of its own beside it.
    """
    named = os.environ.get("LAB_OUT")
    path = pathlib.Path(named) if named else root / "target" / "lab-out"
    with contextlib.ExitStack() as stack:
        if not hold(stack, path):
            if named:
                raise LabError(f"another lab is writing into LAB_OUT={path}: name another folder")
            path = path.with_name(f"lab-out-{os.getpid()}")
            progress(f"another lab is running: results go to {path}")
            hold(stack, path)
        if not named:
            empty(path)
        yield path


def hold(stack, path):
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(open(path / LOCK_FILE, "w"))
    except OSError as error:
        raise LabError(f"cannot write results into {path}: {error.strerror}; set LAB_OUT to another folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def empty(path):
    for entry in path.iterdir():
        if entry.name == LOCK_FILE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def extract(tar, path):
    """Files and folders of the results tar; a truncated tar (the machine died) gives what was complete."""
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                parts = pathlib.PurePosixPath(member.name).parts
                if ".." in parts or member.name.startswith("/"):
                    continue
                target = path.joinpath(*parts)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.extractfile(member) as source, open(target, "wb") as file:
                        shutil.copyfileobj(source, file)
                    target.chmod(member.mode & 0o777)
    except tarfile.ReadError as error:
        if pathlib.Path(tar).stat().st_size:
            progress(f"the results are incomplete: {error}")
