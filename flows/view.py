"""What a person sees while a run works: a live line on a terminal, plain lines elsewhere, Prefect's log on a worker."""

import logging
import math
import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tasks.core.run import Outcome

PLAIN_INTERVAL_S = 15.0
FIGURES_SHOWN = {"loss": "loss {:.3f}", "tokens_per_second": "{:,.0f} tokens/s", "mfu": "MFU {:.0%}"}
FIGURES_WEIGHT = 0.05


class TerminalView(AbstractContextManager["TerminalView"]):
    """Rich output: finished stages scroll up, the one at work has a bar. Without a terminal, a line every 15 s."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, int] = {}
        self._figures = Figures()
        self._last_line = 0.0

    def __enter__(self) -> "TerminalView":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, node: str, action: str) -> None:
        self._tasks[node] = self._bars.add_task(f"{node:<18}", total=None, amount=action)
        self._last_line = time.monotonic()

    def said(self, node: str, message: str) -> None:
        self.console.print(Text(f"  {node:<18} {message}", style="dim"), soft_wrap=True)

    def measured(self, node: str, values: dict[str, float]) -> None:
        self._figures.add(node, values)

    def progressed(self, node: str, done: float, total: float, unit: str) -> None:
        amount = amount_of(done, total, unit) + self._figures.text(node)
        if node in self._tasks:
            self._bars.update(self._tasks[node], completed=done, total=total or None, amount=amount)  # type: ignore[arg-type]
        if not self.console.is_terminal and time.monotonic() - self._last_line > PLAIN_INTERVAL_S:
            self._last_line = time.monotonic()
            self.said(node, amount)

    def ended(self, outcome: Outcome) -> None:
        if outcome.node in self._tasks:
            self._bars.remove_task(self._tasks.pop(outcome.node))  # type: ignore[arg-type]
        mark = "[cyan]=[/]" if outcome.action in ("reused", "kept") else "[green]✓[/]"
        self.console.print(
            f"{mark} {outcome.node:<18} {outcome.action:<8} {outcome.seconds:7.1f} s  [dim]{outcome.digest[:12]}[/]",
            highlight=False,
        )


class LogView:
    """Lines in a logger: Prefect shows them at the run that a worker started."""

    def __init__(self, logger: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> None:
        self.logger = logger
        self._figures = Figures()
        self._last_line = 0.0

    def began(self, node: str, action: str) -> None:
        self.logger.info("%s: %s", node, action)

    def said(self, node: str, message: str) -> None:
        self.logger.info("%s: %s", node, message)

    def measured(self, node: str, values: dict[str, float]) -> None:
        self._figures.add(node, values)

    def progressed(self, node: str, done: float, total: float, unit: str) -> None:
        if time.monotonic() - self._last_line > PLAIN_INTERVAL_S:
            self._last_line = time.monotonic()
            self.logger.info("%s: %s%s", node, amount_of(done, total, unit), self._figures.text(node))

    def ended(self, outcome: Outcome) -> None:
        self.logger.info("%s: %s in %.1f s, %s", outcome.node, outcome.action, outcome.seconds, outcome.digest[:12])


class Figures:
    """What stages measure step by step, as means that forget (half of what they say is from the last 14 steps): single
    steps jump about."""

    def __init__(self) -> None:
        self._means: dict[str, dict[str, float]] = {}
        self._skipped: dict[str, int] = {}

    def add(self, node: str, values: dict[str, float]) -> None:
        """Take in the figures of one step; a loss that is no number is not shown."""
        means = self._means.setdefault(node, {})
        for name in FIGURES_SHOWN:
            if (value := values.get(name)) is not None and math.isfinite(value):
                means[name] = means[name] + FIGURES_WEIGHT * (value - means[name]) if name in means else value
        self._skipped[node] = self._skipped.get(node, 0) + int(values.get("skipped", 0))

    def text(self, node: str) -> str:
        """The figures of a stage, to be put behind how far it is; empty for one that measures nothing."""
        means, skipped = self._means.get(node, {}), self._skipped.get(node, 0)
        told = [form.format(means[name]) for name, form in FIGURES_SHOWN.items() if name in means]
        return "".join(f", {figure}" for figure in told + ([f"{skipped:,} steps skipped"] if skipped else []))


def amount_of(done: float, total: float, unit: str) -> str:
    """Progress in words; a total of 0 means that nobody knows it yet."""
    return f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"
