"""Says how well a model predicts documents that it has not seen, and what it writes by itself.

Bits per byte instead of loss or perplexity, because it can be compared between tokenizers: a larger vocabulary makes
fewer, harder tokens, and the bytes stay the same. A masked model writes no documents, so it has no such number: it is
judged by the bits that a hidden token costs it, which can be compared between models of one tokenizer only.
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
from pydantic import Field, field_validator

from models.order.order import Order
from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.snapshot import Snapshot, shards_of
from tasks.tokens.vocabulary import end_of_text_id, load_tokenizer, mask_id
from tasks.training.starting_model import StartingModel

if TYPE_CHECKING:
    from models.text.foreign import Model

GAP = "___"
_RESAMPLES = 1000
_ANSWERS = 4  # shown of what a masked model puts into a gap


class EvaluateSettings(Settings):
    """How much is judged, and what the model is asked to continue."""

    documents: int = Field(default=400, gt=0, le=10_000_000)
    """Most held-out documents to judge by, chosen at random; bounds the time."""
    hidden: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that a masked model has to guess, at positions that the seed chooses."""
    prompts: tuple[str, ...] = ("The", "Returns a", "This function", "Raises an error if")
    """Beginnings of the samples."""
    gaps: tuple[str, ...] = (
        "Returns the ___ of the list.",
        "Raises an ___ if the file does not exist.",
        "If True, the ___ is used.",
        "The ___ of the array is a tuple of integers.",
    )
    """What a masked model fills in instead: sentences with one gap of three underscores."""
    sample_tokens: int = Field(default=60, gt=0, le=100_000)
    """Longest continuation of a prompt."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Chooses the documents and hidden tokens, resamples them, draws the samples and the untrained weights."""

    @field_validator("gaps")
    @classmethod
    def _one_gap_each(cls, gaps: tuple[str, ...]) -> tuple[str, ...]:
        if without := [sentence for sentence in gaps if sentence.count(GAP) != 1]:
            raise ValueError(f"each sentence has one gap, written {GAP}: mend {without[0]!r}")
        return gaps


