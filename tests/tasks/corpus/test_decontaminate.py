"""Decontaminate: what shares an n-gram with an evaluation set goes, and the verdict says with which text."""

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.errors import StageError, UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.decontaminate import (
    DecontaminateSettings,
    decontaminate,
    find_hits,
    index_sets,
    take_evaluation_inventory,
)
from tests.corpora import Row, corpus_of, fresh, rows_of

QUESTION = "In which year did the first steam ferry cross the wide river below the old mill?"
OTHER = "Name the three painters who shared a house by the harbour before the long winter began again."
CLEAN = "A text about something else entirely, which nobody has ever asked a single question about, to be sure of it."


def write_set(folder: Path, *texts: str, name: str = "quiz.jsonl") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def settings_of(sets: dict[str, Any], **settings: int) -> DecontaminateSettings:
    return DecontaminateSettings.model_validate({"sets": sets, **settings})


def run(folder: Path, texts: list[str], settings: DecontaminateSettings, batch_bytes: int = 200) -> Metrics:
    rows: list[Row] = [(f"d{index}", text, "s") for index, text in enumerate(texts)]
    documents = corpus_of(folder / "in", rows, batch_bytes)
    out = fresh(folder / "out")
    inventory = take_evaluation_inventory(settings)
    return decontaminate(documents, inventory, settings, out, StageLog(), Batches(folder / "batches"))


def verdicts(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / "out").glob("verdicts-*.parquet"))])


def hits(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "out" / "hits.parquet").rows()


def test_a_document_that_holds_a_question_goes_and_all_is_counted_and_quoted(tmp_path: Path) -> None:
    settings = settings_of({"quiz": {"path": write_set(tmp_path, OTHER, QUESTION)}})
    texts = [CLEAN, f"Solutions. -- {QUESTION.upper()} 1807!", CLEAN + " It is.", "", OTHER]
    metrics = run(tmp_path, texts, settings)
    assert metrics == {
        "documents": 5,
        "kept": 3,
        "kept_bytes": 2 * len(CLEAN) + 7,
        "dropped_in_evaluation_set": 2,
        "hits_quiz": 2,
        "evaluation_texts": 2,
        "evaluation_texts_too_short": 0,
        "evaluation_ngrams": 4 + 5,
    }
    assert [doc_id for doc_id, _, _ in rows_of(tmp_path / "out")] == ["d0", "d2", "d3"]
    first, other = "IN WHICH YEAR DID THE FIRST STEAM FERRY CROSS THE WIDE RIVER BELOW", " ".join(OTHER.split()[:13])
    assert hits(tmp_path) == [
        ("d1", "quiz", "quiz.jsonl#1", 4, first),
        ("d4", "quiz", "quiz.jsonl#0", 5, other),
    ]
    evidence = "shares 4 different n-grams of at most 13 words with quiz, most with quiz.jsonl#1, first “{}”"
    clean = ("decontaminate", "kept", "clean", "shares no n-gram with any set")
    assert verdicts(tmp_path).select(pl.exclude("doc_id")).rows() == [
        clean,
        ("decontaminate", "dropped", "in evaluation set", evidence.format(first)),
        clean,
        clean,
        ("decontaminate", "dropped", "in evaluation set", evidence.format(other).replace("4", "5").replace("#1", "#0")),
    ]


def test_files_keep_their_numbers_and_their_cut_changes_nothing(tmp_path: Path) -> None:
    settings = settings_of({"quiz": {"path": write_set(tmp_path, QUESTION)}})
    texts = [f"{index} {QUESTION if index % 3 == 0 else CLEAN}" for index in range(12)]
    for size in (1, 300, 10**6):
        run(tmp_path / str(size), texts, settings, size)
    assert len(list((tmp_path / "1" / "out").glob("documents-*.parquet"))) == 12
    assert sorted(path.name for path in (tmp_path / "1" / "out").glob("verdicts-*")) == [
        f"verdicts-{number:05d}.parquet" for number in range(12)
    ]
    for size in (1, 300):
        assert rows_of(tmp_path / str(size) / "out") == rows_of(tmp_path / str(10**6) / "out")
        assert verdicts(tmp_path / str(size)).equals(verdicts(tmp_path / str(10**6)))
        assert hits(tmp_path / str(size)) == hits(tmp_path / str(10**6))


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    settings = settings_of({"quiz": {"path": write_set(tmp_path, QUESTION, OTHER)}})
    digests = set()
    for name in ("one", "two"):
        run(tmp_path / name, [QUESTION, CLEAN, OTHER + QUESTION] * 5, settings)
        digests.add(Artifact.of("x", tmp_path / name / "out").digest)
    assert len(digests) == 1


