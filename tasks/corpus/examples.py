"""Makes a labelled task out of the corpus itself: which library does this docstring document?

It needs no download, its labels are true, and what answers it (vocabulary, habits, subject) is what pre-training
may have learnt. What would answer it for free is taken out of every text alike: the title with the qualified
name and signature; every word that contains the name of a class or one of its usual spellings and aliases
(`torch_dtype`, `np`, `scikit-learn`), with the dotted path that it begins, but not the path's last part; web addresses.

What remains, and is fair game: names of functions and of other libraries, the house style (reST, Google, numpydoc),
signatures of a class's methods, and names that only insiders connect (ATen, Inductor, Booster).
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator
from tokenizers import Tokenizer

from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.heldout import is_heldout, read_split
from tasks.corpus.snapshot import Snapshot, read_snapshot
from tasks.corpus.tokenize import token_lists
from tasks.tokens.vocabulary import count_ids, end_of_text_id, load_tokenizer, token_dtype

MASK = "library"
LINK = "link"
NOT_LIBRARIES = ("licences", "topics")

SPELLINGS = {  # of libraries that go by more than their import name
    "PIL": ("pillow",),
    "huggingface_hub": ("huggingface", "hugging face", "hf"),
    "matplotlib": ("pyplot", "plt", "mpl", "pylab"),
    "networkx": ("nx",),
    "numpy": ("np", "ndarray"),
    "pandas": ("pd",),
    "polars": ("pl",),
    "prefect": ("prefecthq",),
    "pyarrow": ("pa",),
    "python": ("cpython", "py3k"),
    "pytorch_lightning": ("lightning", "pl"),
    "scipy": ("sp",),
    "sklearn": ("scikit-learn", "scikit learn", "scikit"),
    "sqlalchemy": ("sa",),
    "sympy": ("sp",),
    "torch": ("pytorch", "aten"),
    "transformers": ("transformer", "huggingface", "hugging face", "hf"),
}
WHOLE_WORDS_BELOW = 5  # letters: "np" and "np_array" name the library, "input" does not

SURPLUS = 1.5  # candidates drawn per example wanted: some turn out equal to another once they are masked


class ExamplesSettings(Settings):
    """How many examples of how many libraries."""

    classes: int = Field(default=12, ge=2, le=10_000)
    """Labels: the libraries with the most documents."""
    pool: int = Field(default=1200, ge=1, le=10_000_000)
    """Labelled examples to choose training labels from, the same number for each class; none is held out."""
    test: int = Field(default=600, ge=1, le=10_000_000)
    """Examples to judge by, the same number for each class; all are held out, so pre-training saw none."""
    context_length: int = Field(default=256, ge=8, le=1 << 20)
    """Longest example in tokens, with its end-of-text; the text is cut to what these tokens say."""
    min_words: int = Field(default=20, ge=1, le=1_000_000)
    """Fewest words of a document that becomes an example."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Chooses among the documents of a library."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if min(self.pool, self.test) < self.classes:
            raise ValueError(f"pool and test must be at least the {self.classes} classes")
        return self


