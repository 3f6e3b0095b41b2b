"""Nights that build on each other: each reads what is new, and together they are what one pass over everything is."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from flows.nights.partitions import find_partitions
from flows.recipe import TextRecipe, load_recipe
from tasks.core.artifact import Artifact
from tasks.core.errors import StageError, UserError
from tasks.core.run import StageOutcome
from tests.plain import run_corpus
from tests.prose import write_prose

DATA_STAGES = ["ingest", "filter", "deduplicate", "tokenizer", "tokenize"]


class Corpus:
    """A recipe over a folder to which every night may add files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.texts, self.recipe = folder / "home", folder / "texts", folder / "recipe.yaml"
        self.texts.mkdir()
        self.settings: dict[str, Any] = {
            "name": "nights",
            "ingest": {"sources": [{"kind": "files", "name": "prose", "paths": [str(self.texts)]}]},
            "tokenizer": {"vocabulary": 400, "sample_megabytes": 0.1, "heldout": 0.2},
        }
        self.write()
        monkeypatch.setenv("NIGHTSCHOOL_HOME", str(self.home))

    def write(self) -> None:
        self.recipe.write_text(yaml.safe_dump(self.settings))

    def add(self, *names: str) -> None:
        for name in names:
            (self.texts / f"{name}.jsonl").write_bytes((PROSE / f"{NAMES.index(name)}.jsonl").read_bytes())

    def night(self) -> list[StageOutcome]:
        return run_corpus(self.recipe, self.home)

    def artifact(self, night: list[StageOutcome], node: str) -> Artifact:
        (outcome,) = [outcome for outcome in night if outcome.node == node]
        return Artifact(outcome.stage, outcome.digest, self.home / "artifacts" / outcome.stage / outcome.digest)


NAMES = ["a", "b", "c", "d"]
PROSE: Path


@pytest.fixture(scope="module", autouse=True)
def prose(tmp_path_factory: pytest.TempPathFactory) -> None:
    global PROSE
    PROSE = tmp_path_factory.mktemp("prose")
    write_prose(PROSE, files=4, documents=200, seed=7)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    return Corpus(tmp_path, monkeypatch)


def told(outcomes: list[StageOutcome]) -> dict[str, str]:
    return {outcome.node: outcome.action for outcome in outcomes}


def documents(artifact: Artifact) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(artifact.path.glob("documents-*.parquet"))])


def kept(home: Path, outcomes: list[list[StageOutcome]]) -> list[tuple[str, str]]:
    """(doc_id, text) of what deduplication kept, over all nights."""
    rows = []
    for night in outcomes:
        (outcome,) = [outcome for outcome in night if outcome.node == "deduplicate"]
        rows += documents(Artifact("deduplicate", "", home / "artifacts" / "deduplicate" / outcome.digest)).rows()
    return [(doc_id, text) for doc_id, text, _ in rows]


def test_a_night_reads_only_what_is_new_and_tells_only_of_that(corpus: Corpus) -> None:
    corpus.add("a", "b")
    assert told(corpus.night()) == dict.fromkeys(DATA_STAGES, "ran")
    corpus.add("c")
    second = corpus.night()
    assert told(second) == {**dict.fromkeys(DATA_STAGES, "ran"), "tokenizer": "reused"}
    assert set(documents(corpus.artifact(second, "ingest"))["doc_id"].str.extract(r"(\w+)\.jsonl")) == {"c"}
    assert told(corpus.night()) == dict.fromkeys(DATA_STAGES, "reused")


def test_nights_keep_what_one_pass_over_everything_keeps(corpus: Corpus, tmp_path: Path) -> None:
    nights = []
    for names in (["a"], ["b", "c"], ["d"]):
        corpus.add(*names)
        nights.append(corpus.night())
    one_pass = run_corpus(corpus.recipe, tmp_path / "another-home")
    assert kept(corpus.home, nights) == kept(tmp_path / "another-home", [one_pass])
    drops = pl.read_parquet(
        [path for night in nights[1:] for path in corpus.artifact(night, "deduplicate").path.glob("verdicts-*.parquet")]
    ).filter(verdict="dropped")
    assert set(drops["night"]) == {0, 1}


