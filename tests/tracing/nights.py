"""Runs tiny nights of every kind of data, family and objective in this process, and says what each stage's key holds.

    python -m tests.tracing.nights HOME sample|whole

Prints, for every node of every night, its stage and the symbols that its key names, as a JSON object. Whoever starts it
puts tests/tracing on PYTHONPATH (sitecustomize.py observes). The sample trains nothing: two nights of text up to its
tokens, one of pictures, one of interactions.
"""

import gzip
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image

from tasks.core.artifact import Artifact, Request
from tasks.core.stage import StageCall, context
from tasks.tokens.pieces import SPECIALS, learn
from tests.plain import PlainRun
from tests.prose import english_sentences

Values = dict[str, Any]
Row = dict[str, str]

COLUMNS = {"text": "body", "source": "site"}
TRAINED: Values = {
    "layers": 1,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "context_length": 32,
    "batch": 4,
    "tokens": 4 * 32 * 6,
    "learning_rate": 0.01,
    "machine": {"precision": "float32"},
}
WORDS: Values = {"vocabulary": 300, "sample_megabytes": 0.02, "heldout": 0.3}
JUDGED: Values = {"documents": 10, "sample_tokens": 3, "prompts": ["The"]}
FEW_HASHES: Values = {"bands": 4, "rows": 2}
"""Kernels run as plain Python, and each shingle is hashed so many times."""
MASKABLE = "Write to someone@nightly.org or call 202-555-0143 from 8.8.40.4 about the whole of this [12]."


class Night(NamedTuple):
    """One night to run."""

    name: str
    """Its own: two nights of one recipe differ in it."""
    recipe: Values
    end: str = ""
    """The stage before which it ends; none: it runs to its end."""


class Enough(Exception):
    """The night has come to the stage before which it is to end."""


class TracedRun(PlainRun):
    """Tells the observer which node's function runs, and keeps what its key holds."""

    def __init__(self, home: Path, night: Night) -> None:
        super().__init__(home)
        self.night = night
        self.keys: dict[str, tuple[str, list[str]]] = {}

    def call(self, call: StageCall) -> Artifact:
        if call.stage.name == self.night.end:
            raise Enough
        return super().call(call)

    def _obtain(self, call: StageCall, request: Request, log: Any) -> tuple[str, Artifact]:
        import sitecustomize

        name = f"{self.night.name}/{call.node}"
        self.keys[name] = (call.stage.name, sorted(request.code))
        sitecustomize.begin(name)
        try:
            return super()._obtain(call, request, log)
        finally:
            sitecustomize.begin("")


def nights(folder: Path, whole: bool) -> Iterator[Night]:
    """Nights in the order in which they are to be run; the files that one reads are written when it is asked for."""
    texts, rows = folder / "texts", _rows(130, 4)
    _write(texts, rows[:90], {"a.jsonl", "b.parquet", "page.html", "note.txt"})
    _write(folder / "archive", rows[:1], {"a.warc"})
    (folder / "quiz.jsonl").write_text(json.dumps({"text": "one two three four five six seven eight nine"}) + "\n")
    corpus: Values = {
        "ingest": {
            "sources": [
                {"kind": "files", "name": "prose", "paths": [str(texts)], "columns": COLUMNS},
                {"kind": "files", "name": "archive", "paths": [str(folder / "archive")]},
            ]
        },
        "filter": {"gopher_quality": {"min_words": 20}, "gopher_repetition": None, "language": {"allowed": ["en"]}},
        "deduplicate": FEW_HASHES,
        "evaluate": JUDGED,
    }
    causal = {
        "name": "causal",
        **corpus,
        "tokenizer": WORDS,
        "decontaminate": {"sets": {"quiz": {"path": str(folder / "quiz.jsonl")}}},
        "pretrain": {**TRAINED, "document_mask": True},
        "finetune": {
            "examples": {"classes": 2, "pool": 20, "test": 8, "context_length": 32},
            "training": {"labels": 12, "epochs": 1},
        },
    }
    yield Night("causal", causal, "" if whole else "pretrain")
    _write(texts, [*rows[90:], *rows[:3]], {"c.csv", "d.jsonl.gz", "more.md"})
    yield Night("second", causal, "examples" if whole else "pretrain")
    pictures = [{"name": "p", "paths": [str(_pictures(folder / "pictures"))]}]
    yield Night("pictures", {"name": "pictures", "images": {"sources": pictures, "size": 8}})
    events = {"sources": _events(folder / "events"), "min_items": 1, "min_users": 1}
    yield Night("events", {"name": "events", "interactions": events})
    if whole:
        yield from _more_nights(folder, corpus)


def _more_nights(folder: Path, corpus: Values) -> Iterator[Night]:
    """Those that train what the first ones do not."""
    masked = {
        "name": "masked",
        **corpus,
        "tokenizer": {**WORDS, "kind": "wordpiece"},
        "pretrain": {**TRAINED, "objective": "masked_token", "algorithm": "muon"},
    }
    yield Night("masked", masked)
    continued = {
        "name": "continued",
        **corpus,
        "tokenizer": {"heldout": 0.3},
        "pretrain": {
            "start": str(foreign_model(folder / "gpt2")),
            **{name: TRAINED[name] for name in ("context_length", "batch", "tokens", "learning_rate", "machine")},
        },
    }
    yield Night("continued", continued)
    strict = {
        "name": "strict",
        "ingest": {"sources": _sources(folder / "sources")},
        "filter": {
            "language": {"allowed": ["en"]},
            "gopher_quality": {"min_words": 20},
            "gopher_repetition": {},
            "c4": {},
            "fineweb": {},
            "mask": {"phones": True},
        },
        "deduplicate": FEW_HASHES,
        "tokenizer": {**WORDS, "kind": "unigram", "vocabulary": 400},
        "pretrain": {
            **TRAINED,
            "tied": False,
            "accumulate": 2,
            "mixture": {"pages": 1, "saved": 2},
            "checkpoint_every": 2,
            "milestone_every": 2,
            "spike_deviations": None,
            "machine": {},
        },
        "evaluate": JUDGED,
    }
    yield Night("strict", strict)
    installed = {"kind": "python-docs", "packages": ["yaml"]}
    yield Night("documentation", {"name": "documentation", "ingest": {"sources": [installed]}}, "filter")


