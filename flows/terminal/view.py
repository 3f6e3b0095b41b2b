"""What a person sees while a run works: a live line on a terminal, plain lines elsewhere, Prefect's log on a worker."""

import logging
import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from flows.terminal.printable import printable, shown
from tasks.core.run import StageOutcome, View

PLAIN_INTERVAL_S = 15.0


class TerminalView(AbstractContextManager["TerminalView"]):
    """Rich output: finished stages scroll up, the one at work has a bar. Without a terminal, a line every 15 s."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", style="dim", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, int] = {}
        self._last_line = 0.0

    def __enter__(self) -> "TerminalView":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, node: str, action: str) -> None:
        """Give the stage a bar, which a terminal shows until the stage ends."""
        self._tasks[node] = self._bars.add_task(printable(f"{node:<18}"), total=None, amount=action)
        self._last_line = time.monotonic()

    def said(self, node: str, message: str) -> None:
        """Print a message above the bars, dimmed, under the stage's name."""
        self.console.print(shown(f"  {node:<18} {message}", "dim"), soft_wrap=True)

    def progressed(self, node: str, done: float, total: float, unit: str) -> None:
        """Move the stage's bar; without a terminal, print a line every 15 s at most."""
        amount = printable(amount_of(done, total, unit))
        if node in self._tasks:
            self._bars.update(self._tasks[node], completed=done, total=total or None, amount=amount)  # type: ignore[arg-type]
        if not self.console.is_terminal and time.monotonic() - self._last_line > PLAIN_INTERVAL_S:
            self._last_line = time.monotonic()
            self.said(node, amount)

    def ended(self, outcome: StageOutcome) -> None:
        """Replace the stage's bar by a line that stays: what was done, in how many seconds, and the digest."""
        if outcome.node in self._tasks:
            self._bars.remove_task(self._tasks.pop(outcome.node))  # type: ignore[arg-type]
        mark = ("=", "cyan") if outcome.action in ("reused", "kept") else ("✓", "green")
        took = printable(f" {outcome.node:<18} {outcome.action:<8} {outcome.seconds:7.1f} s  ")
        self.console.print(Text.assemble(mark, took, (printable(outcome.digest[:12]), "dim")), soft_wrap=True)


class LogView:
    """Lines in a logger: Prefect shows them at the run that a worker started."""

    def __init__(self, logger: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> None:
        self.logger = logger
        self._last_line = 0.0

    def began(self, node: str, action: str) -> None:
        """Log that the stage begins, and how."""
        self.said(node, action)

    def said(self, node: str, message: str) -> None:
        """Log a message under the stage's name."""
        self.logger.info("%s", printable(f"{node}: {message}"))

    def progressed(self, node: str, done: float, total: float, unit: str) -> None:
        """Log how far the stage is, every 15 s at most."""
        if time.monotonic() - self._last_line > PLAIN_INTERVAL_S:
            self._last_line = time.monotonic()
            self.said(node, amount_of(done, total, unit))

    def ended(self, outcome: StageOutcome) -> None:
        """Log what was done, in how many seconds, and the start of the digest."""
        self.said(outcome.node, f"{outcome.action} in {outcome.seconds:.1f} s, {outcome.digest[:12]}")


class Views:
    """Several at once: a night that a person watches on a terminal also stands, line by line, at its run in Prefect."""

    def __init__(self, *views: View) -> None:
        self.views = views

    def began(self, node: str, action: str) -> None:
        """Tell every view that the stage begins."""
        for view in self.views:
            view.began(node, action)

    def said(self, node: str, message: str) -> None:
        """Pass a message on to every view."""
        for view in self.views:
            view.said(node, message)

    def progressed(self, node: str, done: float, total: float, unit: str) -> None:
        """Tell every view how far the stage is."""
        for view in self.views:
            view.progressed(node, done, total, unit)

    def ended(self, outcome: StageOutcome) -> None:
        """Tell every view how the stage ended."""
        for view in self.views:
            view.ended(outcome)


def amount_of(done: float, total: float, unit: str) -> str:
    """Progress in words; a total of 0 means that nobody knows it yet."""
    return f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"
