"""A reader who leaves ends the lines that are written, and not the work."""

import subprocess
import sys

from tests.conftest import PROJECT

CODE = """
import sys
from flows.terminal.console import Console
console = Console()
for number in range(20_000):
    console.print(f"line {number}")
print("worked to the end", file=sys.stderr)
"""


def test_head_ends_nothing() -> None:
    command = f"{sys.executable} -c '{CODE}' | head -1"
    done = subprocess.run(command, shell=True, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout == "line 0\n"
    assert "worked to the end" in done.stderr
    assert "Traceback" not in done.stderr
