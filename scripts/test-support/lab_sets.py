"""Which tests run in which lab machine. Every set is one boot.

The lab emulates a machine that emulates a machine, and either dies now and then of the emulation. So the tests of a set that
failed run once more in a fresh lab machine, alone, and once again. A test that passes only then is not hidden: it is named in the summary.
"""

import dataclasses
import os
import pathlib
import re
import subprocess

import processor_time
from artifacts import ROOT, STAGE, TARGET, environment

MEMORY_RESERVE_MIB = 512
# Boots of one set, at most.
TRIES = 3
# scripts/lab's status after Ctrl-C.
INTERRUPTED = 130

# The kernel that scripts/lab builds itself.
OWN_KERNEL = "iommufd"
# What the other way to the IOMMU could change: who holds what, DMA both ways, interrupts, groups taken and given back.
IOMMUFD_TESTS = (
    "attempt::", "isolation::", "tables::", "user_who_owns_the_node", "fast_path::", "nvme_write", "manual::", "hostile::", "server_that_waited",
)

# Two serial cards in one IOMMU group (two functions of one slot), joined by a cable.
SERIAL_PAIR = (
    "--qemu-arg=-chardev", "--qemu-arg=socket,id=cable-a,path=bulkhead-cable-{machine},abstract=on,server=on,wait=off",
    "--qemu-arg=-chardev", "--qemu-arg=socket,id=cable-b,path=bulkhead-cable-{machine},abstract=on",
    "--qemu-arg=-chardev", "--qemu-arg=null,id=unused",
    "--device", "pci-serial,chardev=cable-a,addr=a.0,multifunction=on",
    "--device", "pci-serial-2x,chardev1=cable-b,chardev2=unused,addr=a.1",
)

# For the host commands: the serial cards, an NVMe controller with two virtual functions, a NIC with a driver in L1,
# and a maker of file systems.
HOST = (
    *SERIAL_PAIR,
    "--device", "nvme-subsys,id=subsystem", "--device", "pcie-root-port,id=sriov-port,chassis=1,addr=8",
    "--device", "nvme,serial=sriov,bus=sriov-port,subsys=subsystem,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=8,msix_qsize=8",
    "--copy-in", "/usr/sbin/mke2fs", "--device", "virtio-net-pci,addr=6,romfile=",
)


SERVICES = ("--init", "systemd", "--copy-in", "packaging")
# The silence of a reboot, with its units' end and start, is longer than others'.
REBOOTED = (*SERVICES, "--reboots", "1", "--still-timeout", "240")

# The manual's host: its device, 0000:1a:00.3, shares a group with the card's function 0 (bus 0x1a is behind a root port of a second root
# bus); a card with two virtual functions; systemd.
MANUAL_HOST = (
    "--init", "systemd", "--copy-in", "packaging", "--copy-in", "/usr/bin/curl",
    "--device", "pxb-pcie,id=manual,bus_nr=25,addr=7", "--device", "pcie-root-port,id=port-1a,bus=manual,chassis=26,addr=0",
    "--device", "nvme,serial=sibling,bus=port-1a,addr=0.0,multifunction=on", "--device", "nvme,serial=manual,bus=port-1a,addr=0.3",
    "--device", "nvme-subsys,id=subsystem", "--device", "pcie-root-port,id=sriov-port,chassis=1,bus=pcie.0,addr=8",
    "--device", "nvme,serial=sriov,bus=sriov-port,subsys=subsystem,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=8,msix_qsize=8",
)

# A SATA controller: MSI and no MSI-X. Its disk holds zeros.
MSI_CONTROLLER = (
    "--qemu-arg=-blockdev", "--qemu-arg=null-co,node-name=zeros,size=67108864,read-zeroes=on",
    "--device", "pcie-root-port,id=msi-port,chassis=9,addr=9", "--device", "ahci,id=msi,bus=msi-port",
    "--device", "ide-hd,drive=zeros,bus=msi.0",
)

