"""Where the lab's packages come from: Debian suites, through an apt state of its own.

The mirror and the keyring are those of this machine's own apt sources, read at run time; nothing is
written outside the folder given, and nothing is installed on this machine.
Does not decide what is done with a package (see kernels.py and contents.py).
Limits: every apt or dpkg call ends after APT_TIMEOUT_S.
"""

import os
import pathlib
import re
import subprocess
import sys

from report import LabError, progress

APT_TIMEOUT_S = 900
HOST_SOURCES = pathlib.Path("/etc/apt")
DEBIAN_KEYRINGS = (
    pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    pathlib.Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)


class Suite:
    """One Debian suite with private apt lists and cache below `folder`.

    A suite that adds to another, such as a backports suite, is named with that one behind it: "trixie-backports
    trixie". What both have comes from the first.
    """

    def __init__(self, name, folder):
        self.name = name
        self._preferred = name.split()[0] if " " in name else ""
        self._folder = pathlib.Path(folder)
        self._updated = False

    def closure(self, packages, follow):
        """`packages` and, transitively, those dependencies whose name matches the regex `follow`.

        Of alternatives the first is taken.
        """
        found, new = {}, set(packages)
        while new:
            found |= self._known(new)
            needed = {name for package in new for name in first_dependencies(found[package])}
            new = {name for name in needed if re.match(follow, name)} - found.keys()
        return sorted(found)

    def version(self, package):
        """Of the package that this suite would install."""
        return self._known([package])[package]["Version"]

    def of_version(self, pattern, version):
        """Packages whose name matches the regex `pattern` as a whole, of exactly this version."""
        self._update()
        names = [name for name in self._apt("apt-cache", "pkgnames").split() if re.fullmatch(pattern, name)]
        return sorted(name for name, fields in self._known(names).items() if fields["Version"] == version) if names else []

    def unpack(self, packages, destination):
        """Downloads `packages` and unpacks them into the folder `destination`."""
        debs = self._folder / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        for old in debs.glob("*.deb"):
            old.unlink()
        known = self._known(packages)
        size = sum(int(fields.get("Size", 0)) for fields in known.values())
        progress(f"downloading {len(known)} packages from {self.name}, {size >> 20} MiB")
        # apt draws its own progress on a terminal; elsewhere its line per package says too much.
        self._apt("apt-get", "download", *([] if sys.stderr.isatty() else ["-qq"]), *known, cwd=debs, show=True)
        for deb in sorted(debs.glob("*.deb")):
            run(["dpkg-deb", "--extract", deb, destination])
            deb.unlink()

    def _known(self, packages):
        """The metadata of each package: field name to value."""
        self._update()
        text = self._apt("apt-cache", "--no-all-versions", "show", *packages, check=False)
        found = {}
        for paragraph in text.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
            if "Package" in fields:
                found.setdefault(fields["Package"], fields)
        missing = set(packages) - found.keys()
        if missing:
            raise LabError(f"Debian suite {self.name} has no package {', '.join(sorted(missing))}; is the mirror complete?")
        return found

    def _update(self):
        if self._updated:
            return
        for name in ("state/lists/partial", "cache/archives/partial", "none"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        sources = self._folder / "lab.sources"
        sources.write_text(source_paragraph(self.name))
        progress(f"reading the package list of {self.name}")
        self._apt("apt-get", "update", "-q", "--error-on=any")
        self._updated = True

    def _apt(self, command, *arguments, cwd=None, show=False, check=True):
        folder = self._folder
        options = {
            "Dir::Etc::sourcelist": folder / "lab.sources",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": folder / "none",
            "Dir::Etc::preferencesparts": folder / "none",
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
            "APT::Default-Release": self._preferred if self._updated else "",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dpkg::Use-Pty": "0",
        }
        flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return run([command, *flags, *arguments], cwd=cwd, show=show, check=check)


def first_dependencies(fields):
    """Names that a package depends on; the first one where there are alternatives."""
    text = ", ".join(filter(None, (fields.get("Depends"), fields.get("Pre-Depends"))))
    return [re.split(r"[ (:|]", item.strip())[0] for item in text.split(",") if item.strip()]


def run(command, cwd=None, show=False, check=True):
    """Runs a command to its end; `show` sends its output to stderr as progress."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sys.stderr if show else subprocess.PIPE,
            stderr=None if show else subprocess.PIPE, text=True, timeout=APT_TIMEOUT_S, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is missing: the lab needs a Debian machine with apt and dpkg") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command[0]} did not end within {APT_TIMEOUT_S} s; is the Debian mirror reachable?") from error
    if check and done.returncode != 0:
        detail = (done.stderr or "").strip().splitlines()
        raise LabError(f"{' '.join(command[:1] + command[-1:])} failed: {' '.join(detail[-3:]) or 'see above'}")
    return done.stdout or ""


def source_paragraph(suite):
    """The deb822 text of a suite at this machine's own Debian mirror."""
    uris, signed_by = host_mirror()
    keyring = next((str(path) for path in DEBIAN_KEYRINGS if path.exists()), signed_by)
    lines = ["Types: deb", f"URIs: {uris}", f"Suites: {suite}", "Components: main", "Architectures: amd64"]
    if keyring:
        lines.append(f"Signed-By: {keyring}")
    return "\n".join(lines) + "\n"


def host_mirror():
    """(URIs, Signed-By) of the apt source that this machine takes its own Debian release from."""
    text = pathlib.Path("/etc/os-release").read_text()
    codename = re.search(r'^VERSION_CODENAME="?([a-z]+)', text, re.MULTILINE)
    accepted = {"stable", "oldstable", "testing", "unstable", "sid", codename[1] if codename else ""}
    for uris, suites, signed_by in [*deb822_sources(), *one_line_sources()]:
        if accepted & set(suites.split()):
            return uris, signed_by
    raise LabError("no apt source of this machine names a Debian release (looked in /etc/apt/sources.list*): add one")


def deb822_sources():
    for path in sorted((HOST_SOURCES / "sources.list.d").glob("*.sources")):
        text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*((?:.*)(?:\n[ \t]+.*)*)", paragraph, re.MULTILINE))
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").strip() != "no":
                if "main" in fields.get("Components", "").split():
                    yield fields.get("URIs", ""), fields.get("Suites", ""), fields.get("Signed-By", "")


def one_line_sources():
    for path in [HOST_SOURCES / "sources.list", *sorted((HOST_SOURCES / "sources.list.d").glob("*.list"))]:
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            entry = re.match(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<rest>.*)", line)
            if entry and "main" in entry["rest"].split():
                signed_by = re.search(r"signed-by=(\S+)", entry["options"] or "")
                yield entry["uri"], entry["suite"], signed_by[1] if signed_by else ""
