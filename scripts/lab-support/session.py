"""One run of the lab machine: start it, relay its output, hold its deadlines, and leave nothing behind.

Protocol with the machine's init (files/lab-session), on four virtio-serial ports that end here as socketpairs:
output bytes, error bytes, a tar of the results, and control lines ("READY", "EXIT status", "DONE", "ALIVE" from there,
"PING" and "STOP" to there).
Limits: see the constants; every wait ends at a deadline.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

import machine
import terminal
from report import LabError, progress

STOP_GRACE_S = 15  # between asking the machine to stop the command and killing the machine
RESULTS_GRACE_S = 60  # for copying the results after the command ended
MAX_CONTROL_BYTES = 4096
READ_BYTES = 1 << 16
PR_SET_PDEATHSIG = 1

FOREVER = float("inf")
LONGEST_WAIT_S = 3600  # the loop looks at its deadlines at least this often

# Emulation can lose a timer's interrupt, and a machine that has nothing else to wait for then stands still. A ping is an interrupt
# of its own, after which the lost one is delivered too; a machine that answers none for --still-timeout is given up.
PING_S = 5

EXIT_REFUSED = 2
EXIT_DIED = 125
EXIT_TIMEOUT = 124


class NotUp(LabError):
    """The machine ended before it ran the command, which can be tried again."""


class Session:
    """Start with `run`, which returns the command's exit status."""

    def __init__(self, options, results_path, qemu_log):
        self._options = options
        self._results_path = results_path
        self._qemu_log = qemu_log
        self._control = b""
        self._status = None
        self._ready = False
        self._reboots = 0
        self._ends = {}
        self._stopped = False
        self._next_ping = self._still = FOREVER
        self._deadline = time.monotonic() + options.boot_timeout
        self._end = time.monotonic() + options.timeout if options.timeout else FOREVER

    def run(self, command, environment, console_tail):
        """`command(port name -> fd)` is the machine's argv, `console_tail()` the last words of its kernel."""
        names = [*machine.PORTS, *([machine.TERMINAL] if self._options.shell else [])]
        pairs = {name: socket.socketpair() for name in names}
        self._ends = {name: pair[0] for name, pair in pairs.items()}
        there = {name: pair[1] for name, pair in pairs.items()}
        with open(self._results_path, "wb") as results, open(self._qemu_log, "wb") as log:
            fds = {name: end.fileno() for name, end in there.items()}
            process = self._start(command(fds), environment, list(fds.values()), log)
            try:
                for end in there.values():
                    end.close()
                with terminal.raw_mode() if self._options.shell else contextlib.nullcontext():
                    self._relay(process, results)
            finally:
                process.kill()
                process.wait()
                for end in self._ends.values():
                    end.close()
        return self._outcome(process, console_tail)

    def _start(self, argv, environment, fds, log):
        parent = os.getpid()
        libc = ctypes.CDLL(None, use_errno=True)

        def die_with_parent():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(EXIT_DIED)

        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, preexec_fn=die_with_parent,
            env={**os.environ, **environment}, start_new_session=True,
        )

    def _relay(self, process, results):
        """Moves bytes until the machine is gone or out of time."""
        with selectors.DefaultSelector() as selector:
            sinks = {
                "lab-control": self._on_control,
                "lab-out": lambda data: write_all(sys.stdout.fileno(), data),
                "lab-err": lambda data: write_all(sys.stderr.fileno(), data),
                "lab-results": results.write,
                machine.TERMINAL: lambda data: write_all(sys.stdout.fileno(), data),
            }
            for name, end in self._ends.items():
                selector.register(end, selectors.EVENT_READ, sinks[name])
            while selector.get_map():
                self._ping()
                left = min(self._deadline, self._end) - time.monotonic()
                if time.monotonic() >= self._still:
                    return
                if left <= 0:
                    if not self._out_of_time():
                        return
                    continue
                for key, _ in selector.select(min(left, self._next_ping - time.monotonic(), LONGEST_WAIT_S)):
                    try:
                        data = key.fileobj.recv(READ_BYTES)
                    except ConnectionResetError:
                        data = b""
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        try:
            process.wait(timeout=STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            progress("the machine closed its ports but did not end: killing it")

    def _ping(self):
        """Keeps a machine going that is up."""
        if time.monotonic() < self._next_ping:
            return
        self._next_ping = time.monotonic() + PING_S
        try:
            self._ends["lab-control"].send(b"PING\n", socket.MSG_DONTWAIT)
        except OSError:
            pass  # a machine that reads none of them is still, one that is gone is seen by the loop

    def _open_terminal(self):
        if self._options.shell:
            progress(f"this is its prompt; exit leaves it, {terminal.ESCAPE_NAME} ends it at once")
            terminal.forward_input(self._ends[machine.TERMINAL])

    def _on_control(self, data):
        self._control = (self._control + data)[-MAX_CONTROL_BYTES:]
        *lines, self._control = self._control.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "READY":
                self._on_ready()
            elif word == "ALIVE":
                self._still = time.monotonic() + self._options.still_timeout
            elif word == "EXIT" and rest.isdigit() and self._status is None:
                self._status = int(rest)
                self._still = FOREVER
                self._deadline = time.monotonic() + RESULTS_GRACE_S

    def _on_ready(self):
        """The machine is up, for the first time or after a reboot."""
        if self._ready:
            self._reboots += 1
            if self._reboots > self._options.reboots:
                raise LabError(f"the lab machine was rebooted more often than --reboots {self._options.reboots} allows", EXIT_DIED)
            progress("the lab machine is up again")
            return
        self._ready = True
        self._deadline = FOREVER
        progress("the lab machine is up")
        self._open_terminal()
        self._next_ping = time.monotonic()

    def _out_of_time(self):
        """A deadline passed: ask the command to stop once, the second time give up. True to go on."""
        if not self._ready or self._stopped or self._status is not None:
            return False
        progress(f"the command did not end within {self._options.timeout} s: stopping it")
        self._stopped = True
        self._end = FOREVER
        self._deadline = time.monotonic() + STOP_GRACE_S
        try:
            self._ends["lab-control"].sendall(b"STOP\n")
        except OSError:
            return False
        return True

    def _outcome(self, process, console_tail):
        if self._stopped:
            return EXIT_TIMEOUT
        if self._status is not None:
            return self._status
        if time.monotonic() >= self._still:
            raise LabError(f"the lab machine has stood still for {self._options.still_timeout} s{console_tail()}", EXIT_DIED)
        if not self._ready and time.monotonic() >= self._deadline:
            raise LabError(
                f"the lab machine was not up after {self._options.boot_timeout} s{console_tail()}", EXIT_TIMEOUT)
        if not self._ready and time.monotonic() >= self._end:
            raise LabError(f"the timeout of {self._options.timeout} s ended before the lab machine was up", EXIT_TIMEOUT)
        if process.returncode:
            status = EXIT_DIED if self._ready else EXIT_REFUSED
            raise LabError(f"QEMU ended with status {process.returncode}: {self._qemu_says()}", status)
        if not self._ready:
            raise NotUp(f"the lab machine ended before it was up{console_tail()}", EXIT_DIED)
        raise LabError(f"the lab machine ended while the command ran{console_tail()}", EXIT_DIED)

    def _qemu_says(self):
        """The last line of QEMU's stderr; its warnings about emulated CPU features are noise."""
        with open(self._qemu_log, errors="replace") as log:
            lines = [line.strip() for line in log if "warning: " not in line]
        return lines[-1] if lines else "it said nothing"


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]
