"""Real documents with injected near-duplicates of known similarity, in the files that the deduplicate stage reads.

Copies are edited at random words (substituted, deleted, inserted) and by moving runs of words, as often as a Jaccard
similarity drawn from 0.3 to 1 needs, and put somewhere behind their original. How alike a pair truly is, is computed
from its sets of 5-grams.
"""

import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from tasks.corpus.documents import BATCH_BYTES, DocumentWriter, documents_file, write_documents

SOURCES = {
    "text/peps": "path",
    "text/tldr": "path",
    "text/fastapi_docs_multilang": "path",
    "text/hf_course_multilang": "path",
    "classify/imdb_train": "id",
    "text/classic_books": "path",
}
CHAPTER = 12_000  # characters
SHINGLE = 5
MOVED = 12  # words
FREQUENT = [
    "a",
    "in",
    "is",
    "it",
    "was",
    "for",
    "on",
    "as",
    "by",
    "at",
    "this",
    "are",
    "from",
    "or",
    "an",
    "not",
    "he",
    "his",
    "you",
    "I",
    "but",
    "they",
    "her",
    "she",
    "de",
    "la",
    "que",
    "und",
    "die",
    "le",
]
"""Frequent words, but none that the published rules count (the, be, to, of, and, that, have, with)."""
RARE = ["because", "between", "everything", "porque", "zwischen", "toujours"]
WORDS = re.compile("[0-9A-Za-z_\u00aa-\u1fff\u2040-\u2fff\ue000-\U0010ffff]+|[\u3000-\ud7ff]")
"""A word as tasks/similarity/minhash.py defines it."""


def shingles(text: str) -> set[tuple[str, ...]]:
    """The 5-grams of a text; the whole text where it has fewer words."""
    words = [re.sub("[A-Z]", lambda letter: letter[0].lower(), word) for word in WORDS.findall(text)]
    return {tuple(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}


def jaccard(one: str, other: str) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def natural_documents(data: Path, most_bytes: int) -> Iterator[tuple[str, str]]:
    """(id, text) of real documents, books cut into chapters, up to a size."""
    size = 0
    for name, id_column in SOURCES.items():
        table = pl.read_parquet(data / f"{name}.parquet", columns=[id_column, "text"])
        for doc_id, text in table.iter_rows():
            for number, part in enumerate(_chapters(text) if name == "text/classic_books" else [text]):
                size += len(part.encode())
                if size > most_bytes:
                    return
                yield f"{name}/{doc_id}/{number}", part


def edited(text: str, similarity: float, vocabulary: list[str], generator: random.Random) -> str:
    """A copy with about as many edits as bring it to this Jaccard similarity."""
    words = text.split()
    changed = (1 - similarity) / (1 + similarity)  # of the shingles of each of the two
    edits = round(-len(words) / SHINGLE * math.log(1 - changed))
    while edits > 0:
        place = generator.randrange(len(words))
        kind = generator.random()
        if kind < 0.4:
            words[place] = generator.choice(vocabulary)
        elif kind < 0.6:
            words.insert(place, generator.choice(vocabulary))
        elif kind < 0.8 and len(words) > SHINGLE:
            del words[place]
        elif len(words) > 4 * MOVED:
            moved = words[place : place + MOVED]
            del words[place : place + MOVED]
            target = generator.randrange(len(words))
            words[target:target] = moved
            edits -= 1  # it breaks shingles at two more places
        edits -= 1
    return " ".join(words)


def write_corpus(data: Path, folder: Path, most_bytes: int, copies: int, seed: int = 0) -> pl.DataFrame:
    """Write documents-*.parquet and return the truth: doc_id of each copy, its original, and their similarity."""
    generator = random.Random(seed)
    documents = list(natural_documents(data, most_bytes))
    vocabulary = [word for _, text in generator.sample(documents, 500) for word in text.split()]
    long_enough = [number for number, (_, text) in enumerate(documents) if len(text.split()) >= 50]
    placed = [(float(number), doc_id, text) for number, (doc_id, text) in enumerate(documents)]
    truth = []
    for original in sorted(generator.sample(long_enough, copies)):
        doc_id, text = documents[original]
        copy = edited(text, generator.uniform(0.3, 1), vocabulary, generator)
        placed.append((generator.uniform(original + 0.5, len(documents)), f"copy/{doc_id}", copy))
        truth.append((f"copy/{doc_id}", doc_id, jaccard(text, copy)))
    writer = DocumentWriter(folder)
    for _, doc_id, text in sorted(placed):
        writer.add(doc_id, text, "benchmark")
    writer.flush()
    return pl.DataFrame(truth, schema=["doc_id", "original", "similarity"], orient="row")


def write_repeated(data: Path, folder: Path, size: int) -> None:
    """Write `size` bytes of text: real documents again and again, each time edited differently.

    Most repetitions change every frequent word and stay (Jaccard similarity about 0.1); one in four changes rare words
    and repeats the first.
    """
    natural = pl.DataFrame(list(natural_documents(data, min(size, 10**9))), schema=["doc_id", "text"], orient="row")
    number = written = repetition = 0
    while True:
        words = RARE if repetition % 4 == 3 else FREQUENT
        changed = [f" {word}{repetition or ''} " for word in words]
        edited = natural.select(
            pl.format("{}/{}", pl.lit(repetition), "doc_id").alias("doc_id"),
            pl.col("text").str.replace_many([f" {word} " for word in words], changed),
            pl.lit("benchmark").alias("source"),
        ).with_columns(end=pl.col("text").str.len_bytes().cum_sum())
        for _, batch in edited.group_by(pl.col("end") // BATCH_BYTES, maintain_order=True):
            write_documents(batch.drop("end"), folder / documents_file(number))
            number += 1
            written += int(batch["text"].str.len_bytes().sum())
            if written >= size:
                return
        repetition += 1


def _chapters(text: str) -> Iterator[str]:
    while len(text) > 2 * CHAPTER:
        end = text.find("\n\n", CHAPTER)
        if end < 0:
            break
        yield text[:end]
        text = text[end:]
    yield text
