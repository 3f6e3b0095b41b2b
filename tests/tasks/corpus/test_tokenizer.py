"""Tokenizer: any text comes back, special tokens are where the contract says, training is deterministic."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.heldout import is_heldout, read_split
from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
from tasks.tokens.pieces import END_OF_TEXT, PADDING, SPECIALS
from tasks.tokens.vocabulary import end_of_text_id, load_tokenizer, mask_id, padding_id
from tests.corpora import corpus_of, fresh

ROWS = [(f"d{i}", f"Document {i} says the same thing {i * 7} times, naïvely.\n" * 4, "s") for i in range(60)]
SETTINGS = TokenizerSettings(vocabulary=400)

TRAIN = """
import sys
from pathlib import Path
from tasks.core.stage import StageLog
from tasks.core.artifact import Artifact
from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
settings = TokenizerSettings(kind=sys.argv[3], vocabulary=400)
tokenizer(Artifact.of("corpus", Path(sys.argv[1])), settings, Path(sys.argv[2]), StageLog())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Metrics]:
    folder = tmp_path_factory.mktemp("tokenizer")
    metrics = tokenizer(corpus_of(folder / "in", ROWS), SETTINGS, fresh(folder / "out"), StageLog())
    return Artifact.of("tokenizer", folder / "out"), metrics


def train(folder: Path, how: TokenizerSettings) -> Artifact:
    tokenizer(corpus_of(folder / "in", ROWS), how, fresh(folder / "out"), StageLog())
    return Artifact.of("tokenizer", folder / "out")


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("unigram"), TokenizerSettings(kind="unigram", vocabulary=400))


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


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_training_is_the_same_in_every_process_and_for_any_number_of_threads(tmp_path: Path, kind: str) -> None:
    documents = corpus_of(tmp_path / "in", ROWS)
    for threads in ("1", "4"):
        command = [sys.executable, "-c", TRAIN, str(documents.path), str(fresh(tmp_path / threads)), kind]
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run(command, check=True, env=environment)
    assert Artifact.of("x", tmp_path / "1").digest == Artifact.of("x", tmp_path / "4").digest


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_each_kind_has_its_special_tokens_first_and_ends_no_document_early(tmp_path: Path, kind: str) -> None:
    made = train(tmp_path, TokenizerSettings(kind=kind, vocabulary=300))
    loaded = load_tokenizer(made)
    specials = list(SPECIALS[kind].values())
    assert [loaded.id_to_token(number) for number in range(len(specials))] == specials
    assert (end_of_text_id(made), padding_id(made)) == (0, 1)
    ids = loaded.encode(" ".join(["Document", *specials]) + "".join(specials), add_special_tokens=False).ids
    assert not {0, 1}.intersection(ids)


def test_masked_models_find_a_mask_in_wordpiece_and_unigram_only(tmp_path: Path) -> None:
    found = {}
    for kind in ("wordpiece", "unigram"):
        made = train(fresh(tmp_path / kind), TokenizerSettings(kind=kind, vocabulary=300))
        found[kind] = load_tokenizer(made).id_to_token(mask_id(made))
    assert found == {"wordpiece": "[MASK]", "unigram": "<|mask|>"}
    with pytest.raises(UserError, match="has no mask token: train one of a kind that has it"):
        mask_id(train(fresh(tmp_path / "bpe"), SETTINGS))


@settings(deadline=None)
@given(text=st.text())
def test_unigram_gives_any_text_back(unigram: Artifact, text: str) -> None:
    loaded = load_tokenizer(unigram)
    assert loaded.decode(loaded.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_an_adopted_tokenizer_keeps_its_ids_and_loses_truncation_and_padding(
    trained: tuple[Artifact, Metrics], tmp_path: Path
) -> None:
    given = fresh(tmp_path / "given")
    cutting = load_tokenizer(trained[0])
    cutting.enable_truncation(5)
    cutting.enable_padding(length=9)
    cutting.save(str(given / "tokenizer.json"))
    (given / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.py", null]}}')
    said = {"eos_token": {"content": END_OF_TEXT}, "pad_token": PADDING}
    (given / "special_tokens_map.json").write_text(json.dumps(said))
    made = train(tmp_path, TokenizerSettings(path=given))
    assert (end_of_text_id(made), padding_id(made)) == (0, 1)
    assert "auto_map" not in (made.path / "tokenizer_config.json").read_text()
    text = "Document 7 says the same thing 49 times."
    ids = load_tokenizer(trained[0]).encode(text, add_special_tokens=False).ids
    assert load_tokenizer(made).encode(text, add_special_tokens=False).ids == ids
    assert len(ids) > 9


def test_transformers_reads_an_adopted_wordpiece_with_the_same_ids(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    first = train(fresh(tmp_path / "first"), TokenizerSettings(kind="wordpiece", vocabulary=300))
    made = train(fresh(tmp_path / "second"), TokenizerSettings(path=first.path))
    other = AutoTokenizer.from_pretrained(made.path)
    text = "Document 7, naïvely: [unknown] 漢"
    assert other(text)["input_ids"] == load_tokenizer(made).encode(text, add_special_tokens=False).ids
    assert (other.eos_token, other.mask_token, other.unk_token) == ("[SEP]", "[MASK]", "[UNK]")


def test_a_changed_tokenizer_under_the_same_path_is_another_request(
    trained: tuple[Artifact, Metrics], tmp_path: Path
) -> None:
    shutil.copytree(trained[0].path, tmp_path / "given")
    before = TokenizerSettings(path=tmp_path / "given").model_dump(mode="json")
    with (tmp_path / "given" / "tokenizer.json").open("a") as file:
        file.write("\n")
    after = TokenizerSettings(path=tmp_path / "given").model_dump(mode="json")
    assert {name for name in before if before[name] != after[name]} == {"adopted"}


def test_what_cannot_be_adopted_is_the_users_mistake(trained: tuple[Artifact, Metrics], tmp_path: Path) -> None:
    lonely = fresh(tmp_path / "lonely") / "tokenizer.json"
    content = json.loads((trained[0].path / "tokenizer.json").read_text().replace(END_OF_TEXT, "<|stop|>"))
    lonely.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"does not say which token ends a document: name one of its tokens as `end_of"):
        train(fresh(tmp_path / "a"), TokenizerSettings(path=lonely))
    with pytest.raises(UserError, match=r"has no token <eos>: name one of its tokens as `end_of_text`"):
        train(fresh(tmp_path / "b"), TokenizerSettings(path=lonely, end_of_text="<eos>"))
    named = train(fresh(tmp_path / "c"), TokenizerSettings(path=lonely, end_of_text="<|stop|>"))
    assert (end_of_text_id(named), padding_id(named)) == (0, 0)
    with pytest.raises(UserError, match=r"There is no .*tokenizer.json: give the path"):
        train(fresh(tmp_path / "d"), TokenizerSettings(path=fresh(tmp_path / "empty")))
    lonely.write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        train(fresh(tmp_path / "e"), TokenizerSettings(path=lonely))
    with pytest.raises(ValueError, match="an adopted tokenizer is not trained: remove kind and vocabulary, or path"):
        TokenizerSettings(path=lonely, vocabulary=300, kind="bpe")
    with pytest.raises(ValueError, match="end_of_text is for an adopted tokenizer"):
        TokenizerSettings(end_of_text="<eos>")


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
