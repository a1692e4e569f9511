"""The user's terminal as the lab machine's second serial port, for --shell.

Bytes are passed on as they are; the key ESCAPE ends the machine, and the end of a piped stdin becomes Ctrl-D.
Does not know when the machine is ready to read (see session.py).
"""

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty

READ_BYTES = 4096
ESCAPE = b"\x1d"
ESCAPE_NAME = "Ctrl-]"
END_OF_INPUT = b"\x04"


def size():
    """(columns, rows) of the user's terminal."""
    return shutil.get_terminal_size()


@contextlib.contextmanager
def raw_mode():
    """Keys reach the machine one by one, Ctrl-C included; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        # Output stays as it is, so that the lab's own lines still begin at the left.
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)
        mode = termios.tcgetattr(sys.stdin)
        mode[tty.IFLAG] &= ~(termios.ICRNL | termios.IXON)
        mode[tty.LFLAG] &= ~termios.ISIG
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def forward_input(end):
    """Sends what the user types to the socket `end` from now on, in a thread that may wait for either."""
    threading.Thread(target=forward, args=(end,), daemon=True).start()


def forward(end):
    with contextlib.suppress(OSError):  # the machine is gone: the session says so
        while data := os.read(sys.stdin.fileno(), READ_BYTES):
            if ESCAPE in data and sys.stdin.isatty():
                os.kill(os.getpid(), signal.SIGINT)
            end.sendall(data)
        end.sendall(END_OF_INPUT)
