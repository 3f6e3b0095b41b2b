"""What a person reads after a command: the night in figures, the plan, the services."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.nights.ledger import Ledger, Night, StageEntry, home_folder
from flows.terminal.printable import printable, shown
from tasks.core.artifact import Artifact, Reference
from tasks.core.journal import read_journal
from tasks.core.store import Store

if TYPE_CHECKING:
    from flows.plan import Step
    from flows.reference import Setting
    from flows.servers.services import Services

ACTION_STYLES = {"reuse": "cyan", "run": "yellow", "resume": "green", "depends": "magenta"}
REASONS_SHOWN = 4
EXPLAINED = 40
"""So many settings are printed with their meaning; of more the list is wanted."""
STATE_STYLES = {"done": "green", "failed": "red", "killed": "red", "running": "yellow"}


def night_summary(night: Night) -> RenderableType:
    """The figures of a night that ended well, where its time went, and where to look next."""
    home = home_folder()
    found = {entry.node: _artifact(home, entry) for entry in night.stages}
    seconds = sum(entry.seconds for entry in night.stages)
    reused = sum(entry.action == "reused" for entry in night.stages)
    lines: list[RenderableType] = [
        Text(""),
        _figures(found),
        Text(""),
        _times(night.stages),
        Text(""),
        _line(f"Night {night.id}: {len(night.stages)} stages in {seconds:.0f} s, {reused} of them reused."),
        *_places(found),
        _line("Browse    nightschool up, then Prefect's and MLflow's pages; nightschool down ends them"),
    ]
    return Group(*lines)


def _places(found: dict[str, Artifact]) -> Iterable[Text]:
    """Where the night's results lie."""
    if "report" in found:
        yield _line(f"Report    {_from_here(found['report'].path / 'report.html')}")
    if "export" in found:
        yield _line(f"Model     {_from_here(found['export'].path)}  (opens with transformers)")
    for node in ("images", "interactions"):
        if node in found:
            yield _line(f"Shards    {_from_here(found[node].path)}  (open with datasets)")


def _line(text: str, style: str = "") -> Text:
    """A line that is never broken: paths are there to be copied."""
    return Text(printable(text), style, no_wrap=True, overflow="ignore")


