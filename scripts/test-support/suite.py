"""Runs every test: the checks beside the build, then the tests of this machine beside those of the lab, one boot per lab machine.

The parts are in scripts/test-support: artifacts (what is built), lab_sets (which tests run in which lab machine), lanes
(what runs beside each other), lab_kernel (the kernel that is built meanwhile), processor_time (what a step costs). Prints what each step prints, then one line per step and a summary line. Exits with 1 if any step failed.
A step that this machine cannot run is skipped, and the summary says why; a skipped step is not a passed one.
"""

import argparse
import functools
import re
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import artifacts
import lab_sets
import lanes
import processor_time
from artifacts import ROOT
from lab_kernel import KernelBuild

FUZZ_SECONDS = "4"
# What is compiled at once: of either, half the time one crate waits for another.
BUILDS = 2
DEVICE_SERVER = "device server"
DEMO = "demo"
# The steps that take longest where three run at once, by time on two cores: begun last, one of them would run alone at the end.
LONGEST = (
    "tests", "lab: kernel 6.1", "lab: hotplug crossings", "lab: hotplug 6.1", "lab: iommufd", "lab: kernel 7", "lab: demo", "lab: services 6.1", "lab: services 7",
    "lab: manual 7", "fuzz", "lab: device server", "package", "lab: manual 6.1", "lab: hotplug slots", "lab: host reboot", "lab script", "bad vfio-user servers",
)
# Status of a script that cannot run on this machine.
CANNOT = 77


def main():
    options = parse()
    if not chosen(options) and options.filter not in DEVICE_SERVER and options.filter not in DEMO:
        sys.exit(f"scripts/test: no lab machine has \"{options.filter}\" in its name; --help names them")
    report = Report()
    own_kernel = KernelBuild(lab_sets.OWN_KERNEL) if wants_own_kernel(options) else None
    try:
        return run(options, report, own_kernel)
    finally:
        if own_kernel:
            own_kernel.abandon()


def run(options, report, own_kernel):
    # cargo keeps what is checked and what is built apart, so neither waits for the other.
    check = [] if options.skip_check else [("check", functools.partial(quietly, "scripts/check"), None)]
    report.side_by_side([*check, ("build", artifacts.build, None), ("test executables", artifacts.stage_tests, None)], BUILDS)
    if report.failed:
        return report.end()
    if own_kernel:
        report.step("lab kernel", own_kernel.finish)
    report.side_by_side(longest_first(steps(options)), lanes.count(lab_sets.at_once()))
    return report.end()


def chosen(options):
    return [one for one in lab_sets.SETS if options.filter in one.name and (options.long or not one.long)]


def wants_own_kernel(options):
    return options.filter in DEVICE_SERVER or any(one.kernel == lab_sets.OWN_KERNEL for one in chosen(options))


def parse():
    made = argparse.ArgumentParser(prog="scripts/test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--skip-check", action="store_true", help="leave scripts/check out")
    made.add_argument("--lab-only", action="store_true", help="only the tests that run in the lab")
    made.add_argument("--long", action="store_true", help="the lab machines that repeat others on one more kernel, too")
    made.add_argument("--filter", default="", metavar="WORD", help="only lab machines whose name has WORD: " + ", ".join(one.name for one in lab_sets.SETS))
    made.add_argument("--test", default="", metavar="NAME", help="in the lab, only tests whose name has NAME")
    return made.parse_args()


def longest_first(of):
    return sorted(of, key=lambda step: LONGEST.index(step[0]) if step[0] in LONGEST else len(LONGEST))


def steps(options):
    """What may run beside each other: (name, function or None, why it cannot run)."""
    no_package = artifacts.stage_qmp_client()
    for lab_set in chosen(options):
        yield f"lab: {lab_set.name}", functools.partial(lab_sets.run, lab_set, options.test), lab_sets.why_not(lab_set)
    if options.filter in DEMO and not options.test:
        yield f"lab: {DEMO}", functools.partial(in_labs, "scripts/demo"), None
    if options.filter in DEVICE_SERVER:
        # These start their own lab machines, from this one.
        words = ("cargo", "test", "--locked", "--quiet", "--package", "device-server", "--test", "vfio_lab", options.test, "--", "--ignored", "--test-threads=1")
        yield f"lab: {DEVICE_SERVER}", functools.partial(in_labs, *filter(None, words)), None
    if not options.lab_only:
        no_kvm = artifacts.why_no_kvm()
        yield "tests", functools.partial(quietly, *"cargo test --workspace --locked --quiet --no-fail-fast".split()), None
        yield "fuzz", functools.partial(quietly, "scripts/fuzz", "--seconds", FUZZ_SECONDS), None
        yield "peer: QEMU's vfio-user client", functools.partial(ignored_tests, "interop"), artifacts.why_no_peer_qemu()
        yield "kvm", kvm_tests, no_kvm
        yield "isolation", functools.partial(ignored_tests, "isolation"), artifacts.why_not_root()
        yield "bad vfio-user servers", functools.partial(ignored_tests, "vfio-user"), no_kvm
        yield "peer: QEMU's class of a QMP error", functools.partial(ignored_tests, "qmp", "same_class_from_qemu"), artifacts.why_no_peer_qemu()
        yield "qmp", functools.partial(ignored_tests, "qmp", "--skip", "same_class_from_qemu"), no_kvm
        yield "qmp: the official client", functools.partial(quietly, "scripts/qmp-client", str(artifacts.BINARIES)), no_kvm or no_package
        yield "package", package, artifacts.why_no_package()
        yield "lab script", functools.partial(ignored_tests, "lab"), None


