#!/usr/bin/env python3
"""Fail if a module uses a sibling declared *above* it in its parent (lib.rs/mod.rs).

The order of `mod` lines is the layer order, most important first: a module may
use only modules declared below it. Text-based on purpose: no build, < 1 s.
"""
import pathlib, re, sys

MOD = re.compile(r"^(?:#\[cfg\((?P<cfg>[^\]]*)\)\]\s*)?(?:pub(?:\([^)]*\))? )?mod (?P<name>\w+);", re.M)
TEST = re.compile(r"^#\[cfg\(test\)\]\s*\n(?:#\[[^\n]*\n)*(?:pub(?:\([^)]*\))? )?mod \w+ \{.*", re.M | re.S)

def uses(text):
    text = TEST.sub("", text)                      # in-file tests may look anywhere
    text = re.sub(r"//[^\n]*", "", text)           # comments and docs are not edges
    found = set(re.findall(r"\bcrate::(\w+)", text))
    for block in re.findall(r"use crate::\{(.*?)\};", text, re.S):
        depth, word = 0, ""
        for ch in block + ",":
            depth += (ch == "{") - (ch == "}")
            if ch in ",:" and depth == 0:
                if word.strip(): found.add(word.strip())
                word = ""
            elif depth == 0: word += ch
    return found

def check(src):
    lib = src / "lib.rs"
    if not lib.exists(): lib = src / "main.rs"
    order = [m["name"] for m in MOD.finditer(lib.read_text()) if "test" not in (m["cfg"] or "")]
    rank, bad = {n: i for i, n in enumerate(order)}, []
    for f in sorted(src.rglob("*.rs")):
        top = f.relative_to(src).parts[0].removesuffix(".rs")
        if top not in rank or f.name == "tests.rs" or "tests" in f.parts: continue
        for u in sorted(uses(f.read_text(errors="replace")) & rank.keys() - {top}):
            if rank[u] < rank[top]: bad.append(f"{f}: `{top}` uses `{u}`, which is declared above it")
    return bad

bad = [line for arg in sys.argv[1:] for line in check(pathlib.Path(arg))]
print("\n".join(bad) or "layers ok")
sys.exit(bool(bad))