@stage(version=1)
def examples(documents: Snapshot, tokenizer: Artifact, settings: ExamplesSettings, out: Path, log: StageLog) -> Metrics:
    """Write train.arrow and test.arrow (doc_id, text, label, tokens) and labels.json, the names in label order.

    Raises UserError if fewer than `classes` libraries have enough different documents.
    """
    wanted = {"train": settings.pool // settings.classes, "test": settings.test // settings.classes}
    candidates = _candidates(documents, read_split(tokenizer), settings.min_words)
    names = _largest(candidates, wanted, settings.classes)
    chosen = _choose(candidates, names, wanted, settings.seed)
    masked = _masked_texts(documents, chosen, names)
    masked = masked.filter(_turn() < _per_split(wanted))
    if masked.height < (total := len(names) * sum(wanted.values())):
        raise UserError(
            f"Only {masked.height} of {total} examples differ from each other once names are masked: "
            "lower `classes`, `pool` or `test` of the examples."
        )
    encoder, end = load_tokenizer(tokenizer), end_of_text_id(tokenizer)
    encoder.enable_truncation(settings.context_length - 1)
    counts: Metrics = {"classes": len(names)}
    for split in wanted:
        table = _encoded(masked.filter(split=split), names, encoder, end)
        with pa.ipc.new_file(str(out / f"{split}.arrow"), table.schema) as writer:
            writer.write_table(table)
        counts[split] = table.num_rows
    (out / "labels.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    log.info(f"{counts['train']:,} examples to learn from and {counts['test']:,} to judge by: {', '.join(names)}")
    return counts


def mask(texts: pl.Series, names: Sequence[str]) -> pl.Series:
    """Texts without their title line, web addresses and every trace of the given libraries' names."""
    paths, words = _patterns(names)
    return (
        texts.str.replace(r"^[^\n]*\n+", "")
        .str.replace_all(r"\b(?:https?://|www\.)[^\s<>`\"')\]]+", LINK)
        .str.replace_all(paths, MASK + ".${1}")
        .str.replace_all(words, MASK)
        .str.strip_chars()
    )


def _patterns(names: Sequence[str]) -> tuple[str, str]:
    """Regular expressions for a dotted path that a name begins (group 1: its last part), and for a name's words."""
    every = {spelling for name in names for spelling in (name.strip("_"), *SPELLINGS.get(name, ()))}
    spellings = sorted(every, key=lambda item: (-len(item), item))  # "scikit-learn" before "scikit"
    long = [re.escape(item).replace(r"\ ", r"\s+") for item in spellings if len(item) >= WHOLE_WORDS_BELOW]
    short = [re.escape(item) for item in spellings if len(item) < WHOLE_WORDS_BELOW]
    word = "|".join(
        [
            *([rf"\w*(?:{'|'.join(long)})\w*"] if long else []),
            *([rf"(?:\w*_)?(?:{'|'.join(short)})(?:_\w*)?"] if short else []),
        ]
    )
    return rf"(?i)\b(?:{word})(?:\.\w+)*\.(\w+)", rf"(?i)\b(?:{word})\b"


def _candidates(documents: Snapshot, heldout: float, min_words: int) -> pl.DataFrame:
    """doc_id, source and split of every document that could be an example; small enough to hold for all of them."""
    found = []
    for batch in read_snapshot(documents):
        long_enough = pl.col("text").str.count_matches(r"\S+") >= min_words
        batch = batch.filter(long_enough & ~pl.col("source").is_in(NOT_LIBRARIES))
        held = is_heldout(batch["doc_id"], heldout)
        found.append(batch.select("doc_id", "source").with_columns(held.alias("held")))
    split = pl.when("held").then(pl.lit("test")).otherwise(pl.lit("train")).alias("split")
    return pl.concat(found).select("doc_id", "source", split)


def _largest(candidates: pl.DataFrame, wanted: dict[str, int], classes: int) -> list[str]:
    """Names of the `classes` libraries with the most documents of those that have enough in both splits, sorted."""
    enough = [(pl.col("split") == split).sum() >= count for split, count in wanted.items()]
    sizes = candidates.group_by("source").agg(pl.len().alias("size"), pl.all_horizontal(enough).alias("enough"))
    large = sizes.filter("enough").sort(["size", "source"], descending=[True, False])
    if large.height < classes:
        raise UserError(
            f"Only {large.height} libraries have {wanted['train']} documents to learn from and {wanted['test']} "
            f"held-out ones, and {classes} were asked for: lower `classes`, `pool` or `test` of the examples."
        )
    return sorted(large["source"].head(classes))


def _choose(candidates: pl.DataFrame, names: list[str], wanted: dict[str, int], seed: int) -> pl.DataFrame:
    """A seeded draw of somewhat more documents than are wanted of each library and split, with their turn (`draw`)."""
    drawn = candidates.with_columns(draw=pl.Series(np.random.default_rng(seed).permutation(candidates.height)))
    most = {split: int(count * SURPLUS) for split, count in wanted.items()}
    return drawn.filter(pl.col("source").is_in(names)).sort("draw").filter(_turn() < _per_split(most))


def _turn() -> pl.Expr:
    """The how-many-eth document of its library and split this is."""
    return pl.int_range(pl.len()).over("source", "split")


def _per_split(counts: dict[str, int]) -> pl.Expr:
    return pl.col("split").replace_strict(list(counts), list(counts.values()), return_dtype=pl.Int64)


def _masked_texts(documents: Snapshot, chosen: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """The chosen documents with masked texts; of equal ones, in either split, only the first drawn."""

    def texts() -> Iterator[pl.DataFrame]:
        for batch in read_snapshot(documents):
            own = batch.select("doc_id", "text").join(chosen, on="doc_id", maintain_order="left")
            yield own.with_columns(mask(own["text"], names))

    masked = pl.concat(texts()).filter(pl.col("text") != "")
    return masked.sort("draw").unique("text", keep="first", maintain_order=True)


def _encoded(rows: pl.DataFrame, names: list[str], encoder: Tokenizer, end: int) -> pa.Table:
    """The examples as they are written: texts and tokens cut to what the encoder's truncation leaves."""
    encodings = encoder.encode_batch(rows["text"].to_list(), add_special_tokens=False)
    dtype = token_dtype(count_ids(encoder))
    tokens = [np.array([*encoding.ids, end], dtype=dtype) for encoding in encodings]
    cuts = [encoding.offsets[-1][1] for encoding in encodings]
    return pa.table(
        {
            "doc_id": rows["doc_id"].to_arrow().cast(pa.string()),
            "text": pa.array([text[:cut] for text, cut in zip(rows["text"], cuts, strict=True)], pa.string()),
            "label": pa.array([names.index(source) for source in rows["source"]], pa.int32()),
            "tokens": token_lists(np.concatenate(tokens), np.array([len(ids) for ids in tokens])),
        }
    )
