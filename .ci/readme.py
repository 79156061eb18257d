#!/usr/bin/env python3
"""Runs the console blocks of README.md and compares their output with the output shown.

Numbers and keys may differ, a line of dots stands for any lines, and the lines of one block may come in any order
between two lines of dots, because its processes run concurrently. The test command is the one that the gate has run.
"""
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = "cargo test --workspace --all-features"


def blocks(text):
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        lines = block.splitlines()
        commands = [line[2:] for line in lines if line.startswith("$ ")]
        yield commands, [line for line in lines if not line.startswith("$ ")]


def pattern(line):
    """The pattern of a shown line: other keys and numbers are allowed."""
    parts = re.split(r"(\b[0-9a-f]{10}\b|\b[0-9a-f]{64}\b|\d+(?:\.\d+)?)", line)
    keys = {10: "[0-9a-f]{10}", 64: "[0-9a-f]{64}"}
    allowed = [
        re.escape(part) if at % 2 == 0 else keys.get(len(part), r"\d+(\.\d+)?")
        for at, part in enumerate(parts)
    ]
    # The width of a column may depend on its number.
    return re.compile(re.sub(r"(\\ )+", r"\\s+", "".join(allowed)) + r"\s*")


def check(commands, shown):
    script = "set -euo pipefail\n" + "\n".join(commands)
    with tempfile.TemporaryFile("w+") as out:
        # Its own session, so that the processes of a failed block are ended, too.
        run = subprocess.Popen(["bash", "-c", script], cwd=ROOT, stdout=out, start_new_session=True)
        try:
            code = run.wait(timeout=300)
        except subprocess.TimeoutExpired:
            code = "no end within 300 s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        out.seek(0)
        text = out.read()
    if code != 0:
        sys.exit(f"README.md: {commands} ended with {code}:\n{text}")
    printed = text.splitlines()
    has_dots = "..." in shown
    for line in shown:
        if line == "...":
            continue
        found = [at for at, got in enumerate(printed) if pattern(line).fullmatch(got)]
        if not found:
            sys.exit(f"README.md: {commands} did not print\n  {line}\nbut\n" + "\n".join(printed))
        del printed[found[0]]
    if printed and not has_dots:
        sys.exit(f"README.md: {commands} also printed\n" + "\n".join(printed))
    print(f"readme: {len(commands)} commands printed what is shown", flush=True)


def main():
    for commands, shown in blocks((ROOT / "README.md").read_text()):
        if commands == [TESTS]:
            if f"step tests {TESTS}\n" not in (ROOT / ".ci/run").read_text():
                sys.exit("README.md: .ci/run runs another test command")
            continue
        check(commands, shown)


main()
