#!/usr/bin/env python3
"""Records which machines Nix reads from texts: its build hook lists them if none of them fits.

    make-machines.py PROGRAM... > machines/VERSION.json

PROGRAM is the hook: `nix __build-remote` of Nix 2.34.
Columns that the hook does not print (URI, keys, speed) show in whether it accepts them.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile

CASES = [
    "host",
    "ssh://host x86_64-linux",
    "ssh-ng://me@host a,b,,c /key 4 2 kvm,big-parallel benchmark",
    "ssh-ng://host - - - - - -",
    "host - - 0",
    "host a - 3\nother b - 5 ; third c - 7",
    "  host\ta - 3  \r\n\n",
    "# host a - 3\nother # b",
    "host a # c ; other b",
    "host a;;; ;other b;",
    "@FILE",
    "@FILE ; host a\n@ FILE",
    "@/does/not/exist",
    "host a - x",
    "host a - -1",
    "host a - +2",
    "host a - 4294967296",
    "host a - 1 2.5",
    "host a - 1 0",
    "host a - 1 0.0",
    "host a - 1 -1",
    "host a - 1 x",
    "host a - 1 1e2",
    "host a - 1 1 - - ???",
    "host a - 1 1 - - c3NoLWVkMjU1MTkgQUFBQQ==",
    "- a",
    "host a - 1 1 f m c3NoLWVkMjU1MTkgQUFBQQ== more words",
]

FILE = "infile x - 9\n# nothing\n"


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data + b"\0" * (-len(data) % 8)


def ask(program, directory, builders):
    number = lambda value: struct.pack("<Q", value)
    settings = {"builders": builders, "store": directory + "/root", "experimental-features": "nix-command"}
    data = b"".join(number(1) + text(k) + text(v) for k, v in settings.items()) + number(0)
    drv = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv"
    data += text("try") + number(0) + text("no-such-system") + text(drv) + number(0)
    env = {"PATH": os.environ["PATH"], "HOME": directory, "NIX_CONF_DIR": directory}
    done = subprocess.run(program + ["3"], input=data, capture_output=True, env=env)
    log = re.sub(r"\\u001b\[[0-9;]*m|\x1b\[[0-9;]*m", "", done.stderr.decode(errors="replace"))
    if "decline-permanently" in log:
        return []
    lines = log.replace("\\n", "\n")
    found = re.findall(r"^\(\[(.*?)\], (\d+), \[(.*?)\], \[(.*?)\]\)", lines, re.M)
    if not found:
        return None
    words = lambda value: sorted(word for word in value.split(", ") if word)
    return [
        {"systems": words(s), "maxJobs": int(j), "features": words(f), "mandatoryFeatures": words(m)}
        for s, j, f, m in found
    ]


def main():
    results = []
    with tempfile.TemporaryDirectory() as directory:
        file = directory + "/machines"
        with open(file, "w") as out:
            out.write(FILE)
        for case in CASES:
            machines = ask(sys.argv[1:], directory, case.replace("FILE", file))
            results.append({"text": case, "machines": machines})
    json.dump({"file": FILE, "cases": results}, sys.stdout, indent=1)
    print()


main()
