"""Says how well a model predicts documents that it has not seen: bits per byte, and what it writes by itself.

Bits per byte instead of loss or perplexity, because it can be compared between tokenizers: a larger vocabulary makes
fewer, harder tokens, and the bytes stay the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.order import Order
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.snapshot import Snapshot, shards_of
from tasks.tokens.vocabulary import end_of_text_id, load_tokenizer

if TYPE_CHECKING:
    from models.transformer import Transformer

_RESAMPLES = 1000


class EvaluateSettings(BaseModel):
    """How much is judged, and what the model is asked to continue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int = Field(default=400, gt=0)
    """Most held-out documents to judge by, chosen at random; bounds the time."""
    prompts: tuple[str, ...] = ("The", "Returns a", "This function", "Raises an error if")
    """Beginnings of the samples."""
    sample_tokens: int = Field(default=60, gt=0)
    """Longest continuation of a prompt."""
    seed: int = Field(default=0, ge=0)
    """Chooses the documents, resamples them, draws the samples and the untrained weights."""


@stage(version=1, libraries=("torch", "numpy"), modules=("models.score", "models.generate", "models.saved"))
def evaluate(
    tokens: Snapshot, tokenizer: Artifact, model: Artifact, settings: EvaluateSettings, out: Path, log: StageLog
) -> Metrics:
    """Write evaluation.json and samples.json.

    evaluation.json holds "before" (the same shape with fresh weights) and "after"; each has "all" and "sources" (by
    name): bits_per_byte, low, high (95 % bootstrap interval over documents), documents, bytes.

    Raises UserError when no document is held out.
    """
    from models.hardware import device
    from models.saved import load_model
    from models.transformer import Transformer, fresh

    chosen, sequences = _choose_documents(shards_of(tokens, "heldout"), settings)
    if not sequences:
        raise UserError("There is nothing to evaluate on: hold out a larger share of documents.")
    trained = load_model(model.path).to(device())
    assert isinstance(trained, Transformer), "what the stage pretrain wrote"
    end = end_of_text_id(tokenizer)
    before = _judge(fresh(trained.config, settings.seed).to(device()), sequences, chosen, end, settings.seed)
    log.progress(1, 2, "models")
    after = _judge(trained, sequences, chosen, end, settings.seed)
    log.progress(2, 2, "models")
    samples = _samples(trained, tokenizer, settings)
    _write_json(out / "evaluation.json", {"before": before, "after": after})
    _write_json(out / "samples.json", samples)
    result = after["all"]
    log.info(
        f"{result['bits_per_byte']:.3f} bits per byte ({result['low']:.3f} to {result['high']:.3f}) on "
        f"{len(sequences):,} held-out documents; {before['all']['bits_per_byte']:.3f} before training."
    )
    return {
        "documents": len(sequences),
        "bits_per_byte": result["bits_per_byte"],
        "bits_per_byte_low": result["low"],
        "bits_per_byte_high": result["high"],
        "bits_per_byte_before": before["all"]["bits_per_byte"],
    }


def _choose_documents(
    shards: Sequence[Path], settings: EvaluateSettings
) -> tuple[pl.DataFrame, list[NDArray[np.int64]]]:
    """A random choice of documents: their source and bytes, and their tokens, in the order of the shards."""
    readers = [pa.ipc.open_file(pa.memory_map(str(shard))) for shard in shards]
    batches = [reader.get_batch(i) for reader in readers for i in range(reader.num_record_batches)]
    if not batches or not (rows := sum(batch.num_rows for batch in batches)):
        return pl.DataFrame(), []
    picked = np.sort(Order(rows, settings.seed).items(0, min(rows, settings.documents)).astype(np.int64))
    table = pa.Table.from_batches(batches).take(pa.array(picked))
    frame = pl.DataFrame({"source": table["source"].to_pylist(), "bytes": table["bytes"].to_pylist()})
    return frame, [np.asarray(row.values.to_numpy(), dtype=np.int64) for row in table["tokens"]]


def _judge(
    model: Transformer, sequences: list[NDArray[np.int64]], chosen: pl.DataFrame, end: int, seed: int
) -> dict[str, Any]:
    from models.score import document_bits

    bits = document_bits(model, sequences, first=end)
    sizes = chosen["bytes"].to_numpy().astype(np.float64)
    sources = chosen["source"].to_numpy()
    return {
        "all": _interval(bits, sizes, seed),
        "sources": {
            str(name): _interval(bits[sources == name], sizes[sources == name], seed) for name in np.unique(sources)
        },
    }


def _interval(bits: NDArray[np.float64], sizes: NDArray[np.float64], seed: int) -> dict[str, float]:
    """Bits per byte of all documents together, with the 95 % percentile interval of resampled documents (Efron 1979).

    Documents, not tokens, are resampled: tokens of one document are easy or hard together.
    """
    generator = np.random.default_rng(seed)
    ratios = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        drawn = generator.integers(0, bits.size, bits.size)
        ratios[index] = bits[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {
        "bits_per_byte": float(bits.sum() / sizes.sum()),
        "low": float(low),
        "high": float(high),
        "documents": int(bits.size),
        "bytes": int(sizes.sum()),
    }


def _samples(model: Transformer, tokenizer: Artifact, settings: EvaluateSettings) -> list[dict[str, str]]:
    from models.generate import continue_tokens

    encoder, end = load_tokenizer(tokenizer), end_of_text_id(tokenizer)
    samples = []
    for number, prompt in enumerate(settings.prompts):
        start = [end, *encoder.encode(prompt, add_special_tokens=False).ids]
        drawn = continue_tokens(model, start, end_token=end, count=settings.sample_tokens, seed=settings.seed + number)
        samples.append({"prompt": prompt, "text": encoder.decode(drawn)})
    return samples


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
