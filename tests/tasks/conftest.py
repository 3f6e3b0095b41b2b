"""A small world for the stages that train: real text, a real tokenizer, real shards, a model trained for a moment."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from tasks.core.artifact import Artifact
from tasks.core.stage import StageLog


class HeardLog(StageLog):
    """Remembers what a stage reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.series: list[tuple[int | None, dict[str, float]]] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    def metrics(self, values: dict[str, float], step: int | None = None, time_ms: int | None = None) -> None:
        self.series.append((step, values))


@dataclass(frozen=True)
class Small:
    """Artifacts of a tiny corpus."""

    tokenizer: Artifact
    tokens: Artifact
    examples: Artifact


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Docstrings of the standard library, tokenized; the labelled task is which module they come from."""
    return _small(tmp_path_factory.mktemp("small"), "bpe")


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The same with a tokenizer that has a mask."""
    return _small(tmp_path_factory.mktemp("wordpiece"), "wordpiece")


def _small(root: Path, kind: str) -> Small:
    from tasks.core.batches import Batches
    from tasks.corpus.tokenize import TokenizeSettings, tokenize
    from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
    from tasks.tokens.vocabulary import load_tokenizer
    from tests.models.shards import write_examples

    folders = {name: root / name for name in ("documents", "tokenizer", "tokens", "examples")}
    for folder in folders.values():
        folder.mkdir()
    modules = [__import__(name) for name in ("argparse", "decimal", "logging", "threading", "zipfile", "tarfile")]
    rows = [
        (f"{module.__name__}.{name}", inspect.getdoc(value) or "", module.__name__)
        for module in modules
        for owner in [module, *(thing for _, thing in inspect.getmembers(module, inspect.isclass))]
        for name, value in inspect.getmembers(owner, callable)
    ]
    schema = {"doc_id": pl.String, "text": pl.String, "source": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row").filter(pl.col("text").str.len_bytes() > 80)
    frame = frame.unique("text", keep="first", maintain_order=True).unique("doc_id", keep="first", maintain_order=True)
    frame.write_parquet(folders["documents"] / "documents-00000.parquet")
    (folders["documents"] / "metrics.json").write_text("{}")
    documents = Artifact.of("deduplicate", folders["documents"])
    tokenizer(documents, TokenizerSettings(kind=kind, vocabulary=400, heldout=0.2), folders["tokenizer"], StageLog())
    words = Artifact.of("tokenizer", folders["tokenizer"])
    tokenize(documents, words, TokenizeSettings(), folders["tokens"], StageLog(), Batches(root / "batches"))
    encoder = load_tokenizer(words)
    for split, part in (("train", frame[::2]), ("test", frame[1::2])):
        sequences = [encoding.ids[:40] for encoding in encoder.encode_batch(part["text"].to_list())]
        write_examples(
            folders["examples"] / f"{split}.arrow", sequences, (part["source"] == "decimal").cast(int).to_list()
        )
    (folders["examples"] / "labels.json").write_text('["other", "decimal"]')
    return Small(words, Artifact.of("tokenize", folders["tokens"]), Artifact.of("examples", folders["examples"]))


@pytest.fixture(scope="session")
def model(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Pre-trained for two seconds."""
    return _model(small, tmp_path_factory.mktemp("model"), "next_token")


@pytest.fixture(scope="session")
def masked_model(wordpiece: Small, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same, bidirectional."""
    return _model(wordpiece, tmp_path_factory.mktemp("masked-model"), "masked_token")


def _model(small: Small, root: Path, objective: Literal["next_token", "masked_token"]) -> Artifact:
    from models.fit import fit
    from models.spec import FitSpec, Machine, Optimisation, Source, TokenStream
    from tasks.corpus.snapshot import shards_of, snapshot_digest
    from tasks.training.pretrain import objective_of, shape
    from tasks.training.settings import PretrainSettings

    settings = PretrainSettings(layers=2, width=32, heads=2, kv_heads=1, context_length=32, objective=objective)
    tokens = (small.tokens,)
    spec = FitSpec(
        model=shape(settings, small.tokenizer),
        data=TokenStream(
            sources=(Source(name="all", shards=shards_of(tokens, "train")),),
            digest=snapshot_digest(tokens),
            objective=objective_of(settings, small.tokenizer),
        ),
        optimisation=Optimisation(learning_rate=1e-2, warmup_steps=5, cooldown_steps=30),
        steps=100,
        batch=16,
        seed=0,
        machine=Machine(precision="float32"),
        work=root / "work",
        out=root / "out",
    )
    fit(spec)
    return Artifact.of("pretrain", root / "out")
