"""What the lab tells the person in front of it: progress lines and errors, on stderr."""

import sys
import time

STARTED = time.monotonic()


class LabError(Exception):
    """A reason to stop, in one line that says what to do. The lab exits with `status`."""

    def __init__(self, message, status=2):
        super().__init__(message)
        self.status = status


def progress(message):
    print(f"lab [{time.monotonic() - STARTED:5.1f} s] {message}", file=sys.stderr, flush=True)
