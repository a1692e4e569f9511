"""systemd as process 1 of the lab machine, for what only a service manager shows.

It runs from the initramfs, as the lab's own init does, from the packages of the suite that the lab's tools come from. Its own
units run as Debian ships them, but for MASKED.
Does not say what runs in it: that is files/lab-session, as for the other init.
"""

import pathlib
import re

from contents import FILES
from cpio import Archive

PACKAGES = ("systemd", "udev", "kmod")
FOLLOW = r"(?!libperl|libc6$)(lib|zlib)"

# Nobody reads these in the lab, and the initramfs is in memory.
LEFT_OUT = r"usr/share/(doc|man|locale|bash-completion|zsh|lintian|bug|initramfs-tools|pkgconfig|polkit-1|perl5)/|(usr/)?lib/udev/hwdb|etc/(init\.d|kernel)/"

# What waits for a terminal, a network, or a D-Bus, or does what a first boot from a disk needs.
MASKED = (
    "getty.target", "getty@.service", "serial-getty@.service", "systemd-firstboot.service", "systemd-hwdb-update.service",
    "systemd-update-done.service", "systemd-logind.service", "systemd-networkd.service", "systemd-timesyncd.service",
    "systemd-ask-password-wall.path", "systemd-pstore.service", "dev-hugepages.mount", "proc-sys-fs-binfmt_misc.automount",
)

# Groups that Debian's packages make when they are installed, and that udev and the tools' own passwd do not know.
GROUPS = b"root:x:0:\nnogroup:x:65534:\nkvm:x:106:\ninput:x:107:\nrender:x:108:\nsgx:x:109:\n"

SESSION_UNIT = """\
[Unit]
Description=The session of scripts/lab
After=multi-user.target

[Service]
Type=exec
ExecStart=/lab/session
# What the command left running ends with the machine.
KillMode=process
LimitMEMLOCK=infinity
"""


def archive(root):
    """Archive of systemd below an unpacked `root`, set up to run the lab's session."""
    made = Archive()
    root = pathlib.Path(root)
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not re.match(LEFT_OUT, name) and (path.is_symlink() or not path.is_dir()):
            made.tree(path, name)
    made.tree(FILES / "lab-init-systemd", "init")
    made.file("etc/group", GROUPS)
    made.file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
    made.file("etc/os-release", b'ID=lab\nNAME=lab\nPRETTY_NAME="the lab machine"\n')
    units = "etc/systemd/system"
    for unit in MASKED:
        made.symlink(f"{units}/{unit}", "/dev/null")
    made.file(f"{units}/lab.service", SESSION_UNIT.encode())
    made.symlink(f"{units}/multi-user.target.wants/lab.service", "../lab.service")
    made.symlink("usr/lib/systemd/system-shutdown/lab-state", "/lab/state")
    made.symlink(f"{units}/default.target", "/usr/lib/systemd/system/multi-user.target")
    return made
