"""Tokenizer: any text comes back, special tokens are where the contract says, training is deterministic."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.stage import Metrics, StageLog
from tasks.core.store import Artifact
from tasks.pieces import END_OF_TEXT, PADDING
from tasks.split import is_heldout, read_split
from tasks.tokenizer import TokenizerSettings, tokenizer
from tasks.vocabulary import load_tokenizer
from tests.corpora import corpus_of, fresh

ROWS = [(f"d{i}", f"Document {i} says the same thing {i * 7} times, naïvely.\n" * 4, "s") for i in range(60)]
SETTINGS = TokenizerSettings(vocabulary=400)

TRAIN = """
import sys
from pathlib import Path
from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.tokenizer import TokenizerSettings, tokenizer
tokenizer(Artifact.of("corpus", Path(sys.argv[1])), TokenizerSettings(vocabulary=400), Path(sys.argv[2]), StageLog())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Metrics]:
    folder = tmp_path_factory.mktemp("tokenizer")
    metrics = tokenizer(corpus_of(folder / "in", ROWS), SETTINGS, fresh(folder / "out"), StageLog())
    return Artifact.of("tokenizer", folder / "out"), metrics


def test_the_special_tokens_come_first_and_all_bytes_have_a_token(trained: tuple[Artifact, Metrics]) -> None:
    loaded = load_tokenizer(trained[0])
    assert (loaded.token_to_id(END_OF_TEXT), loaded.token_to_id(PADDING)) == (0, 1)
    assert trained[1]["vocabulary"] == loaded.get_vocab_size() > 258
    assert sorted(loaded.get_vocab().values()) == list(range(loaded.get_vocab_size()))


@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back(trained: tuple[Artifact, Metrics], text: str) -> None:
    loaded = load_tokenizer(trained[0])
    ids = loaded.encode(text, add_special_tokens=False).ids
    assert loaded.decode(ids, skip_special_tokens=False) == text
    assert 0 not in ids and 1 not in ids


def test_a_text_cannot_end_itself(trained: tuple[Artifact, Metrics]) -> None:
    ids = load_tokenizer(trained[0]).encode(f"before {END_OF_TEXT} after {PADDING}", add_special_tokens=False).ids
    assert not {0, 1}.intersection(ids)


def test_transformers_loads_it_with_the_same_tokens(trained: tuple[Artifact, Metrics]) -> None:
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(trained[0].path)
    text = "Document 7 says:\n    'naïve' — 1234 times."
    assert other(text)["input_ids"] == load_tokenizer(trained[0]).encode(text, add_special_tokens=False).ids
    assert other.decode(other(text)["input_ids"]) == text
    assert (other.eos_token_id, other.bos_token_id, other.pad_token_id) == (0, 0, 1)


@pytest.mark.parametrize("threads", ["1", "4"])
def test_training_is_the_same_in_every_process_and_for_any_number_of_threads(
    trained: tuple[Artifact, Metrics], tmp_path: Path, threads: str
) -> None:
    documents = corpus_of(tmp_path / "in", ROWS)
    command = [sys.executable, "-c", TRAIN, str(documents.path), str(fresh(tmp_path / "out"))]
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    subprocess.run(command, check=True, env=environment)
    assert Artifact.of("tokenizer", tmp_path / "out").digest == trained[0].digest


def test_the_sample_is_spread_over_the_corpus_and_leaves_out_what_is_held_out(tmp_path: Path) -> None:
    rows = [(f"d{index:03}", f"{chr(0x4E00 + index)}" * 400, "s") for index in range(100)]
    how = TokenizerSettings(vocabulary=2000, sample_megabytes=0.06, heldout=0.3)  # half of 120 kB
    metrics = tokenizer(corpus_of(tmp_path / "in", rows), how, fresh(tmp_path / "out"), StageLog())
    trained = load_tokenizer(Artifact.of("tokenizer", tmp_path / "out"))
    pieces = {trained.decode([token]) for token in range(trained.get_vocab_size())}
    seen = [index for index in range(100) if any(piece and set(piece) == {chr(0x4E00 + index)} for piece in pieces)]
    held = is_heldout(pl.Series([row[0] for row in rows]), 0.3)
    assert seen == [index for index in range(0, 100, 2) if not held[index]]
    assert metrics["sample_bytes"] == 1200 * len(seen)
    assert read_split(Artifact.of("tokenizer", tmp_path / "out")) == 0.3