def test_a_changed_file_is_read_again_and_what_it_repeats_is_dropped(corpus: Corpus) -> None:
    corpus.add("a")
    first = corpus.night()
    file = corpus.texts / "a.jsonl"
    added = json.dumps({"text": " ".join(f"word{number} the and of to" for number in range(40))})
    file.write_text(file.read_text() + added + "\n")
    second = corpus.night()
    again, new = documents(corpus.artifact(first, "ingest")), documents(corpus.artifact(second, "ingest"))
    assert new.height == again.height + 1
    assert not set(new["doc_id"]) & set(again["doc_id"])
    assert corpus.artifact(second, "deduplicate").metrics["kept"] <= 1


def test_a_changed_setting_works_through_every_night_again(corpus: Corpus) -> None:
    for name in ("a", "b"):
        corpus.add(name)
        corpus.night()
    corpus.settings["deduplicate"] = {"threshold": 0.95}
    corpus.write()
    third = told(corpus.night())
    assert {node for node, action in third.items() if node.startswith("deduplicate") and action == "ran"} == {
        "deduplicate-0",
        "deduplicate",
    }
    assert "filter-0" not in third
    assert third["filter"] == "reused"


def test_a_source_that_joins_the_recipe_leaves_the_nights_before_as_they_are(corpus: Corpus, tmp_path: Path) -> None:
    corpus.add("a")
    corpus.night()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.jsonl").write_bytes((PROSE / "1.jsonl").read_bytes())
    corpus.settings["ingest"]["sources"].append({"kind": "files", "name": "more", "paths": [str(tmp_path / "more")]})
    corpus.write()
    second = corpus.night()
    assert "ingest-0" not in told(second)
    assert set(documents(corpus.artifact(second, "ingest"))["source"]) == {"more"}


def test_a_kill_before_the_record_is_written_finds_the_same_news(corpus: Corpus) -> None:
    corpus.add("a")
    corpus.night()
    (corpus.home / "partitions" / "nights.json").unlink()
    assert told(corpus.night()) == dict.fromkeys(DATA_STAGES, "reused")


def test_a_record_that_cannot_be_read_says_what_to_do(corpus: Corpus) -> None:
    corpus.add("a")
    corpus.night()
    (corpus.home / "partitions" / "nights.json").write_text("{")
    recipe = load_recipe(corpus.recipe)
    assert isinstance(recipe, TextRecipe)
    with pytest.raises(StageError, match=r"nights\.json, cannot be read; restore it, or remove it"):
        find_partitions(recipe)


def test_a_night_of_nothing_but_repetitions_is_a_night(corpus: Corpus) -> None:
    corpus.add("a")
    corpus.night()
    (corpus.texts / "z.jsonl").write_bytes((corpus.texts / "a.jsonl").read_bytes())
    second = corpus.night()
    assert corpus.artifact(second, "deduplicate").metrics["kept"] == 0
    assert corpus.artifact(second, "tokenize").metrics["train_tokens"] == 0


def test_a_night_of_nothing_but_bad_documents_is_a_night(corpus: Corpus) -> None:
    corpus.add("a")
    corpus.night()
    (corpus.texts / "z.jsonl").write_text('{"text": "too short"}\n')
    second = corpus.night()
    assert corpus.artifact(second, "filter").metrics["kept"] == 0


def test_a_first_night_of_nothing_but_bad_documents_is_an_error(corpus: Corpus) -> None:
    (corpus.texts / "z.jsonl").write_text('{"text": "too short"}\n')
    with pytest.raises(UserError, match="No document passes the filter"):
        corpus.night()


def test_a_plan_names_the_files_that_are_new_or_have_changed_and_writes_nothing(corpus: Corpus) -> None:
    from flows.plan import make_plan

    corpus.add("a", "b")
    corpus.night()
    before = sorted(path for path in corpus.home.rglob("*") if path.is_file())
    corpus.add("c", "d")
    file = corpus.texts / "b.jsonl"
    file.write_text(file.read_text() + '{"text": "more"}\n')
    steps = {step.node: step for step in make_plan(corpus.recipe, corpus.home)}
    assert steps["ingest"].action == "run"
    assert steps["ingest"].why == ["inventory: 2 new (prose/c.jsonl, prose/d.jsonl), 1 changed (prose/b.jsonl)"]
    assert steps["tokenizer"].action == "reuse"
    assert steps["filter"].why == ["runs unless documents comes out equal"]
    assert sorted(path for path in corpus.home.rglob("*") if path.is_file()) == before