# A card behind a root port, and a way to QEMU's monitor, which can put PCI Express errors into the port.
ERRORS = (
    "--qemu-arg=-chardev", "--qemu-arg=socket,id=monitor,path=bulkhead-monitor-{machine},abstract=on,server=on,wait=off",
    "--qemu-arg=-mon", "--qemu-arg=chardev=monitor,mode=readline",
    "--qemu-arg=-chardev", "--qemu-arg=socket,id=to-monitor,path=bulkhead-monitor-{machine},abstract=on",
    "--device", "virtserialport,bus=lab-ports.0,chardev=to-monitor,name=lab-monitor",
    "--device", "pcie-root-port,id=error-port,chassis=9,addr=9", "--device", "e1000e,bus=error-port,romfile=",
)

# For eight slots at once.
EIGHT_CONTROLLERS = tuple(
    word for number in range(8) for word in ("--device", f"nvme,serial=eight{number},bus=pcie.0,addr={0x10 + number:x}")
)

# Of tests/vfio_user: servers that break the rules are a matter of our programs alone, so this machine asks.
VFIO_USER_ELSEWHERE = (
    "refused::", "described::", "attached::", "answers::", "lost::", "interrupts::", "doorbells::", "message_dma::", "system_calls::",
)

# What crosses a plug or an unplug, and what is left after many.
CROSSINGS = ("races::", "recall::", "supervision::", "leaks::", "managed::")


@dataclasses.dataclass(frozen=True)
class LabSet:
    name: str
    kernel: str
    tests: tuple
    memory: int = 3072
    options: tuple = ()
    only: tuple = ()
    skip: tuple = ()
    timeout: int = 1200
    # Folders beside the test executables that go into the lab too.
    folders: tuple = ()
    # Only with --long: what other sets show already, on one more kernel.
    long: bool = False


SETS = (
    # Of vfio-user only the hostile guest.
    LabSet("kernel 6.1", "6.1", ("passthrough", "faults", "isolation", "vfio-user"), skip=("filter_of_every_thread", *VFIO_USER_ELSEWHERE)),
    # Logs, metrics, users, control groups and the rights of a user without privilege are asked of one kernel.
    LabSet("kernel 7", "7", ("passthrough",), skip=("confinement::", "telemetry::", "unprivileged::")),
    LabSet("iommufd", OWN_KERNEL, ("passthrough", "hotplug", "isolation", "vfio-user"), memory=2560, only=IOMMUFD_TESTS),
    LabSet("hotplug 6.1", "6.1", ("hotplug",), memory=2560, options=ERRORS, skip=("many::", "client::", *CROSSINGS)),
    LabSet("hotplug crossings", "6.1", ("hotplug",), memory=2560, only=CROSSINGS),
    # Ten times, about 25 s each where nothing else runs; scripts/soak does it 200 times.
    LabSet("hotplug slots", "6.1", ("hotplug",), memory=2560, options=EIGHT_CONTROLLERS, only=("many::",), timeout=2400),
    LabSet("hotplug 7", "7", ("hotplug",), memory=2560, only=("manual::",), timeout=600),
    LabSet("qmp client", "6.1", ("hotplug",), memory=2560, options=("--python",), only=("client::",), folders=("qmp_client",)),
    LabSet("groups", "6.1", ("groups",), memory=5120, options=(*SERIAL_PAIR, *MSI_CONTROLLER)),
    LabSet("host 6.1", "6.1", ("host",), memory=2048, options=HOST),
    LabSet("host 7", "7", ("host",), memory=2048, options=HOST, long=True),
    LabSet("services 6.1", "6.1", ("services",), memory=2560, options=SERVICES, skip=("reboot::", "iommufd::")),
    # What directives stop, and how systemd rates the units, is asked once: the systemd is the same, and what it sets up both kernels have.
    LabSet("services 7", "7", ("services",), memory=2560, options=SERVICES, only=("orders::", "tenants::", "hot_plug::")),
    LabSet("services iommufd", OWN_KERNEL, ("services",), memory=2560, options=SERVICES, only=("iommufd::",), timeout=600),
    LabSet("host reboot", "7", ("services",), memory=2560, options=REBOOTED, only=("reboot::",), timeout=600),
    LabSet("host reboot 6.1", "6.1", ("services",), memory=2560, options=REBOOTED, only=("reboot::",), timeout=600, long=True),
    LabSet("manual 6.1", "6.1", ("manual",), memory=2560, options=MANUAL_HOST, timeout=600),
    LabSet("manual 7", "7", ("manual",), memory=2560, options=MANUAL_HOST, timeout=600),
    LabSet("host without IOMMU", "6.1", ("host-without-iommu",), memory=2048, options=("--iommu", "none")),
)


