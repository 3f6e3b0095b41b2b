"""Examples: balanced, on the right side of the split, and without the names that would give the label away."""

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.examples import ExamplesSettings, examples, mask
from tasks.corpus.heldout import is_heldout
from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
from tasks.tokens.vocabulary import load_tokenizer
from tests.corpora import Row, corpus_of, fresh

LIBRARIES = {"torch": 90, "numpy": 80, "rich": 70, "tiny": 3}


def document(library: str, index: int) -> Row:
    text = (
        f"{library}.module.f{index}(x)\n\nThe function number {index} of {library} takes {library}.deep.Thing{index} "
        f"and gives back what `{library}_option` asks for, see https://{library}.org/docs. "
    )
    text += f"It is {library[0]}{index} long. " * 9
    return f"{library}/{library}.module.f{index}", text, library


ROWS = [document(library, index) for library, count in LIBRARIES.items() for index in range(count)]
ROWS += [(f"licences/{index}", f"Licence number {index} " * 20, "licences") for index in range(200)]
SETTINGS = ExamplesSettings(classes=3, pool=60, test=15, context_length=32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("corpus")
    documents = corpus_of(folder / "in", ROWS, batch_bytes=20_000)
    tokenizer(documents, TokenizerSettings(vocabulary=400, heldout=0.3), fresh(folder / "tokenizer"), StageLog())
    return documents, Artifact.of("tokenizer", folder / "tokenizer")


def run(
    corpus: tuple[Artifact, Artifact], out: Path, settings: ExamplesSettings = SETTINGS
) -> tuple[Metrics, pl.DataFrame, pl.DataFrame, list[str]]:
    documents, words = corpus
    metrics = examples((documents,), words, settings, fresh(out), StageLog())
    train, test = (pl.DataFrame(pa.ipc.open_file(out / f"{split}.arrow").read_all()) for split in ("train", "test"))
    return metrics, train, test, json.loads((out / "labels.json").read_text())


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("np.linalg.norm of a Numpy array, pynumpy", "library.norm of a library array, library"),
        (">>> import numpy as np\n>>> np.array(x)", ">>> import library as library\n>>> library.array(x)"),
        ("scikit-learn, sklearn.svm.SVC and SKLEARN's", "library, library.SVC and library's"),
        ("is_torch_available() in PyTorch and torch_dtype", "library() in library and library"),
        ("[`~torch.nn.Module`] of __torch_function__", "[`~library.Module`] of library"),
        ("see https://numpy.org/doc/x.html. Or www.torch.ch)", "see link Or link)"),
        ("richness is not rich, nor is _rich_.text", "richness is not library, nor is library.text"),
        ("np_array, as_np but npm, torah and a dnp", "library, library but npm, torah and a dnp"),
        ("pandas keeps its name", "pandas keeps its name"),
    ],
)
def test_names_aliases_paths_and_links_are_masked(text: str, masked: str) -> None:
    titled = pl.Series([f"numpy.title.with_name(x)\n\n{text}"])
    assert mask(titled, ["numpy", "sklearn", "torch", "rich"]).to_list() == [masked]


def test_examples_are_balanced_and_of_the_largest_libraries(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    metrics, train, test, labels = run(corpus, tmp_path / "out")
    assert labels == ["numpy", "rich", "torch"]
    assert metrics == {"classes": 3, "train": 60, "test": 15}
    for frame, count in ((train, 20), (test, 5)):
        assert frame["label"].value_counts().sort("label").rows() == [(0, count), (1, count), (2, count)]
        assert frame["doc_id"].str.split("/").list.first().to_list() == [labels[label] for label in frame["label"]]


def test_only_held_out_documents_judge_and_none_of_them_teaches(
    corpus: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    _, train, test, _ = run(corpus, tmp_path / "out")
    assert is_heldout(test["doc_id"], 0.3).all()
    assert not is_heldout(train["doc_id"], 0.3).any()


def test_no_name_of_any_class_is_left_in_any_text(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    _, train, test, labels = run(corpus, tmp_path / "out")
    for text in pl.concat([train["text"], test["text"]]):
        assert not any(label in text.lower() for label in labels)
        assert "module" not in text


def test_text_and_tokens_are_cut_to_the_same_length(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    _, train, _, _ = run(corpus, tmp_path / "out")
    encoder = load_tokenizer(corpus[1])
    assert train["tokens"].list.len().max() == 32
    for text, tokens in train.select("text", "tokens").iter_rows():
        assert tokens[-1] == 0
        assert encoder.decode(tokens[:-1]) == text


def test_texts_that_are_equal_once_masked_are_used_once(tmp_path: Path) -> None:
    rows = []
    for name in ("aa", "bb"):
        rows += [(f"{name}/{index}", f"{name}.f{index}\n\nThe same words of {name}.", name) for index in range(20)]
        rows += [(f"{name}/{name}{index}", f"{name}\n\n{name} says {name[0]}x{index}.", name) for index in range(80)]
    documents = corpus_of(tmp_path / "in", rows)
    tokenizer(documents, TokenizerSettings(vocabulary=300, heldout=0.3), fresh(tmp_path / "tokenizer"), StageLog())
    corpus = documents, Artifact.of("tokenizer", tmp_path / "tokenizer")
    _, train, test, _ = run(corpus, tmp_path / "out", ExamplesSettings(classes=2, pool=80, test=20, min_words=3))
    texts = pl.concat([train["text"], test["text"]])
    assert texts.n_unique() == len(texts)


def test_the_seed_decides_and_nothing_else(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run(corpus, tmp_path / name, SETTINGS.model_copy(update={"seed": seed}))
    one, two, three = (Artifact.of("examples", tmp_path / name).digest for name in ("one", "two", "three"))
    assert one == two != three


def test_too_few_documents_are_the_users_mistake(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Only 3 libraries have .* and 4 were asked for: lower `classes`"):
        run(corpus, tmp_path / "out", ExamplesSettings(classes=4, pool=40, test=8))
    with pytest.raises(ValidationError, match="at least the 12 classes"):
        ExamplesSettings(pool=5)


def test_too_few_different_texts_are_the_users_mistake(tmp_path: Path) -> None:
    rows = [(f"{name}/{index}", f"{name}.f{index}\n\nThe same words.", name) for name in "ab" for index in range(40)]
    documents = corpus_of(tmp_path / "in", rows)
    tokenizer(documents, TokenizerSettings(vocabulary=300, heldout=0.3), fresh(tmp_path / "tokenizer"), StageLog())
    corpus = documents, Artifact.of("tokenizer", tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"Only 1 of 12 examples differ"):
        run(corpus, tmp_path / "out", ExamplesSettings(classes=2, pool=8, test=4, min_words=3))