@stage(version=2)
def evaluate(
    tokens: Snapshot,
    tokenizer: Artifact,
    model: Artifact,
    start: StartingModel,
    settings: EvaluateSettings,
    out: Path,
    log: StageLog,
) -> Metrics:
    """Write evaluation.json and samples.json.

    evaluation.json holds "measure" (bits_per_byte, or of a masked model bits_per_hidden_token), "before" (with the
    weights of `start`: those of the model from elsewhere, else fresh ones) and "after"; each of these has "all" and
    "sources" (by name): the measure, low, high (95 % bootstrap interval over documents), documents, and bytes or
    hidden_tokens. samples.json holds a list of objects with "prompt" and "text".

    Raises UserError when no document is held out, or a masked model's tokenizer has no mask.
    """
    from models.learn.initial_weights import untrained
    from models.machine.hardware import device
    from models.text.model_folder import load_model

    chosen, sequences = _choose_documents(shards_of(tokens, "heldout"), settings)
    if not sequences:
        raise UserError("There is nothing to evaluate on: hold out a larger share of documents.")
    trained = load_model(model.path).to(device())
    before_training = untrained(trained.config, model.path, start.folder, settings.seed).to(device())
    measure = measure_of(trained)
    before = _judge(before_training, sequences, chosen, tokenizer, settings)
    log.progress(1, 2, "models")
    after = _judge(trained, sequences, chosen, tokenizer, settings)
    log.progress(2, 2, "models")
    _write_json(out / "evaluation.json", {"measure": measure, "before": before, "after": after})
    samples = _continuations if measure == "bits_per_byte" else _filled_gaps
    _write_json(out / "samples.json", samples(trained, tokenizer, settings))
    result, first = after["all"], before["all"][measure]
    log.info(
        f"{result[measure]:.3f} {measure.replace('_', ' ')} ({result['low']:.3f} to {result['high']:.3f}) on "
        f"{len(sequences):,} held-out documents; {first:.3f} before training."
    )
    return {
        "documents": len(sequences),
        measure: result[measure],
        f"{measure}_low": result["low"],
        f"{measure}_high": result["high"],
        f"{measure}_before": first,
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
    model: Model,
    sequences: list[NDArray[np.int64]],
    chosen: pl.DataFrame,
    tokenizer: Artifact,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """Estimates for all documents and for each source."""
    from models.machine.hardware import choose_precision
    from models.objectives.masked_token import masked_bits
    from models.objectives.next_token import document_bits

    precision, _ = choose_precision("auto")
    if measure_of(model) == "bits_per_byte":
        bits, unit = document_bits(model, sequences, first=end_of_text_id(tokenizer), precision=precision), "bytes"
        sizes = chosen["bytes"].to_numpy()
    else:
        mask, unit = mask_id(tokenizer), "hidden_tokens"
        bits, sizes = masked_bits(model, sequences, mask, settings.hidden, settings.seed, precision)
    sources = chosen["source"].to_numpy()
    parts = {str(name): sources == name for name in np.unique(sources)}
    return {
        "all": _interval(bits, sizes, unit, settings.seed),
        "sources": {name: _interval(bits[own], sizes[own], unit, settings.seed) for name, own in parts.items()},
    }


def measure_of(model: Model) -> str:
    """What a model is judged by: `bits_per_byte`, or `bits_per_hidden_token`."""
    return "bits_per_byte" if model.config.attention == "causal" else "bits_per_hidden_token"


def _interval(bits: NDArray[np.float64], sizes: NDArray[np.int64], unit: str, seed: int) -> dict[str, float]:
    """Bits per unit of all documents together, with the 95 % percentile interval of resampled documents (Efron 1979).

    Documents, not tokens, are resampled: tokens of one document are easy or hard together.
    """
    generator = np.random.default_rng(seed)
    ratios = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        drawn = generator.integers(0, bits.size, bits.size)
        ratios[index] = bits[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {
        f"bits_per_{unit.removesuffix('s')}": float(bits.sum() / sizes.sum()),
        "low": float(low),
        "high": float(high),
        "documents": int(bits.size),
        unit: int(sizes.sum()),
    }


def _continuations(model: Model, tokenizer: Artifact, settings: EvaluateSettings) -> list[dict[str, str]]:
    from models.text.generate import continue_tokens

    encoder, end = load_tokenizer(tokenizer), end_of_text_id(tokenizer)
    samples = []
    for number, prompt in enumerate(settings.prompts):
        start = [end, *encoder.encode(prompt, add_special_tokens=False).ids]
        drawn = continue_tokens(model, start, end_token=end, count=settings.sample_tokens, seed=settings.seed + number)
        samples.append({"prompt": prompt, "text": encoder.decode(drawn)})
    return samples


def _filled_gaps(model: Model, tokenizer: Artifact, settings: EvaluateSettings) -> list[dict[str, str]]:
    """The likeliest tokens for each gap, with their probabilities."""
    from models.text.fill import likeliest_tokens

    encoder, end, mask = load_tokenizer(tokenizer), end_of_text_id(tokenizer), mask_id(tokenizer)
    samples = []
    for sentence in settings.gaps:
        before, after = sentence.split(GAP)
        # A byte-level token begins with its space, so the space before a gap belongs to the answer.
        left, right = (encoder.encode(part, add_special_tokens=False).ids for part in (before.rstrip(), after))
        found = likeliest_tokens(model, [end, *left, mask, *right, end], len(left) + 1, _ANSWERS)
        answers = [f"{encoder.decode([token]).strip()} {probability:.0%}" for token, probability in found]
        samples.append({"prompt": sentence, "text": ", ".join(answers)})
    return samples


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