def why_not(lab_set):
    """Why this machine cannot run the set, or None."""
    lost = [name for name in lab_set.folders if not (STAGE / name).exists()]
    if lost:
        return f"{', '.join(lost)} could not be made: see above"
    free = available_memory_mib()
    needed = lab_set.memory + MEMORY_RESERVE_MIB
    if free < needed:
        return f"needs {needed} MiB of free memory, and {free} are free"
    return None


def at_once():
    """How many lab machines the free memory is enough for."""
    return available_memory_mib() // (max(one.memory for one in SETS) + MEMORY_RESERVE_MIB)


def available_memory_mib():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0


def run(lab_set, name_filter):
    """Runs all tests of the set in one lab machine. Gives (ok, output, names of the tests that did not pass the first time)."""
    skips = [word for name in lab_set.skip for word in ("--skip", name)]
    only = [name_filter] if name_filter else list(lab_set.only)
    arguments, shown, late = [*only, *skips], "", ()
    for number in range(1, TRIES + 1):
        ok, output = boot(lab_set, arguments, f"-try-{number}" if number > 1 else "")
        if ok and number == 1 and only == list(lab_set.only) and not re.search(r"^test result: ok\. [1-9]", output, re.MULTILINE):
            return False, f"{output}=== lab: {lab_set.name}: no test has a name with {' or '.join(only)}\n", ()
        if ok or number == TRIES:
            return ok, shown + output, late
        failed = failures(lab_set, output)
        late = late or failed or ("the whole set",)
        output += f"=== lab: {lab_set.name}: once more in a fresh lab machine: {' '.join(failed) or 'all, since the machine died'}\n"
        # What failed is counted in the next run.
        shown += passed_only(output) if failed else uncounted(output)
        arguments = ["--exact", *failed] if failed else arguments


def failures(lab_set, output):
    """Names of the tests that failed; none where the output does not tell all of them, and all have to run again."""
    # Not the verdicts, which a test's own output may hide: the list that an executable ends with.
    names = [name for found in re.findall(r"^failures:\n((?:    \S+\n)+)", output, re.MULTILINE) for name in found.split()]
    # Where a machine died or an executable aborted, tests were never reached.
    counts = [int(count) for count in re.findall(r"^test result: \w+\. \d+ passed; (\d+) failed", output, re.MULTILINE)]
    return names if len(counts) == len(lab_set.tests) and sum(counts) == len(names) else []


def passed_only(output):
    """The output of a run of which the failures do not count."""
    return re.sub(r"(test result: )FAILED(\. \d+ passed; )\d+ failed", r"\1ok\g<2>0 failed", output)


def uncounted(output):
    """The output of a run that counts for nothing."""
    return re.sub(r"^test result: ", "(of a machine that died) test result: ", output, flags=re.MULTILINE)


def boot(lab_set, arguments, suffix):
    """Boots the lab once and runs the set's tests with these arguments. Gives (ok, output)."""
    # A test that fails does not keep the next executable from running.
    tests = " && ".join(f"run {name}" for name in lab_set.tests)
    script = f"status=0; run() {{ /lab/in/$1 --ignored --test-threads=1 {' '.join(arguments)} || status=1; }}; {tests}; exit $status"
    name = lab_set.name.replace(" ", "-")
    # Two machines at once share the host's abstract sockets.
    machine = f"{os.getpid()}-{name}"
    words = [
        "scripts/lab", "--kernel", lab_set.kernel, "--memory", str(lab_set.memory), "--timeout", str(lab_set.timeout),
        *(word.replace("{machine}", machine) for word in lab_set.options),
    ]
    for program in (*lab_set.tests, *lab_set.folders, "guest-probe"):
        words += ["--copy-in", str(STAGE / program)]
    words += ["--", "bash", "-c", script]
    results = TARGET / "lab-sets" / (name + suffix)
    results.mkdir(parents=True, exist_ok=True)
    done = processor_time.run(
        words, cwd=ROOT, env={**environment(), "LAB_OUT": str(results)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt  # not a failure that a second boot could mend
    return done.returncode == 0, done.stdout
