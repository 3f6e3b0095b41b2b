"""A trunk grows from night to night: which earlier training is gone on from, and that nothing old is trained again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from safetensors.numpy import load_file

from flows.nights.trunk import find_trunk
from flows.plan import Plan, make_plan
from tasks.core.artifact import Artifact, Promise, Reference, write_run_record
from tasks.core.run import StageOutcome
from tasks.core.stage import StageCall, context
from tasks.core.store import Store
from tasks.training.pretrain import pretrain
from tasks.training.settings import PretrainSettings
from tests.plain import PlainRun
from tests.prose import write_prose

SETTINGS = PretrainSettings()


class Past:
    """A store with trainings that earlier nights left behind."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home)
        self.tokenizer = Artifact("tokenizer", "words", home / "nowhere")

    def partitions(self, *names: str) -> tuple[Artifact, ...]:
        return tuple(Artifact("tokenize", name, self.store.home / "nowhere") for name in names)

    def leaves(
        self, *names: str, settings: PretrainSettings = SETTINGS, trunk: bool = True, **changed: Any
    ) -> Artifact:
        """A training on these partitions, the newest so far."""
        given = {"tokens": self.partitions(*names), "tokenizer": self.tokenizer, "previous": None, **changed}
        request = StageCall(pretrain, "pretrain", {**given, "settings": settings}).request()
        out = self.store.scratch(request.key)
        (out / "trunk").mkdir(parents=True)
        (out / "model").write_text(request.key)
        (out / "trunk" / "state.json").write_text(request.key)
        if not trunk:
            (out / "trunk" / "state.json").unlink()
            (out / "trunk").rmdir()
        artifact = self.store.commit(request, out, {})
        write_run_record(artifact, f"night-{''.join(names)}", "pretrain", 0.0)
        return artifact

    def found(self, *names: str, settings: PretrainSettings = SETTINGS) -> Artifact | None:
        return find_trunk(self.partitions(*names), self.tokenizer, settings)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    token = context.set(Plan(past.store))
    yield past
    context.reset(token)


def test_a_first_night_has_no_trunk(past: Past) -> None:
    assert past.found("a") is None


def test_a_night_goes_on_from_the_longest_beginning_of_its_corpus(past: Past) -> None:
    past.leaves("a")
    longer = past.leaves("a", "b")
    past.leaves("a")
    assert past.found("a", "b", "c") == longer


def test_the_same_corpus_is_no_beginning_of_itself_and_another_corpus_none_of_this(past: Past) -> None:
    first = past.leaves("a")
    past.leaves("a", "b")
    past.leaves("x", "b")
    past.leaves("b")
    assert past.found("a", "b") == first
    assert past.found("c", "a", "b") is None


def test_a_night_that_has_been_trained_keeps_its_trunk_although_a_newer_one_exists(past: Past) -> None:
    first = past.leaves("a")
    past.leaves("a", "b", previous=first)
    other = past.leaves("a", settings=PretrainSettings(learning_rate=0.5))
    assert past.found("a", "b") == first
    assert past.found("a", "b", settings=PretrainSettings(learning_rate=0.7)) == other


@pytest.mark.parametrize("changed", [{"width": 512}, {"algorithm": "muon"}, {"context_length": 128}, {"tied": False}])
def test_what_a_trunk_cannot_change_begins_a_new_one(past: Past, changed: dict[str, Any]) -> None:
    past.leaves("a")
    assert past.found("a", "b", settings=PretrainSettings(**changed)) is None


@pytest.mark.parametrize("changed", [{"learning_rate": 0.5}, {"tokens": 10}, {"batch": 2}, {"mixture": {"x": 1.0}}])
def test_what_a_trunk_can_change_goes_on(past: Past, changed: dict[str, Any]) -> None:
    first = past.leaves("a")
    assert past.found("a", "b", settings=PretrainSettings(**changed)) == first


def test_another_tokenizer_or_a_training_without_a_trunk_is_nothing_to_go_on_from(past: Past) -> None:
    past.leaves("a", trunk=False)
    past.leaves("a", tokenizer=Artifact("tokenizer", "other", past.store.home / "nowhere"))
    assert past.found("a", "b") is None


def test_a_damaged_trunk_is_passed_over(past: Past) -> None:
    first = past.leaves("a")
    damaged = past.leaves("a", "b")
    (damaged.path / "trunk" / "state.json").unlink()
    assert past.found("a", "b", "c") == first