def _rows(count: int, length: int) -> list[Row]:
    """English documents of `length` sentences, of two sources; the last one is the first again, the one before nearly
    the second."""
    sentences = english_sentences()
    chance = random.Random(0)
    rows = [
        {"body": "\n".join(chance.sample(sentences, length)), "site": ("one", "two")[number % 2]}
        for number in range(count)
    ]
    return [*rows[:-2], {**rows[1], "body": rows[1]["body"].replace("The", "A", 1)}, rows[0]]


def _write(folder: Path, rows: list[Row], names: set[str]) -> None:
    """Files that hold the rows between them, each in the format that its name says."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(sorted(names)):
        path, mine = folder / name, rows[number :: len(names)]
        text = mine[0]["body"]
        page = f"<html><body><p>{text}</p></body></html>".encode()
        lines = "".join(json.dumps(row) + "\n" for row in mine).encode()
        match "".join(path.suffixes):
            case ".jsonl":
                path.write_bytes(lines)
            case ".jsonl.gz":
                path.write_bytes(gzip.compress(lines))
            case ".parquet":
                pl.DataFrame(mine).write_parquet(path)
            case ".csv":
                pl.DataFrame(mine).write_csv(path)
            case ".html":
                path.write_bytes(page)
            case ".warc":
                path.write_bytes(_record(page))
            case _:
                path.write_text(text)


def _record(page: bytes) -> bytes:
    """A web page as an archive has it."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    return head.encode() + answer + b"\r\n\r\n"


def _sources(folder: Path) -> list[Values]:
    """Pages in a table and behind a URL, and a data set as `datasets` saves one."""
    import fsspec

    rows = [{**row, "body": f"{row['body']}\n{MASKABLE}"} for row in _rows(50, 6)]
    pages = [
        {"body": "".join(f"<p>{line}</p>" for line in row["body"].splitlines()), "site": "pages"} for row in rows[:15]
    ]
    _write(folder, pages, {"pages.csv"})
    content = "".join(json.dumps({**row, "site": "remote"}) + "\n" for row in rows[15:20]).encode()
    fsspec.filesystem("memory").pipe("/remote/a.jsonl", content)
    saved = folder / "saved"
    saved.mkdir()
    table = pa.Table.from_pylist([{**row, "site": "saved"} for row in rows[20:]])
    with pa.ipc.new_stream(str(saved / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return [
        {"kind": "files", "name": "p", "paths": [str(folder / "pages.csv")], "columns": COLUMNS, "content": "html"},
        {"kind": "files", "name": "r", "paths": ["memory://remote/a.jsonl"], "columns": COLUMNS},
        {"kind": "datasets", "name": "s", "path": str(saved), "columns": COLUMNS},
    ]


def foreign_model(folder: Path, positions: int = 64) -> Path:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    shape: dict[str, Any] = {"n_positions": positions, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(vocab_size=512, bos_token_id=0, eos_token_id=0, **shape)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    learn("bpe", 300, lambda: iter([["some text to learn from"]])).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIALS["bpe"]))
    return folder


def _pictures(folder: Path) -> Path:
    """Pictures of two classes in files and in a table, some of them twice."""
    for number in range(6):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number // 2).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    stored = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    pl.DataFrame({"image": stored[:2], "label": ["class0", "class1"]}).write_parquet(folder / "more.parquet")
    return folder


def _events(folder: Path) -> Sequence[Values]:
    """A table of events, and lines of items."""
    folder.mkdir()
    (folder / "events.csv").write_text("u,i,t\n" + "".join(f"u{n % 7},i{n % 5},{n}\n" for n in range(60)))
    (folder / "lines.txt").write_text("".join(f"v{n} i1 i2 i3\n" for n in range(9)))
    table = {"kind": "csv", "name": "c", "paths": [str(folder / "events.csv")], "user": "u", "item": "i", "time": "t"}
    return [table, {"kind": "lines", "name": "l", "paths": [str(folder / "lines.txt")]}]


def main(home: Path, whole: bool) -> None:
    os.environ["NIGHTSCHOOL_HOME"] = str(home)
    from flows.nights.nightly import night as run_night
    from flows.recipe import recipe_of

    keys: dict[str, tuple[str, list[str]]] = {}
    for night in nights(home.parent, whole):
        run = TracedRun(home, night)
        token = context.set(run)
        try:
            run_night(recipe_of(night.recipe), call=lambda flow, *arguments: flow.fn(*arguments))
        except Enough:
            assert night.end
        finally:
            context.reset(token)
            run.journal.close()
        keys |= run.keys
    print(json.dumps(keys))


if __name__ == "__main__":
    main(Path(sys.argv[1]), {"sample": False, "whole": True}[sys.argv[2]])
