"""Steps side by side, each in a lane: a lab machine has one CPU and mostly one core's worth of work.

A step's output is shown when it ends, whole, so that the outputs of two do not mix.
"""

import concurrent.futures
import os


def count():
    """How many steps run at once: one per core, but not so many that a guest's deadlines pass for lack of a core."""
    return max(1, min(4, os.cpu_count() or 1))


def run(steps):
    """Runs (name, function) steps, the first ones first; yields (name, result) as they end."""
    with concurrent.futures.ThreadPoolExecutor(count()) as pool:
        started = {pool.submit(function): name for name, function in steps}
        for ended in concurrent.futures.as_completed(started):
            yield started[ended], ended.result()
