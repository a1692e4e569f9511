"""Steps side by side, each in a lane: a lab machine has one CPU and mostly one core's worth of work.

A step's output is shown when it ends, whole, so that the outputs of two do not mix.
"""

import concurrent.futures
import os


def count(most):
    """How many steps run at once: one per core, but not so many that a guest's deadlines pass for lack of a core."""
    return max(1, min(4, os.cpu_count() or 1, most))


def run(steps, at_once):
    """Runs (name, function) steps, the first ones first; yields (name, result) as they end. Ctrl-C begins no further one."""
    pool = concurrent.futures.ThreadPoolExecutor(at_once)
    try:
        started = {pool.submit(function): name for name, function in steps}
        for ended in concurrent.futures.as_completed(started):
            yield started[ended], ended.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
