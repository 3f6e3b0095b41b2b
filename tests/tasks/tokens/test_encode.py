"""Encoding: both engines give the same ids, and where they cannot, `tokenizers` decides."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.tokenize import TokenizeSettings, tokenize
from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
from tasks.tokens.encode import Encoder, fault_of
from tasks.tokens.vocabulary import end_of_text_id, load_tokenizer
from tests.corpora import corpus_of, fresh

ROWS = [(f"d{i}", f"Document {i} says </s> the same thing {i * 7} times, naïvely.\n" * 4, "s") for i in range(60)]
ENGINES = ("gigatoken", "tokenizers")


class Said(StageLog):
    """Keeps what a stage said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("trained")
    how = TokenizerSettings(vocabulary=400)
    tokenizer(corpus_of(folder / "in", ROWS), how, fresh(folder / "out"), StageLog())
    return Artifact.of("tokenizer", folder / "out")


def adopted(folder: Path, made: Tokenizer, **config: str) -> Artifact:
    """A hub folder's tokenizer as an artifact."""
    given = fresh(folder / "given")
    made.save(str(given / "tokenizer.json"))
    (given / "tokenizer_config.json").write_text(json.dumps(config))
    settings = TokenizerSettings(path=given, heldout=0)
    tokenizer(corpus_of(folder / "none", []), settings, fresh(folder / "out"), StageLog())
    return Artifact.of("tokenizer", folder / "out")


def run(documents: Artifact, tokens: Artifact, out: Path) -> tuple[Metrics, list[str]]:
    said = Said()
    metrics = tokenize(documents, tokens, TokenizeSettings(), fresh(out), said, Batches(out.with_name("batches")))
    return metrics, said.lines


@settings(max_examples=200)
@given(texts=st.lists(st.text() | st.text(alphabet="<|endoftx>pa \n'09é"), max_size=5))
def test_both_engines_give_the_same_ids_and_ends(trained: Artifact, texts: list[str]) -> None:
    texts_arrow = pa.array(["before", *texts], pa.large_string())[1:]  # a slice: its buffers begin earlier
    (one, lengths), (other, expected) = (Encoder(trained, engine)(texts_arrow) for engine in ENGINES)
    assert np.array_equal(one, other) and np.array_equal(lengths, expected)
    assert one.dtype == np.uint16
    assert np.flatnonzero(one == 0).tolist() == (np.cumsum(lengths) - 1).tolist()


def test_a_trained_bpe_is_encoded_by_the_fast_engine(trained: Artifact) -> None:
    assert fault_of(trained) is None


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_tokenizer_that_the_fast_engine_does_not_know_is_encoded_by_tokenizers(tmp_path: Path, kind: str) -> None:
    documents = corpus_of(tmp_path / "in", ROWS)
    settings = TokenizerSettings.model_validate({"kind": kind, "vocabulary": 300, "heldout": 0})
    tokenizer(documents, settings, fresh(tmp_path / "tokenizer"), StageLog())
    made = Artifact.of("tokenizer", tmp_path / "tokenizer")
    _, said = run(documents, made, tmp_path / "out")
    assert said[0].startswith("gigatoken is not used: Unsupported model type")
    encoder = load_tokenizer(made)
    shards = sorted((tmp_path / "out").glob("train-*.arrow"))
    tokens = [ids for shard in shards for ids in pa.ipc.open_file(shard).read_all()["tokens"].to_pylist()]
    assert tokens == [[*encoder.encode(row[1], add_special_tokens=False).ids, 0] for row in ROWS]


def test_a_document_on_which_the_engines_differ_sends_everything_to_tokenizers(
    trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = corpus_of(tmp_path / "in", ROWS)
    good, _ = run(documents, trained, fresh(tmp_path / "good") / "out")
    first = Encoder.first_difference

    def differs(self: Encoder, texts: pa.LargeStringArray) -> int | None:
        found = [index for index, text in enumerate(texts.to_pylist()) if text.startswith("Document 17 ")]
        return found[0] if found else first(self, texts)

    monkeypatch.setattr(Encoder, "first_difference", differs)
    bad, said = run(documents, trained, fresh(tmp_path / "bad") / "out")
    assert said[0].startswith("gigatoken is not used: it encodes the document d17 differently; ")
    assert good == bad
    digests = [Artifact.of("x", tmp_path / name / "out").digest for name in ("good", "bad")]
    assert digests[0] == digests[1]


def test_a_unigram_whose_words_end_at_spaces_cannot_end_a_document(tmp_path: Path) -> None:
    pieces = [("</s>", 0.0), ("<unk>", 0.0), *((piece, -5.0) for piece in "▁abc<>/s"), ("▁a", -3.0)]
    made = Tokenizer(models.Unigram(pieces, 1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["</s>"])
    end = adopted(tmp_path, made, eos_token="</s>")
    assert end_of_text_id(end) == 0
    encoding = load_tokenizer(end).encode("a</s> b </s>", add_special_tokens=False)
    assert encoding.tokens == ["▁a", "<", "/", "s", ">", "▁", "b", "▁", "<", "/", "s", ">"]


def test_gpt2_is_adopted_and_encoded_by_the_fast_engine(shared_data: Path, tmp_path: Path) -> None:
    vocabulary, merges = (str(shared_data / "tokenizer" / name) for name in ("encoder.json", "vocab.bpe"))
    made = Tokenizer(models.BPE.from_file(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    gpt2 = adopted(tmp_path, made, eos_token="<|endoftext|>", tokenizer_class="GPT2Tokenizer")
    documents = corpus_of(tmp_path / "in", [("d", "Hello <|endoftext|> world", "s")])
    metrics, said = run(documents, gpt2, tmp_path / "tokens")
    assert metrics["vocabulary"] == 50257
    assert not [line for line in said if line.startswith("gigatoken is not used")]
    shard = pa.ipc.open_file(tmp_path / "tokens" / "train-00000.arrow").read_all()
    ids = [15496, 1279, 91, 437, 1659, 5239, 91, 29, 995, 50256]
    assert shard["tokens"].to_pylist() == [ids]