def quietly(*words):
    """Runs a command; gives (ok, its output)."""
    done = processor_time.run(words, cwd=ROOT, env=artifacts.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode == 0, done.stdout


def in_labs(*words):
    """Runs a command that starts lab machines itself, and once more where it fails, as tests of a set are."""
    ok, output = quietly(*words)
    if ok:
        return ok, output
    ok, again = quietly(*words)
    return ok, f"{lab_sets.uncounted(output)}=== once more: {' '.join(words)}\n{again}", ("the whole step",)


def kvm_tests():
    """The unit tests that need /dev/kvm."""
    ok, output = quietly(*"cargo test --workspace --locked --quiet --lib -- --ignored kvm:: vfio_user::".split())
    found = re.search(r"^test result: ok\. [1-9]", output, re.MULTILINE)
    return ok and bool(found), output if found else f"{output}no test of the names was found\n"


def package():
    """Builds the package and tries it; ok is None where only the trial shows that this machine cannot do it."""
    ok, output = quietly("scripts/package")
    if not ok:
        return ok, output
    done = processor_time.run(["scripts/package-test"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return None if done.returncode == CANNOT else done.returncode == 0, output + done.stdout


def ignored_tests(name, *arguments):
    """Runs what `cargo test` leaves out of one of the test executables: it needs more than a build."""
    return quietly("cargo", "test", "--package", "tests", "--locked", "--quiet", "--test", name, "--", "--ignored", "--test-threads=1", *arguments)


def timed(run):
    """Of a step: its result, behind the time that passed and the processor time of its commands."""
    def timing():
        started = time.monotonic()
        processor_time.begin()
        result = run()
        return (time.monotonic() - started, processor_time.taken()), result
    return timing


class Report:
    """What was run so far."""

    def __init__(self):
        self.failed = False
        self._lines = []
        self._passed = self._failures = self._skipped = 0
        self._started = time.monotonic()

    def step(self, name, run):
        print(f"=== {name}", flush=True)
        self._add(name, *timed(run)())

    def side_by_side(self, steps, at_once):
        """Runs, so many at once, those steps that can be run, and says of the others why not."""
        for name, _, reason in steps:
            if reason:
                self._skipped += 1
                self._lines.append(f"skip  {name}: {reason}")
                print(f"=== {name}: skipped: {reason}", flush=True)
        print(f"=== {at_once} at a time; what a step says is shown when it ends", flush=True)
        for name, (times, result) in lanes.run([(name, timed(run)) for name, run, reason in steps if not reason], at_once):
            print(f"=== {name}\n{result[1]}", end="", flush=True)
            self._add(name, times, result)

    def _add(self, name, times, result):
        ok, output, *again = result
        if ok is None:
            self._skipped += 1
            self._lines.append(f"skip  {name}: {(output.splitlines() or ['?'])[-1]}")
            return
        counts = [tuple(map(int, found)) for found in re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed", output, re.MULTILINE)]
        passed, failures = sum(count[0] for count in counts), sum(count[1] for count in counts)
        self._passed += passed
        self._failures += failures
        self.failed |= not ok
        tests = f", {passed} passed, {failures} failed" if counts else ""
        second = f"; not the first time: {' '.join(again[0])}" if ok and again and again[0] else ""
        line = f"{'ok  ' if ok else 'FAIL'}  {name}: {times[0]:.0f} s, {times[1]:.0f} s of processor time{tests}{second}"
        self._lines.append(line)
        print(line, flush=True)

    def end(self):
        print("=== summary")
        print("\n".join(self._lines))
        if not self._passed:
            print("no test was run")
            self.failed = True
        verdict = "FAILED" if self.failed else "ok"
        seconds = time.monotonic() - self._started
        print(f"test {verdict}: {self._passed} tests passed, {self._failures} failed, {self._skipped} steps skipped, {seconds:.0f} s")
        return int(self.failed)


if __name__ == "__main__":
    sys.exit(main())