def test_who_does_not_continue_has_no_trunk(past: Past) -> None:
    past.leaves("a")
    assert past.found("a", "b", settings=PretrainSettings(continues=False)) is None


def test_the_plan_says_from_which_night_it_goes_on(past: Past) -> None:
    plan = Plan(past.store)
    token = context.set(plan)
    previous = past.leaves("a")
    promised = (*past.partitions("a"), Promise.of_stage("tokenize", {}))
    pretrain.run(promised, Promise.of_stage("tokenizer", {}), previous, SETTINGS)
    context.reset(token)
    (step,) = plan.steps
    assert (step.action, step.why) == ("run", ["goes on from the trunk of night night-a"])


RECIPE: dict[str, Any] = {
    "name": "nights",
    "tokenizer": {"vocabulary": 400, "sample_megabytes": 0.1, "heldout": 0.2},
    "pretrain": {
        "layers": 1,
        "width": 32,
        "heads": 2,
        "kv_heads": 1,
        "context_length": 32,
        "batch": 8,
        "tokens": 8 * 32 * 20,
        "learning_rate": 0.01,
        "warmup": 0.1,
        "cooldown": 0.2,
    },
    "evaluate": {"documents": 20, "sample_tokens": 5},
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of texts to which every night may add; see `add`."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "prose").mkdir()
    write_prose(tmp_path / "prose", files=2, documents=300, seed=7)
    sources = [{"kind": "files", "name": "prose", "paths": [str(tmp_path / "texts")]}]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "ingest": {"sources": sources}}))
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(tmp_path / "home"))
    return file


def add(recipe: Path, number: int) -> None:
    name = f"{number}.jsonl"
    (recipe.parent / "texts" / name).write_bytes((recipe.parent / "prose" / name).read_bytes())


def night(recipe: Path) -> list[StageOutcome]:
    """A whole night, without Prefect's server."""
    from flows.nights.nightly import night as whole_night
    from flows.recipe import load_recipe

    run = PlainRun(recipe.parent / "home")
    token = context.set(run)
    try:
        whole_night(load_recipe(recipe), call=lambda flow, *arguments: flow.fn(*arguments))
    finally:
        context.reset(token)
        run.journal.close()
    return run.outcomes


def test_a_second_night_goes_on_and_run_again_is_reused(recipe: Path) -> None:
    store = Store(recipe.parent / "home")

    def made(outcomes: list[StageOutcome], node: str = "pretrain") -> Artifact:
        (found,) = [outcome for outcome in outcomes if outcome.node == node]
        return store.get(Reference(stage=found.stage, digest=found.digest))

    add(recipe, 0)
    foretold = {step.node: step.derived for step in make_plan(recipe, store.home) if step.derived}
    assert list(foretold) == ["pretrain"]
    assert "weight decay 0.1: 0.1 for every size, as GPT-3 (Brown et al. 2020, appendix B)" in foretold["pretrain"]
    first = made(night(recipe))
    assert (first.metrics["trunk_steps"], first.metrics["tokens_seen"]) == (16, 20 * 256)
    add(recipe, 1)
    steps = {step.node: step for step in make_plan(recipe, store.home)}
    assert steps["pretrain"].why == ["goes on from the trunk of night plain"]
    assert steps["pretrain"].derived == foretold["pretrain"]
    outcomes = night(recipe)
    second = made(outcomes)
    assert not [outcome for outcome in outcomes if outcome.node.endswith("-0")]
    assert second.manifest.inputs["previous"] == first.reference
    assert (second.metrics["trunk_steps"], second.metrics["tokens_seen"]) == (32, (16 + 20) * 256)
    losses = [pl.read_parquet(model.path / "losses.parquet") for model in (first, second)]
    assert losses[1]["learning_rate"][0] == 0.01  # no warm-up
    assert losses[1]["loss"][0] < losses[0]["loss"][:5].min()
    before, after = (load_file(model.path / "model.safetensors") for model in (first, second))
    assert not (before["norm.weight"] == after["norm.weight"]).all()
    page = (made(outcomes, "report").path / "report.html").read_text()
    assert f"from the trunk of {first.digest[:12]}" in page
    assert {outcome.action for outcome in night(recipe)} == {"reused"}
    assert {step.action for step in make_plan(recipe, store.home)} == {"reuse"}