def test_a_short_evaluation_text_counts_as_a_whole_from_eight_words_on(tmp_path: Path) -> None:
    eight, seven = "How many bridges cross the river at Prague?", "How many bridges cross the river Vltava?"
    settings = settings_of({"quiz": {"path": write_set(tmp_path, eight, seven)}})
    metrics = run(tmp_path, [f"Say: {eight} - Eighteen.", f"Say: {seven} - Eighteen.", eight[:-8]], settings)
    assert [row[0] for row in rows_of(tmp_path / "out")] == ["d1", "d2"]
    assert (metrics["evaluation_texts_too_short"], metrics["evaluation_ngrams"]) == (1, 1)


def test_fewer_shared_ngrams_than_the_least_keep_a_document(tmp_path: Path) -> None:
    settings = settings_of({"quiz": {"path": write_set(tmp_path, QUESTION)}}, min_shared=4)
    run(tmp_path, [QUESTION, " ".join(QUESTION.split()[1:]), QUESTION * 2], settings)
    assert [row[0] for row in rows_of(tmp_path / "out")] == ["d1"]


def test_hits_are_told_apart_by_set(tmp_path: Path) -> None:
    sets = {
        "b": {"path": write_set(tmp_path, QUESTION, name="b.jsonl")},
        "a": {"path": write_set(tmp_path, QUESTION, OTHER, name="a.jsonl")},
    }
    metrics = run(tmp_path, [f"{OTHER} {QUESTION}", QUESTION, CLEAN], settings_of(sets))
    assert (metrics["hits_a"], metrics["hits_b"], metrics["dropped_in_evaluation_set"]) == (2, 2, 2)
    assert [row[:4] for row in hits(tmp_path)] == [
        ("d0", "a", "a.jsonl#1", 9),
        ("d0", "b", "b.jsonl#0", 4),
        ("d1", "a", "a.jsonl#0", 4),
        ("d1", "b", "b.jsonl#0", 4),
    ]
    assert verdicts(tmp_path)["evidence"][0].startswith("shares 9 different n-grams of at most 13 words with a, most")


def test_every_format_and_lists_of_texts_are_read(tmp_path: Path) -> None:
    rows = {"question": ["short one", None], "choices": [[QUESTION, "no"], [OTHER]], "answer": [0, 1]}
    pl.DataFrame(rows).write_parquet(tmp_path / "set.parquet")
    (tmp_path / "set.csv").write_text(f'question,answer\n"{QUESTION}",1807\n"{OTHER}",\n')
    (tmp_path / "set.txt").write_text(f"{QUESTION}\n\n{OTHER}\n")
    lines = "".join(json.dumps({"question": text, "choices": None}) + "\n" for text in (QUESTION, OTHER))
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name, columns in (
        ("set.parquet", ["question", "choices"]),
        ("set.csv", ["question"]),
        ("set.txt", ["unused"]),
        ("set.jsonl.gz", ["question", "choices"]),
    ):
        settings = settings_of({"quiz": {"path": str(tmp_path / name), "columns": columns}})
        metrics = run(tmp_path / f"run-{name}", [CLEAN, OTHER, QUESTION], settings)
        assert metrics["hits_quiz"] == 2
        assert metrics["evaluation_ngrams"] == 9


def test_the_content_of_a_set_decides_and_not_its_place(tmp_path: Path) -> None:
    here, there = write_set(tmp_path / "a", QUESTION), write_set(tmp_path / "b", QUESTION)
    one, two = (take_evaluation_inventory(settings_of({"quiz": {"path": path}})) for path in (here, there))
    assert one.for_key() == two.for_key()
    write_set(tmp_path / "b", OTHER)
    assert take_evaluation_inventory(settings_of({"quiz": {"path": there}})).for_key() != one.for_key()


