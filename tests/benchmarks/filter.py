"""Four rule sets together against datatrove's same four, on the same Parquet: CPU time of whole processes.

    python -m tests.benchmarks.filter

The corpus is a fixed sample of reviews, proposals, documentation in many languages, books and web pages. Decisions are
compared with the slow reference in the tests, and, for information, with datatrove's, whose words are not ours: it
counts punctuation as words (proposals), and lines of white space as lines that repeat (books). A
first run of ours is not counted: it compiles the kernels, once a machine. Exits with 1 where a goal is missed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from tasks.core.artifact import Artifact
from tasks.corpus.documents import DocumentWriter, read_documents
from tests.benchmarks.peers.filter_nightschool import SETTINGS
from tests.benchmarks.sides import Side, compare, environment, run_side
from tests.conftest import SHARED_DATA
from tests.tasks.quality.quality_reference import judged

PEERS = Path(__file__).parent / "peers"
DATATROVE = ["datatrove[processing,io]==0.10.1", "spacy==3.8.18"]
LESS_CPU, EQUAL = 20.0, 0.995
LONGEST = 40_000  # characters: a book is cut there
SAMPLE = 1500
PARTS = {
    "classify/imdb_train.parquet": 0.4,
    "text/peps.parquet": 0.2,
    "text/fastapi_docs_multilang.parquet": 0.1,
    "text/hf_course_multilang.parquet": 0.1,
    "text/classic_books.parquet": 0.1,
    "text/kafka_docs_html.parquet": 0.1,
}
"""Shares of the corpus."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=float, default=16)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    if not SHARED_DATA.is_dir():
        print(f"skipped: the optional data folder {SHARED_DATA} is not here")
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        corpus = home / "corpus"
        corpus.mkdir()
        size = write_corpus(corpus, chosen.megabytes * 1e6)
        ours = Side(
            "nightschool",
            [sys.executable, "-m", "tests.benchmarks.peers.filter_nightschool", str(corpus), str(home / "ours")],
        )
        datatrove = Side(
            "datatrove",
            [
                environment("filter-datatrove", DATATROVE),
                str(PEERS / "filter_datatrove.py"),
                str(corpus),
                str(home / "datatrove"),
            ],
        )
        run_side(ours)
        compare([ours, datatrove], chosen.rounds)
        sys.exit(_report(home, size / 1e6, ours, datatrove))


def write_corpus(folder: Path, size: float) -> int:
    """Write about `size` bytes of documents, every k-th row of each part; how many bytes."""
    writer = DocumentWriter(folder)
    written = 0
    for name, share in PARTS.items():
        texts = pl.read_parquet(SHARED_DATA / name, columns=["text"])["text"].str.slice(0, LONGEST)
        step = max(1, int(texts.str.len_bytes().to_numpy().sum() / (size * share)))
        for number, text in enumerate(texts.gather_every(step)):
            writer.add(f"{name}/{number}", text, name)
            written += len(text.encode())
    writer.flush()
    return written


def _report(home: Path, megabytes: float, ours: Side, datatrove: Side) -> int:
    texts = pl.concat(read_documents(Artifact.of("corpus", home / "corpus")))
    verdicts = pl.concat([pl.read_parquet(path) for path in sorted((home / "ours" / "files").glob("verdicts-*"))])
    sample = range(0, len(texts), max(1, len(texts) // SAMPLE))
    same = [verdicts["reason"][index] == judged(texts["text"][index], SETTINGS)[0] for index in sample]
    theirs = verdicts["doc_id"].is_in(json.loads((home / "datatrove" / "kept.json").read_text()))
    equal = ((verdicts["verdict"] == "kept") == theirs).to_numpy().mean()
    rows = [
        ("times less CPU", datatrove.median("cpu_s") / ours.median("cpu_s"), "datatrove, whole processes", LESS_CPU),
        ("equal verdicts", sum(same) / len(same), f"slow reference, reasons of {len(same):,} documents", EQUAL),
    ]
    table = Table("what", "measured", "against", "goal", "met", title=f"Four rule sets, {megabytes:.1f} MB of text")
    for what, measured, against, goal in rows:
        table.add_row(what, f"{measured:.4g}", against, f"at least {goal}", "yes" if measured >= goal else "NO")
    table.add_row("equal keep or drop", f"{equal:.3f}", f"datatrove, {len(texts):,} documents", "", "")
    for side in (ours, datatrove):
        cpu = side.median("cpu_s")
        figures = f"{cpu:.1f} s CPU, {side.median('wall_s'):.1f} s, {side.median('peak_bytes') / 1e6:.0f} MB"
        table.add_row(
            side.name, figures, f"{cpu / megabytes * 1e3:.0f} ms CPU a MB, {side.facts['kept']:,} kept", "", ""
        )
    Console().print(table)
    by_part = verdicts.with_columns(texts["source"], theirs=theirs, ours=pl.col("verdict") == "kept")
    shares = by_part.group_by("source", maintain_order=True).agg(
        pl.len(),
        pl.col("ours").mean(),
        pl.col("theirs").mean(),
        (pl.col("ours") == pl.col("theirs")).mean().alias("same"),
    )
    parts = Table("part", "documents", "kept by ours", "by datatrove", "equal", title="Decisions")
    for source, count, kept, kept_theirs, alike in shares.iter_rows():
        parts.add_row(source, f"{count:,}", f"{kept:.1%}", f"{kept_theirs:.1%}", f"{alike:.1%}")
    Console().print(parts)
    return int(any(measured < goal for _, measured, _, goal in rows))


if __name__ == "__main__":
    main()
