"""How much processor time a step's commands take: beside other steps the time that passes says little about a step's cost."""

import os
import subprocess
import threading

_thread = threading.local()


def run(words, **options):
    """As subprocess.run without `check`, with what is read from its stdout; the command's processor time counts for this thread's step."""
    with subprocess.Popen(words, **options) as process:
        output = process.stdout.read() if process.stdout else None
        return subprocess.CompletedProcess(words, wait(process), output)


def wait(process):
    """Waits for the end of a process whose output was read; gives its status."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    _thread.seconds = getattr(_thread, "seconds", 0.0) + usage.ru_utime + usage.ru_stime
    return process.returncode


def begin():
    _thread.seconds = 0.0


def taken():
    """Seconds since this thread's `begin`."""
    return _thread.seconds
