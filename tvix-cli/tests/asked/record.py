#!/usr/bin/env python3
"""Records what nix-instantiate prints for the cases in cases.nix.txt, for tests/cli/asked.rs.

What is here is from C++ Nix 2.34.8, x86_64-linux. NIX_INSTANTIATE names the program, perhaps with
arguments. A case is a line that begins with "= ", with the program's arguments as words of a shell;
the lines before it, since the last line "---", are its expression. The lines that messages show of
C++ Nix's own file, derivation-internal.nix, are left out.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess

here = pathlib.Path(__file__).parent
program = shlex.split(os.environ.get("NIX_INSTANTIATE", "nix-instantiate"))


def cases():
    text = []
    for line in (here / "cases.nix.txt").read_text().splitlines():
        if line == "---":
            text = []
        elif line.startswith("= "):
            yield "\n".join(text), shlex.split(line[2:])
        else:
            text.append(line)


def without_internal_lines(lines):
    kept = []
    after_position = False
    for line in lines:
        if after_position and re.match(r"[ 0-9]*\|", line):
            continue
        after_position = re.fullmatch(r" *at «nix-internal»/.*:", line)
        kept.append(line)
    return kept


with open(here / "recorded.jsonl", "w") as out:
    for text, args in cases():
        readonly = [] if "--eval" in args else ["--dry-run"]
        command = [*program, *readonly, "-E", text, *args]
        env = {**os.environ, "NIX_PATH": ""}
        ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        told = [line for line in ran.stderr.splitlines() if "--add-root" not in line]
        told = without_internal_lines(told)
        case = [text, args, ran.stdout.splitlines(), "\n".join(told).rstrip()]
        out.write(json.dumps(case, ensure_ascii=False) + "\n")
