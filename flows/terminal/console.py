"""The terminal as Rich writes to it, but for a reader who leaves: `| head -1` ends the lines and not the night."""

import os
import sys

from rich.console import Console as RichConsole


class Console(RichConsole):
    """A console that falls silent when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Go on without output; Rich would end the program."""
        self.quiet = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, (sys.stderr if self.stderr else sys.stdout).fileno())