def _from_here(path: Path) -> str:
    """As short as it can be typed from the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _artifact(home: Path, entry: StageEntry) -> Artifact:
    return Store(home).get(Reference(stage=entry.stage, digest=entry.digest))


def _figures(found: dict[str, Artifact]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for label, figure, note in figures(found):
        table.add_row(*map(shown, (label, figure, note)))
    return table


def figures(found: dict[str, Artifact]) -> Iterable[tuple[str, str, str]]:
    """Rows of label, figure and remark, from the metrics that the stages returned."""
    metrics = {node: artifact.metrics for node, artifact in found.items()}
    if "ingest" not in metrics:  # images and interactions: what their stage counted
        for counts in metrics.values():
            yield from ((name.replace("_", " "), f"{count:,}", "") for name, count in counts.items())
        return
    ingest, whole, evaluation = metrics["ingest"], metrics["report"], metrics["evaluate"]
    judges = [node for node in ("filter", "deduplicate", "decontaminate") if node in metrics]
    yield (
        "documents in",
        f"{ingest['documents']:,}",
        f"{ingest['bytes'] / 1e6:,.1f} MB, {ingest['rejects']:,} unreadable",
    )
    for judge in judges:
        dropped = {
            name.removeprefix("dropped_"): n for name, n in metrics[judge].items() if name.startswith("dropped_")
        }
        by_reason = sorted(dropped.items(), key=lambda item: -item[1])
        told = [f"{reason.replace('_', ' ')} {count:,}" for reason, count in by_reason[:REASONS_SHOWN] if count]
        others = sum(count for _, count in by_reason[REASONS_SHOWN:])
        note = ", ".join(told + ([f"others {others:,}"] if others else []))
        yield f"dropped by {judge}", f"{sum(dropped.values()):,}", note
    yield "documents kept", f"{metrics[judges[-1]]['kept']:,}", ""
    if whole["partitions"] > 1:
        yield "corpus", f"{whole['documents']:,}", f"documents of {whole['partitions']:,} nights"
    yield "tokens", f"{whole['train_tokens']:,}", f"and {whole['heldout_tokens']:,} held out"
    (measure,) = {"bits_per_byte", "bits_per_hidden_token"} & set(evaluation)
    yield (
        measure.replace("_", " "),
        f"{evaluation[f'{measure}_before']:.3f} -> {evaluation[measure]:.3f}",
        "on held-out documents, before and after pre-training",
    )
    skipped, rollbacks = (int(metrics["pretrain"][name]) for name in ("skipped_steps", "rollbacks"))
    if skipped or rollbacks:
        note = f"{skipped:,} steps skipped, {rollbacks:,} rollbacks; the report names them"
        yield "incidents", f"{skipped + rollbacks:,}", note
    if "finetune" in metrics:
        for node, label in (
            ("finetune", "pre-trained"),
            ("finetune-scratch", "from scratch"),
            ("baseline", "TF-IDF + regression"),
        ):
            own = metrics[node]
            yield (
                f"accuracy, {label}",
                f"{own['accuracy']:.1%}",
                f"95 % interval {own['accuracy_low']:.1%} to {own['accuracy_high']:.1%}",
            )


def _times(stages: list[StageEntry]) -> Table:
    total = sum(entry.seconds for entry in stages) or 1.0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    for entry in stages:
        table.add_row(shown(entry.node), f"{entry.seconds:.1f} s", "█" * round(40 * entry.seconds / total))
    return table


def plan_table(steps: "list[Step]") -> Table:
    """A line a stage: what would happen, and why; below it the settings that rules would derive."""
    table = Table("stage", "would", "because", box=None, header_style="bold", pad_edge=False)
    for step in steps:
        table.add_row(shown(step.node), shown(step.action, ACTION_STYLES[step.action]), shown("; ".join(step.why)))
        for sentence in step.derived:
            table.add_row("", "", shown(sentence, "dim"))
    return table


def settings_table(settings: "list[Setting]") -> RenderableType:
    """A line a key, with its meaning below it where there are few."""
    lines: list[RenderableType] = []
    for one in settings:
        default = f", default {one.default}" if one.default else "" if one.is_block else ", must be given"
        values = printable(f"{one.values}{default}".strip(", "))
        lines.append(Text.assemble((printable(one.key), "bold"), "  ", (values, "dim")))
        if len(settings) <= EXPLAINED:
            note = "" if one.decides or one.is_block else " It changes no byte by itself and reruns nothing."
            lines.append(Padding(shown(one.meaning + note), (0, 0, 0, 4)))
    return Group(*lines)


def services_table(services: "Services") -> RenderableType:
    """The parts of `up` with their addresses and logs, two lines each."""
    lines = []
    for part in services.parts:
        where = services.pages.get(part.name, "runs what a schedule starts")
        lines.append(_line(f"{part.name:8}  {where}"))
        lines.append(_line(f"          process {part.pid}, log {_from_here(Path(part.log))}", "dim"))
    return Group(*lines)


def up_table(services: "Services", link: str) -> RenderableType:
    """The parts of `up`, the link that lets a browser in, and the line that lets a shell's commands in."""
    return Group(
        services_table(services),
        Text(),
        _line(f"Browser   {link}"),
        _line("          opens both pages; it works once, within ten minutes, and `up` prints another", "dim"),
        _line(f"Shell     . {shlex.quote(str(services.clients_file))}"),
        _line("          lets `prefect` and `mlflow` commands in", "dim"),
    )


def status_table(home: Path, services: "Services | None", nights: list[Night]) -> RenderableType:
    """The services, and the last nights with what they are doing or how they ended."""
    table = Table("night", "recipe", "state", "stages", "at", box=None, header_style="bold", pad_edge=False)
    for night in nights:
        at = night.error or night.ended or _position(home, night)
        state = shown(night.state, STATE_STYLES[night.state])
        table.add_row(shown(night.id), shown(night.recipe), state, str(len(night.stages) or ""), shown(at))
    parts = services_table(services) if services else Text("no services are running; `nightschool up` starts them")
    return Group(parts, Text(""), table if nights else Text("no nights yet; `nightschool quickstart` runs the first"))


def _position(home: Path, night: Night) -> str:
    """What a running night last reported: its stage, and the step of a stage that counts steps."""
    last, step = "", 0
    for record in read_journal(Ledger(home).journal_path(night)):
        if record.kind == "start" and record.node:
            last, step = record.node, 0
        elif record.kind == "metrics" and record.node == last:
            step = record.payload["step"]
    return f"{last} step {step:,}" if step else last
