"""Steps side by side, each in a lane: a lab machine has one CPU, and waits for a third of its time.

A step's output is shown when it ends, whole, so that the outputs of two do not mix.
"""

import concurrent.futures
import os


def count(most):
    """How many steps run at once: three for two cores, but not so many that a guest's deadlines pass for lack of a core."""
    cores = os.cpu_count() or 1
    return max(1, min(4, cores + cores // 2, most))


def run(steps, at_once):
    """Runs (name, function) steps, the first ones first; yields (name, result) as they end. Ctrl-C begins no further one."""
    pool = concurrent.futures.ThreadPoolExecutor(at_once)
    try:
        started = {pool.submit(function): name for name, function in steps}
        for ended in concurrent.futures.as_completed(started):
            yield started[ended], ended.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
