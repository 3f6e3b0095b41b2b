"""Does pre-training pay? Accuracy with few labels, pre-trained against from scratch against TF-IDF, over several seeds.

    uv run nightschool quickstart
    uv run python -m tests.benchmarks.label_efficiency

Takes the model and the labelled examples of the last finished quickstart. Each seed draws its own labels and fresh
weights, for both twins alike, so the margin is a paired difference; its 95 % interval is Student's t over the
seeds. Exits with 1 unless every margin's interval lies above zero.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from flows.nights.ledger import Ledger, home_folder
from flows.recipe import TextRecipe, load_recipe
from tasks.core.artifact import Artifact, Reference
from tasks.core.stage import StageLog
from tasks.core.store import Store
from tasks.judging.baseline import BaselineSettings, baseline
from tasks.training.finetune import FinetuneSettings, finetune


def last_quickstart(home: Path) -> dict[str, Artifact]:
    """The artifacts of the newest quickstart that ended well, by node."""
    nights = [night for night in Ledger(home).nights() if (night.recipe, night.state) == ("quickstart", "done")]
    if not nights:
        sys.exit(f"no finished quickstart in {home}; run `nightschool quickstart` first")
    store = Store(home)
    return {stage.node: store.get(Reference(stage=stage.stage, digest=stage.digest)) for stage in nights[-1].stages}


def accuracy(found: dict[str, Artifact], settings: FinetuneSettings) -> float:
    """Train once, in a folder of its own, and judge on all test examples."""
    with tempfile.TemporaryDirectory() as folder:
        out, work = Path(folder, "out"), Path(folder, "work")
        out.mkdir()
        work.mkdir()
        arguments = (found["examples"], found["tokenizer"], found["pretrain"])
        return finetune(*arguments, settings, out, work, StageLog())["accuracy"]


def classic_accuracy(found: dict[str, Artifact], labels: int, seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        settings = BaselineSettings(labels=labels, seed=seed)
        return baseline(found["examples"], settings, Path(folder), StageLog())["accuracy"]


def margin(before: list[float], after: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of the paired differences."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.fmean(differences), float(student.ppf(0.975, len(differences) - 1)) * error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[120, 240, 480])
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    found = last_quickstart(home_folder())
    recipe = load_recipe(Path("quickstart"))
    assert isinstance(recipe, TextRecipe) and recipe.finetune is not None
    base = recipe.finetune.training
    console = Console()
    table = Table("labels", "pre-trained", "from scratch", "margin", "TF-IDF", box=None)
    beaten = True
    for labels in chosen.labels:
        rows: dict[str, list[float]] = {"pretrained": [], "scratch": [], "classic": []}
        for seed in range(chosen.seeds):
            for start in ("pretrained", "scratch"):
                settings = base.model_copy(update={"labels": labels, "seed": seed, "start": start})
                rows[start].append(accuracy(found, settings))
            rows["classic"].append(classic_accuracy(found, labels, seed))
            console.print(labels, seed, {name: round(values[-1], 3) for name, values in rows.items()}, style="dim")
        mean, half = margin(rows["scratch"], rows["pretrained"])
        beaten &= mean - half > 0
        means = {name: f"{statistics.fmean(values):.1%}" for name, values in rows.items()}
        interval = f"{mean:+.1%} ± {half:.1%}"
        table.add_row(str(labels), means["pretrained"], means["scratch"], interval, means["classic"])
    console.print(table)
    sys.exit(0 if beaten else 1)


if __name__ == "__main__":
    main()