def test_a_set_that_changes_during_the_run_is_noticed(tmp_path: Path) -> None:
    settings = settings_of({"quiz": {"path": write_set(tmp_path, QUESTION)}})
    inventory = take_evaluation_inventory(settings)
    write_set(tmp_path, OTHER)
    documents = corpus_of(tmp_path / "in", [("d", CLEAN, "s")])
    with pytest.raises(StageError, match=r"quiz\.jsonl changed after the run had begun: run again\."):
        decontaminate(documents, inventory, settings, fresh(tmp_path / "out"), StageLog(), Batches(tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("none.jsonl", None, "text", "No file of the evaluation set 'quiz' is at"),
        ("set.doc", "x", "text", "is not one of .parquet, .jsonl"),
        ("set.jsonl", '{"text": "a"}\n{"other": 1}\n', "text", "row 1 has no field 'text'"),
        ("set.jsonl", "{", "text", "cannot be read"),
        ("set.jsonl", '{"text": "a"}\n{"text": 1}\n', "text", "cannot be read"),
        ("set.jsonl", '{"text": 5}\n', "text", "holds Int64: name columns of text"),
        ("set.csv", "a,b\n1,2\n", "text", "cannot be read"),
        ("set.txt", "too short\n", "text", "No text of the evaluation set 'quiz' has 8 words"),
    ],
)
def test_a_set_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: str | None, columns: str, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        run(tmp_path, [CLEAN], settings_of({"quiz": {"path": str(tmp_path / name), "columns": [columns]}}))


PHRASES = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=4)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["one", "two"]), PHRASES, min_size=1), PHRASES, st.integers(1, 3))
def test_hits_are_those_of_a_plain_search(sets: dict[str, list[str]], texts: list[str], min_shared: int) -> None:
    width = 3
    grams = {
        name: [
            (row, tuple(words[start : start + width]))
            for row, words in enumerate(text.split() for text in evaluation)
            for start in range(len(words) - width + 1)
        ]
        for name, evaluation in sets.items()
    }
    chosen = {name: sets[name] for name in sorted(sets) if grams[name]}
    expected = []
    for number, words in enumerate(text.split() for text in texts):
        own = list(dict.fromkeys(tuple(words[start : start + width]) for start in range(len(words) - width + 1)))
        for name in chosen:
            rows = [next((row for row, gram in grams[name] if gram == mine), None) for mine in own]
            shared = [(row, gram) for row, gram in zip(rows, own, strict=True) if row is not None]
            if len(shared) >= min_shared:
                counts = [row for row, _ in shared]
                most = max(dict.fromkeys(counts), key=counts.count)
                expected.append((str(number), name, f"{name}.jsonl#{most}", len(shared), " ".join(shared[0][1])))
    if not chosen:
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        how = settings_of(
            {name: {"path": write_set(folder, *chosen[name], name=f"{name}.jsonl")} for name in chosen}, ngram=width
        )
        index_sets(take_evaluation_inventory(how), folder, how)
        batch = pl.DataFrame({"doc_id": [str(number) for number in range(len(texts))], "text": texts})
        assert find_hits(batch, folder, min_shared).rows() == expected


def test_real_sentences_put_into_real_pages_are_all_found_and_nothing_else(tmp_path: Path, shared_data: Path) -> None:
    stsa = (shared_data / "classify" / "sst2" / "stsa.binary.test").read_text().splitlines()
    sentences = [line[2:] for line in stsa if len(line.split()) > 20][:50]
    path = write_set(tmp_path, *sentences, name="sst.jsonl")
    pages = pl.read_parquet(shared_data / "text" / "peps.parquet", n_rows=100)["text"].str.slice(0, 5000).to_list()
    tainted = [f"{page[:2000]}\n{sentence}\n{page[2000:]}" for page, sentence in zip(pages, sentences, strict=False)]
    how = settings_of({"sst": {"path": path}})
    metrics = run(tmp_path, [*pages, *tainted], how, batch_bytes=100_000)
    assert [row[0] for row in rows_of(tmp_path / "out")] == [f"d{index}" for index in range(len(pages))]
    assert [row[2] for row in hits(tmp_path)] == [f"sst.jsonl#{index}" for index in range(50)]
    assert metrics["dropped_in_evaluation_set"] == 50
