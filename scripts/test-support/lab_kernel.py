"""The lab's own kernel is built where it is not cached, while the steps before the lab run."""

import subprocess
import tempfile

import processor_time
from artifacts import ROOT

# Below the other steps: it takes what they leave of the cores.
NICE = "10"


class KernelBuild:
    """A build that runs, or finds the kernel in the cache. `kernel` is what scripts/lab calls it."""

    def __init__(self, kernel):
        self._output = tempfile.TemporaryFile(mode="w+", errors="replace")
        words = ["nice", "-n", NICE, "scripts/lab", "--kernel", kernel, "--prepare"]
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output)

    def finish(self):
        """Waits for it and shows what it said; gives (ok, no output)."""
        status = processor_time.wait(self._process)
        self._output.seek(0)
        print(self._output.read(), end="", flush=True)
        return status == 0, ""

    def abandon(self):
        """Ends it: scripts/lab ends the compilers when it is asked to stop."""
        self._process.terminate()
        self._process.wait()
