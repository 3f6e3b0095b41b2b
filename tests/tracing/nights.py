"""Runs tiny nights of every kind of data, family and objective in this process, and says what each stage's key holds.

    python -m tests.tracing.nights HOME

Prints, for every node of every night, its stage and the symbols that its key names, as a JSON object. Whoever starts it
puts tests/tracing on PYTHONPATH (sitecustomize.py observes).
"""

import json
import os
import random
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import polars as pl
import yaml

from tasks.core.stage import StageCall, context
from tasks.core.store import Artifact, Request
from tasks.tokens.pieces import SPECIALS, learn
from tests.plain import PlainRun

COLUMNS = {"text": "body", "source": "site"}
TRAINED: dict[str, Any] = {
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


class TracedRun(PlainRun):
    """Tells the observer which node's function runs, and keeps what its key holds."""

    def __init__(self, home: Path, night: str) -> None:
        super().__init__(home)
        self.night = night
        self.keys: dict[str, tuple[str, list[str]]] = {}

    def _obtain(self, call: StageCall, request: Request, log: Any) -> tuple[str, Artifact]:
        name = f"{self.night}/{call.node}"
        self.keys[name] = (call.stage.name, sorted(request.code))
        os.environ["TRACED_NODE"] = name
        try:
            return super()._obtain(call, request, log)
        finally:
            os.environ["TRACED_NODE"] = ""


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Recipes by name, in the order in which they are to be run; the files that they name are written."""
    texts = folder / "texts"
    texts.mkdir()
    _write_texts(texts)
    (folder / "quiz.jsonl").write_text(json.dumps({"text": "one two three four five six seven eight nine"}) + "\n")
    corpus: dict[str, Any] = {
        "ingest": {"sources": [{"kind": "files", "name": "prose", "paths": [str(texts)], "columns": COLUMNS}]},
        "filter": {"gopher_quality": {"min_words": 20}, "language": {"allowed": ["en"]}},
        "evaluate": {"documents": 10, "sample_tokens": 3, "prompts": ["The"]},
    }
    words = {"vocabulary": 300, "sample_megabytes": 0.02, "heldout": 0.3}
    return {
        "causal": {
            **corpus,
            "tokenizer": words,
            "decontaminate": {"sets": {"quiz": {"path": str(folder / "quiz.jsonl")}}},
            "pretrain": {**TRAINED, "document_mask": True},
            "finetune": {
                "examples": {"classes": 2, "pool": 20, "test": 8, "context_length": 32},
                "training": {"labels": 12, "epochs": 1},
            },
        },
        "masked": {
            **corpus,
            "tokenizer": {**words, "kind": "wordpiece"},
            "pretrain": {**TRAINED, "objective": "masked_token", "algorithm": "muon"},
        },
        "continued": {
            **corpus,
            "tokenizer": {"heldout": 0.3},
            "pretrain": {
                "start": str(foreign_model(folder / "gpt2")),
                "context_length": 32,
                "batch": 4,
                "tokens": 4 * 32 * 4,
                "learning_rate": 0.01,
                "machine": {"precision": "float32"},
            },
        },
        "pictures": {"images": {"sources": [{"name": "p", "paths": [str(_pictures(folder / "p"))]}], "size": 8}},
        "events": {
            "interactions": {
                "sources": [
                    {
                        "kind": "csv",
                        "name": "c",
                        "paths": [str(_events(folder / "events.csv"))],
                        "user": "u",
                        "time": None,
                        "item": "i",
                    }
                ],
                "min_items": 1,
                "min_users": 1,
            }
        },
    }


def _write_texts(folder: Path) -> None:
    """A hundred short English documents of two sources in files of several formats; some repeat others."""
    sentences = [
        " ".join(sentence.split()) + "."
        for text in topics.values()
        for paragraph in text.split("\n\n")
        for sentence in paragraph.split(". ")
        if 8 <= len(sentence.split()) <= 20 and sentence.replace(" ", "").isalpha()
    ]
    chance = random.Random(0)
    rows = [
        {"body": " ".join(chance.sample(sentences, 4)), "site": ("one", "two")[number % 2]} for number in range(100)
    ]
    rows += [rows[0], {**rows[1], "body": rows[1]["body"].replace("The", "A", 1)}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:60]))
    pl.DataFrame(rows[60:]).write_parquet(folder / "b.parquet")
    (folder / "page.html").write_text(f"<html><body><p>{rows[2]['body']}</p></body></html>")
    (folder / "note.txt").write_text(rows[3]["body"])


def foreign_model(folder: Path, positions: int = 64) -> Path:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=512, n_positions=positions, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    learn("bpe", 300, lambda: iter([["some text to learn from"]])).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIALS["bpe"]))
    return folder


def _pictures(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    for number in range(6):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def _events(file: Path) -> Path:
    file.write_text("u,i\n" + "".join(f"u{n % 7},i{n % 5}\n" for n in range(60)))
    return file


def main(home: Path) -> None:
    os.environ["NIGHTSCHOOL_HOME"] = str(home)
    from flows.nights.nightly import night
    from flows.recipe import load_recipe

    keys: dict[str, tuple[str, list[str]]] = {}
    for name, content in recipes(home.parent).items():
        file = home.parent / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"name": name, **content}))
        run = TracedRun(home, name)
        token = context.set(run)
        try:
            night(load_recipe(file), call=lambda flow, *arguments: flow.fn(*arguments))
        finally:
            context.reset(token)
            run.journal.close()
        keys |= run.keys
    print(json.dumps(keys))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
