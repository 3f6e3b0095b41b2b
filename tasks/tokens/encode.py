"""Texts to token ids, in Arrow buffers, by the fastest engine whose ids are those of the `tokenizers` package.

`gigatoken` reads the Arrow buffers of the texts where they lie and encodes some 150 MB a second and core (32k BPE),
where `tokenizers` does 2 to 3. It knows byte-level and SentencePiece BPE only, and is young: hence three guards. What
it cannot load goes to `tokenizers`; so does a tokenizer for which the two differ on texts made to be difficult
(`fault_of`); and whoever encodes a corpus compares them on a sample of it (`first_difference`). Ids are the same
either way, so the engine is no part of a stage's key.
"""

import json
import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tasks.core.artifact import Artifact
from tasks.tokens.vocabulary import count_ids, end_of_text_id, load_tokenizer, token_dtype

PROBED_TOKENS = 1000
BEGINNING = 2000  # characters of a sampled document that are compared

Encode = Callable[[pa.LargeStringArray], tuple[NDArray[np.integer], NDArray[np.int64]]]
"""Ids of all texts in one array (shape [tokens]) and where each text ends in it (int64, shape [texts])."""

PROBES = (
    "",
    " ",
    "\n",
    "Hello, world! It's the dog's; we'll see what they'd say, I'm sure. DON'T",
    "  two  spaces\ttabs\t\tand \r\n lines\n\n\n   \n end ",
    "x = [1, 22, 333, 4444]; y=3.14159e-10; 0xDEADBEEF 1_000_000 ½ ² ٣٤٥ 一二三",
    "naïve café Straße ÅNGSTRÖM ﬁ ﬂ e\u0301 o\u0308 İstanbul ǅ ß ẞ Ω",
    "日本語のテキスト、中文文本。한국어 텍스트 ภาษาไทย हिन्दी العربية עברית",
    "👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 \U0001f600\U0001f601 ☃︎ \u200b\u200d\ufeff\u00a0\u2003\u3000\u2028\u0085",
    "\x00\x01\x1f\x7f\ufffd\U0010ffff",
    "a" * 3000,
    "-" * 500 + "=" * 500 + " " * 500 + "\n" * 100,
    "<p class=\"a\">&amp;</p> {'k': [None]} C:\\dir\\file /usr/bin #tag @name $1 100% ~ ` ^ |",
)


class Encoder:
    """One tokenizer with one engine, shared by the threads of a process."""

    def __init__(self, tokenizer: Artifact, engine: str) -> None:
        self.reference = load_tokenizer(tokenizer)
        self.vocabulary = count_ids(self.reference)
        self.dtype = token_dtype(self.vocabulary)
        self.end_of_text = end_of_text_id(tokenizer)
        self.encode = _gigatoken(self.reference) if engine == "gigatoken" else _tokenizers(self.reference)

    def __call__(self, texts: pa.LargeStringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Ids of all texts in one array (shape [tokens]), each text ending in end-of-text, and their lengths."""
        ids, ends = self.encode(texts)
        lengths = np.diff(ends, prepend=0) + 1
        tokens = np.full(len(ids) + len(texts), self.end_of_text, dtype=self.dtype)
        of_text = np.ones(len(tokens), dtype=bool)
        of_text[np.cumsum(lengths) - 1] = False
        tokens[of_text] = ids
        return tokens, lengths

    def first_difference(self, texts: pa.LargeStringArray) -> int | None:
        """Index of the first text on whose beginning the engine and `tokenizers` differ; None if they do not."""
        return _difference(self.encode, _tokenizers(self.reference), pc.utf8_slice_codeunits(texts, 0, BEGINNING))


_building = threading.Lock()


def encoder(tokenizer: Artifact, engine: str) -> Encoder:
    """The encoder of this process, built once however many threads ask for it at the same time."""
    with _building:
        return _encoder(tokenizer, engine)


@lru_cache(maxsize=1)
def _encoder(tokenizer: Artifact, engine: str) -> Encoder:
    return Encoder(tokenizer, engine)


def fault_of(tokenizer: Artifact) -> str | None:
    """Why `gigatoken` cannot stand in for `tokenizers` with this tokenizer; None where it can.

    The two are compared on `PROBES` and on every added token, alone, between spaces and inside a word.
    """
    try:
        fast = encoder(tokenizer, "gigatoken")
        added = [token.content for token in fast.reference.get_added_tokens_decoder().values()][:PROBED_TOKENS]
        spelled = [text for token in added for text in (token, f"a {token} b", f"a{token}b")]
        probes = pl.Series([*PROBES, *spelled]).to_arrow().cast(pa.large_string())
        different = _difference(fast.encode, _tokenizers(fast.reference), probes)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust's panics become
            raise
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None if different is None else f"it encodes {probes[different].as_py()!r} differently"


def _difference(one: Encode, other: Encode, texts: pa.LargeStringArray) -> int | None:
    """Index of the first text that the two do not encode alike."""
    (ids, ends), (expected, expected_ends) = one(texts), other(texts)
    if np.array_equal(ids, expected) and np.array_equal(ends, expected_ends):
        return None
    pieces = zip(np.split(ids, ends[:-1]), np.split(expected, expected_ends[:-1]), strict=True)
    return next(index for index, (left, right) in enumerate(pieces) if not np.array_equal(left, right))


def _gigatoken(reference: Tokenizer) -> Encode:
    """Special tokens are taken out of what it loads, so that it too finds none in a text."""
    import awkward
    import gigatoken

    described = json.loads(reference.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if not token["special"]]
    fast = gigatoken.Tokenizer.from_json(json.dumps(described))

    def encode(texts: pa.LargeStringArray) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        data = texts.buffers()[-1]
        characters = np.frombuffer(data if data is not None else b"", dtype=np.uint8)
        strings = awkward.contents.ListOffsetArray(
            awkward.index.Index64(_offsets(texts)),
            awkward.contents.NumpyArray(characters, parameters={"__array__": "char"}),
            parameters={"__array__": "string"},
        )
        # Several batches are at work already: one that spread over all cores would only stand in their way.
        found = fast.encode_batch(awkward.Array(strings), parallel=False).layout
        ends = np.asarray(found.offsets.data)
        return np.asarray(found.content.data)[ends[0] : ends[-1]], ends[1:] - ends[0]

    return encode


def _tokenizers(reference: Tokenizer) -> Encode:
    def encode(texts: pa.LargeStringArray) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        encodings = reference.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        ends = np.cumsum([len(encoding) for encoding in encodings], dtype=np.int64)
        ids = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint32)
        start = 0
        for encoding, end in zip(encodings, ends.tolist(), strict=True):
            ids[start:end] = encoding.ids
            start = end
        return ids, ends

    return encode


def as_arrow(values: NDArray[np.integer]) -> pa.Array:
    """The numbers as an Arrow array without copying them. `pa.array` does so too, but imports pandas first: 0.2 s."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _offsets(texts: pa.LargeStringArray) -> NDArray[np.int64]:
    """Where each text begins in the buffer of characters, and where the last one ends; shape [texts + 1]."""
    _, offsets, _ = texts.buffers()
    if not len(texts):
        return np.zeros(1, dtype=np.int64)
    return np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
