#!/usr/bin/env python3
"""Fail on files that are too long, on unsafe code outside the listed files, on forbidden
file names, and on paths in the docs that do not exist.

- every tracked .rs file: at most MAX_LINES lines; constant tables are exempted by name in EXEMPT;
- `#![expect(unsafe_code` stands only in the files that docs/architecture.md lists between
  `<!-- unsafe: begin -->` and `<!-- unsafe: end -->`, and every listed file exists;
- no file or module is called util, common, base, helpers, misc, types or manager;
- every `path` in backticks in README.md and docs/ that looks like a path of this repository exists.
Text-based on purpose: no build, under a second.
"""
import pathlib
import re
import subprocess
import sys

MAX_LINES = 400
EXEMPT = {}  # path -> reason; constant tables only
FORBIDDEN = {"util", "utils", "common", "base", "helpers", "misc", "types", "manager"}
TOP_LEVEL = ("vmm/", "device-server/", "protocol/", "sandbox/", "telemetry/", "tests/", "docs/", "scripts/", ".ci/", "packaging/")
# Named in the docs before they exist in a checkout: build output and cache folders.
GENERATED = ("target/",)


def tracked(*patterns):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [pathlib.Path(line) for line in listing.splitlines() if pathlib.Path(line).is_file()]


def check_sizes(sources):
    for path in sources:
        lines = path.read_text(errors="replace").count("\n")
        if lines > MAX_LINES and str(path) not in EXEMPT:
            yield f"{path}: {lines} lines, more than {MAX_LINES}: split it by the question it answers"


def check_names(sources):
    for path in sources:
        for part in path.with_suffix("").parts:
            if part in FORBIDDEN:
                yield f"{path}: name the thing it holds instead of `{part}`"


def check_unsafe(sources):
    architecture = pathlib.Path("docs/architecture.md")
    text = architecture.read_text() if architecture.exists() else ""
    block = re.search(r"<!-- unsafe: begin -->(.*?)<!-- unsafe: end -->", text, re.S)
    listed = set(re.findall(r"`([^`\n]+\.rs)`", block[1])) if block else set()
    found = {str(p) for p in sources if re.search(r"#!?\[(expect|allow)\(\s*unsafe_code", p.read_text(errors="replace"))}
    for path in sorted(found - listed):
        yield f"{path}: opts in to unsafe code but is not on the list in {architecture}"
    for path in sorted(listed - found):
        yield f"{architecture}: lists {path} as unsafe, but it has no unsafe code"


def check_doc_paths(documents):
    for document in documents:
        for name in re.findall(r"`([\w./{},-]+)`", document.read_text(errors="replace")):
            if not name.startswith(TOP_LEVEL) or name.startswith(GENERATED) or "{" in name:
                continue
            if not pathlib.Path(name).exists():
                yield f"{document}: names `{name}`, which does not exist"


def main():
    sources = tracked("*.rs")
    documents = tracked("README.md", "CHANGELOG.md", "docs/*.md", "docs/**/*.md")
    problems = [*check_sizes(sources), *check_names(sources), *check_unsafe(sources), *check_doc_paths(documents)]
    print("\n".join(problems) or f"files ok ({len(sources)} sources, {len(documents)} documents)")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
