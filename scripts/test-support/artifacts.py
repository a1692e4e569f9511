"""What the tests run with: release binaries, the guest's program, and the test executables for the lab."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import processor_time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
BINARIES = TARGET / "release"
STAGE = TARGET / "lab-stage"


def environment():
    """For commands that run or boot our binaries."""
    return {**os.environ, "BULKHEAD_BIN_DIR": str(BINARIES)}


def build():
    """The release binaries. Gives (ok, no output)."""
    words = ["cargo", "build", "--release", "--locked", "--package", "vmm", "--package", "device-server"]
    return processor_time.run(words, cwd=ROOT).returncode == 0, ""


def stage_tests():
    """Makes the folder STAGE: the test executables of the `tests` package under their own names, and the guest's program. Gives (ok, no output)."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    # The guest's program is linked statically, with the libraries of the tests and after them, which leave one of its name that is not.
    probe = ("rustc", "--bin", "guest-probe", "--", "-C", "target-feature=+crt-static", "-C", "opt-level=3", "-C", "strip=debuginfo")
    return stage("test", "test", "--no-run", "--tests") and stage("bin", *probe), ""


def stage(kind, command, *options):
    """Copies what cargo makes of the `tests` package, and is of this kind, into STAGE."""
    words = ["cargo", command, "--locked", "--quiet", "--package", "tests", "--message-format=json-render-diagnostics", *options]
    done = processor_time.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["executable"] and message["target"]["kind"] == [kind]:
            shutil.copy2(message["executable"], STAGE / message["target"]["name"])
    return done.returncode == 0


def stage_qmp_client():
    """Puts the official QMP client and what drives it beside the tests; gives why not, or None."""
    done = subprocess.run(["scripts/qmp-client", "--fetch"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode != 0:
        return (done.stderr.splitlines() or ["scripts/qmp-client --fetch failed"])[-1]
    folder = STAGE / "qmp_client"
    shutil.copytree(ROOT / "tests/qmp_client", folder)
    shutil.copytree(pathlib.Path(done.stdout.strip()) / "qemu", folder / "qemu")
    return None


def why_no_kvm():
    """Why no VM can run on this machine itself, or None."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


def why_not_root():
    """Why nothing can be tried that only root can give up, or None."""
    return None if os.geteuid() == 0 else "needs root"


def why_no_package():
    """Why no package can be built, installed in a chroot and purged on this machine, or None."""
    if os.environ.get("CARGO_TARGET_DIR"):
        return "CARGO_TARGET_DIR is set"
    lost = [tool for tool in ("dpkg-deb", "readelf", "strip", "debootstrap") if not shutil.which(tool)]
    if lost:
        return f"{', '.join(lost)}: not installed"
    return why_not_root()


def why_no_peer_qemu():
    """Why a QEMU with the vfio-user-pci client cannot be had, or None."""
    with tempfile.NamedTemporaryFile() as initrd:
        done = subprocess.run(["scripts/peer-qemu", initrd.name], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, end="", file=sys.stderr)
    return None if done.returncode == 0 else (done.stderr.splitlines() or ["scripts/peer-qemu failed"])[-1]
