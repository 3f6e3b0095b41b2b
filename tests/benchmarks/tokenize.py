"""Parquet to training-ready shards, against datatrove, litdata and `datasets`: same text, same tokenizer, same ids.

    python -m tests.benchmarks.tokenize

The text is 150 MB of books, reviews and documentation in ../shared/data, in files of 32 MB; the tokenizer a byte-level
BPE of 32,768 tokens, trained once. Peers get two worker processes each, since the figures are for two cores; they
encode with `tokenizers` in batches. Exits with 1 where a goal is missed or a side's ids differ.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from tasks.core.artifact import Artifact
from tasks.core.stage import StageLog
from tasks.corpus.documents import BATCH_BYTES, documents_file, write_documents
from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
from tasks.tokens.pieces import END_OF_TEXT
from tests.benchmarks.sides import Side, compare, environment

PROJECT = Path(__file__).resolve().parents[2]
DATA = PROJECT.parent / "shared" / "data"
PEERS = Path(__file__).parent / "peers"
TEXTS = ("classic_books", "peps", "fastapi_docs_multilang", "hf_course_multilang", "tldr")

REQUIREMENTS = {
    "datatrove": ["datatrove[io,processing]==0.10.1", "tokenizers==0.23.3", "pyarrow==25.0.1"],
    "litdata": ["litdata==0.2.76", "tokenizers==0.23.3", "pyarrow==25.0.1"],
    "datasets": ["datasets==5.2.0", "tokenizers==0.23.3"],
}


@dataclass(frozen=True)
class Goal:
    """How many times less than a peer our side must need."""

    peer: str
    figure: str
    unit: str
    scale: float
    times: float


GOALS = (
    Goal("datatrove", "wall_s", "s", 1, 8),
    Goal("litdata", "wall_s", "s", 1, 10),
    Goal("datasets", "wall_s", "s", 1, 10),
    Goal("datatrove", "peak_bytes", "MB", 1e6, 5),
)


def prepare(folder: Path) -> None:
    """Write documents/documents-*.parquet and tokenizer/."""
    frames = [pl.read_parquet(DATA / "text" / f"{name}.parquet", columns=["path", "text"]) for name in TEXTS]
    reviews = pl.read_parquet(DATA / "classify" / "imdb_train.parquet", columns=["id", "text"])
    frames.append(reviews.select(pl.col("id").cast(pl.String).alias("path"), "text"))
    documents = pl.concat(
        frame.select(doc_id=f"{name}/" + pl.col("path"), text="text", source=pl.lit(name))
        for name, frame in zip((*TEXTS, "imdb"), frames, strict=True)
    )
    # With peers a text that spells the end out, as a course on language models does, ends itself: ids would differ.
    documents = documents.with_columns(pl.col("text").str.replace_all(END_OF_TEXT, "<end of text>", literal=True))
    (folder / "documents").mkdir()
    (folder / "tokenizer").mkdir()
    sizes = documents["text"].str.len_bytes()
    parts = documents.with_columns(part=sizes.cum_sum() // BATCH_BYTES).partition_by(
        "part", maintain_order=True, include_key=False
    )
    for number, part in enumerate(parts):
        write_documents(part, folder / "documents" / documents_file(number))
    settings = TokenizerSettings(vocabulary=32_768, heldout=0)
    corpus = Artifact("documents", "", folder / "documents")
    tokenizer(corpus, settings, folder / "tokenizer", StageLog())
    print(
        f"{documents.height:,} documents, {sizes.to_numpy().sum() / 1e6:.0f} MB of text, {len(parts)} files",
        file=sys.stderr,
    )


def sides(folder: Path) -> dict[str, Side]:
    """Every side writes into a folder of its own, which it empties before it starts."""
    made = {}
    for name in ("nightschool", *REQUIREMENTS):
        python = sys.executable if name == "nightschool" else environment(f"tokenize-{name}", REQUIREMENTS[name])
        variables = {"PYTHONPATH": str(PROJECT)} if name == "nightschool" else {"PYTHONPATH": ""}
        made[name] = Side(name, command(python, "run", name, folder), variables)
    return made


def command(python: str, mode: str, name: str, folder: Path) -> Sequence[str]:
    script = str(PEERS / f"tokenize_{name}.py")
    return (python, script, mode, str(folder / "documents"), str(folder / "tokenizer"), str(folder / name))


def sums(side: Side, folder: Path) -> dict[str, int]:
    """Documents, tokens and the order-free sum of ids that a side's last run left."""
    asked = command(side.command[0], "sums", side.name, folder)
    variables = {**os.environ, **side.variables}
    return json.loads(subprocess.run(asked, env=variables, check=True, capture_output=True).stdout)


def main(rounds: int) -> int:
    if not DATA.is_dir():
        print("skipped: the optional data folder ../shared/data is not here")
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        competitors = sides(folder)
        for _ in range(rounds):
            for side in competitors.values():
                shutil.rmtree(folder / side.name, ignore_errors=True)
            compare(list(competitors.values()), rounds=1)
        found = {name: sums(side, folder) for name, side in competitors.items()}
    ours = competitors["nightschool"]
    table = Table("what", "measured", "against", "goal", "met", title="Parquet to training-ready shards")
    missed = 0
    for goal in GOALS:
        own, other = ours.median(goal.figure), competitors[goal.peer].median(goal.figure)
        met = other >= goal.times * own
        missed += not met
        figures = [f"{value / goal.scale:,.1f} {goal.unit}" for value in (own, other)]
        against = f"{goal.peer}: {figures[1]} = {other / own:.1f} times"
        table.add_row(
            goal.figure.partition("_")[0], figures[0], against, f"{goal.times:g} times", "yes" if met else "NO"
        )
    for name, sum_ in found.items():
        equal = sum_ == found["nightschool"]
        missed += not equal
        table.add_row("ids", f"{sum_['tokens']:,} tokens", name, "equal", "yes" if equal else "NO")
    Console().print(table)
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    sys.exit(main(parser.parse_args().rounds))
