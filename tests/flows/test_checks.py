"""What cannot be is said before a night starts: each impossible recipe is one sentence with key, value and advice."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from flows import checks, engine
from flows.capacity import Capacity, in_words, least_bytes, this_machine
from flows.checks import check, checked_recipe
from flows.nights.ledger import Night
from flows.recipe import recipe_of
from models.spec import ModelConfig
from tasks.core.errors import UserError
from tests.tiny import Commands

GB = 10**9
SMALL = Capacity(processors=2, memory=24 * GB, gpus=(), compiles=True)


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processors, 24 GB and no GPU, whatever the tests run on."""
    monkeypatch.setattr(checks, "this_machine", lambda: SMALL)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of JSON lines, a table and an evaluation set."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"body": "One.", "url": "x"}) + "\n")
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": "Who?", "answer": "They."}) + "\n")
    pl.DataFrame({"body": ["One."], "id": ["x"]}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "log.csv").write_text("who,what,when\na,b,1\n")
    return folder


def refusal(content: dict[str, Any]) -> str:
    """The sentence by which a recipe is refused, from its blocks or from the checks."""
    with pytest.raises(UserError) as error:
        check(recipe_of(content))
    said = str(error.value)
    assert len(said) <= 300 and said.isprintable()
    return said


def recipe(folder: Path, **blocks: Any) -> dict[str, Any]:
    """A recipe of text over a folder, with other blocks."""
    source = {"kind": "files", "name": "a", "paths": [str(folder)], "columns": {"text": "body"}}
    return {"name": "small", "ingest": {"sources": [source]}} | blocks


def test_a_recipe_that_can_be_is_taken(texts: Path) -> None:
    check(recipe_of(recipe(texts)))


@pytest.mark.parametrize(
    ("block", "values", "sentence"),
    [
        ("pretrain", {"width": 100, "heads": 3}, "width (100) must be a multiple of heads (3)"),
        ("pretrain", {"heads": 4, "kv_heads": 3}, "heads (4) must be a multiple of kv_heads (3)"),
        ("pretrain", {"width": 12, "heads": 4}, "width / heads (12 / 4) must be even"),
        ("pretrain", {"size": "tiny", "heads": 3}, "width (128) must be a multiple of heads (3)"),
        ("pretrain", {"layers": 10**9}, "`pretrain.layers`: input should be less than or equal to 1024"),
        ("pretrain", {"layers": 0}, "`pretrain.layers`: input should be greater than 0"),
        ("pretrain", {"warmup": 0.6, "cooldown": 0.6}, "warmup (0.6) and cooldown (0.6) are shares of the same steps"),
        ("pretrain", {"warmup": 0.9}, "warmup (0.9) and cooldown (0.2) are shares of the same steps"),
        ("pretrain", {"learning_rate": float("inf")}, "`pretrain.learning_rate`: input should be a finite number"),
        ("pretrain", {"learning_rate": "nan"}, "`pretrain.learning_rate`: input should be a finite number"),
        ("pretrain", {"mixture": {"a": float("inf")}}, "`pretrain.mixture.a`: input should be a finite number"),
        ("pretrain", {"mixture": {"a": 1e-300}}, "the shares of the mixture must be from 0.000001 to 1,000,000"),
        ("pretrain", {"mixture": {"b": 1}}, "`pretrain.mixture` names 'b', and no source is called so"),
        ("pretrain", {"batch": 8, "accumulate": 3}, "batch (8) must be a multiple of accumulate (3)"),
        (
            "pretrain",
            {"batch": 9, "machine": {"devices": 2}},
            "batch (9) must be a multiple of accumulate x devices (2)",
        ),
        ("pretrain", {"seed": -1}, "`pretrain.seed`: input should be greater than or equal to 0"),
        ("pretrain", {"seed": 1 << 63}, "`pretrain.seed`: input should be less than 9223372036854775808"),
        ("pretrain", {"layers": True}, "`pretrain.layers`: input should be a number, not True"),
        ("pretrain", {"document_mask": 1}, "`pretrain.document_mask`: input should be true or false, not 1"),
        ("pretrain", {"start": "/no/such/model"}, "There is no model in /no/such/model"),
        ("pretrain", {"size": ["tiny"]}, "`pretrain.size`: input should be 'tiny', 'mini'"),
        (
            "pretrain",
            {"size": "tiny", "objective": ["next_token"]},
            "`pretrain.objective`: input should be 'next_token'",
        ),
        ("pretrain", {"start": ""}, "an empty path would be the current folder"),
        ("pretrain", {"objective": "masked_token"}, "masked_token, and `tokenizer.kind` bpe has no mask token"),
        (
            "pretrain",
            {"machine": {"strategy": "fsdp"}},
            "`pretrain.machine.strategy` is fsdp, which divides a model among",
        ),
        ("pretrain", {"batch": 64, "machine": {"devices": 64}}, "is 64, and this machine has 2 processors and no GPU"),
        (
            "pretrain",
            {"layers": 1000, "width": 40_960, "heads": 64},
            "that needs at least 203 TB, and this machine has 24 GB",
        ),
        ("pretrain", {"batch": 1 << 20}, "asks for 1048576 windows of 256 tokens at once, which needs at least"),
        ("pretrain", {"context_length": 1 << 20, "batch": 64}, "lower batch or context_length, or raise accumulate"),
        ("tokenizer", {"vocabulary": 10**12}, "`tokenizer.vocabulary`: input should be less than or equal to 1048576"),
        ("tokenizer", {"heldout": 0.0}, "`tokenizer.heldout` is 0, and models are judged by held-out documents"),
        ("tokenizer", {"heldout": 1.0}, "`tokenizer.heldout`: input should be less than 1"),
        ("tokenizer", {"path": "/no/such/tokenizer.json"}, "There is no /no/such/tokenizer.json"),
        ("tokenizer", {"path": "~nosuchuser/tokenizer.json"}, "There is no ~nosuchuser/tokenizer.json"),
        ("filter", {"gopher_quality": {"min_words": 9, "max_words": 3}}, "min_words (9) is over max_words (3)"),
        ("filter", {"gopher_quality": {"min_mean_word_length": 11}}, "min_mean_word_length (11) is over max_mean_word"),
        ("filter", {"language": {"allowed": ["xx"]}}, "no language is known as 'xx'; give codes such as en, de or zh"),
        ("filter", {"c4": {"min_sentences": 10**30}}, "`filter.c4.min_sentences`"),
        ("deduplicate", {"bands": 10**6}, "`deduplicate.bands`: input should be less than or equal to 256"),
        ("decontaminate", {"sets": {"q": {"path": "/no/such"}}}, "No file of the evaluation set 'q' is at /no/such"),
        ("evaluate", {"documents": 0}, "`evaluate.documents`: input should be greater than 0"),
        (
            "finetune",
            {"examples": {"classes": 1}},
            "`finetune.examples.classes`: input should be greater than or equal to 2",
        ),
        ("finetune", {"training": {"epochs": 0}}, "`finetune.training.epochs`: input should be greater than 0"),
        ("finetune", {"training": {"warmup": 0.9}}, "warmup (0.9) and cooldown (0.6) are shares of the same steps"),
        (
            "finetune",
            {"examples": {"seed": -1}},
            "`finetune.examples.seed`: input should be greater than or equal to 0",
        ),
        ("finetune", {}, "`finetune.examples.classes` is 12, each class is a source, and the recipe has 1 of them"),
        ("engine", {"kind": "dask", "workers": 10**9}, "`engine.workers`: input should be less than or equal to 4096"),
        ("images", {"sources": []}, "`ingest` and `images` are two pipelines; write a recipe for each"),
    ],
)
def test_an_impossible_setting_is_one_sentence(texts: Path, block: str, values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(recipe(texts, **{block: values}))


def python_docs(**blocks: Any) -> dict[str, Any]:
    return {"name": "small", "ingest": {"sources": [{"kind": "python-docs", "packages": ["rich", "yaml"]}]}} | blocks


@pytest.mark.parametrize(
    ("finetune", "context_length", "sentence"),
    [
        ({"examples": {"classes": 4}}, 256, "each class is a source, and the recipe has 3 of them"),
        (
            {"examples": {"classes": 3, "pool": 100}, "training": {"labels": 100}},
            256,
            "`finetune.training.labels` is 100, and a pool of 100 has 99 examples of 3 classes: lower it, or raise",
        ),
        ({"examples": {"classes": 3, "test": 2}}, 256, "pool and test must be at least the 3 classes"),
        (
            {"examples": {"classes": 3}},
            128,
            "`finetune.examples.context_length` is 256, and the model reads 128 tokens",
        ),
    ],
)
def test_a_task_that_the_recipe_cannot_give_examples_for_is_one_sentence(
    finetune: dict[str, Any], context_length: int, sentence: str
) -> None:
    assert sentence in refusal(python_docs(finetune=finetune, pretrain={"context_length": context_length}))


def test_a_mixture_may_name_what_documents_are_from() -> None:
    check(recipe_of(python_docs(pretrain={"mixture": {"rich": 1, "python": 2, "topics": 1}})))
    everything = {"name": "small", "ingest": {"sources": [{"kind": "python-docs"}]}}
    check(recipe_of(everything | {"pretrain": {"mixture": {"numpy": 1, "licences": 1}}}))
    said = refusal(everything | {"pretrain": {"mixture": {"articles": 1}}})
    assert "`pretrain.mixture` names 'articles', and no source is called so: remove it" in said


def test_a_mixture_of_what_only_the_documents_know_is_left_to_them(texts: Path) -> None:
    content = recipe(texts, pretrain={"mixture": {"whatever": 1}})
    content["ingest"]["sources"][0]["columns"]["source"] = "site"
    check(recipe_of(content))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            {"kind": "files", "columns": {"text": "content"}},
            "Source 'a': a.jsonl has no column 'content' but body, url",
        ),
        (
            {"kind": "files", "paths": ["a.parquet"], "columns": {"text": "body", "id": "url"}},
            "no column 'url' but body, id",
        ),
        ({"kind": "files", "paths": ["$HOME/nowhere"]}, "there is no file $HOME/nowhere; correct its `paths`"),
        ({"kind": "files", "paths": ["~nosuchuser/x.txt"]}, "there is no file ~nosuchuser/x.txt"),
        ({"kind": "files", "paths": ["/proc/**"]}, "/proc/** lies where the kernel shows itself"),
        ({"kind": "files", "paths": ["/dev/zero"]}, "/dev/zero lies where the kernel shows itself"),
        ({"kind": "files", "paths": ["/" + "a" * 300]}, "Source 'a': "),
        ({"kind": "files", "paths": [""]}, "`ingest.sources.0.paths.0`: string should have at least 1 character"),
        ({"kind": "files", "paths": []}, "`ingest.sources.0.paths`"),
        ({"kind": "files", "paths": ["nosuch://bucket/x"]}, "begins with nosuch://, which fsspec does not know"),
        ({"kind": "python-docs", "packages": ["no_such_package"]}, "The package 'no_such_package'"),
        (
            {"kind": "python-docs", "packages": ["a.b"]},
            "`ingest.sources.0.packages.0` is 'a.b'; write it with the letters, digits and `_` of one import name",
        ),
        ({"kind": "datasets", "path": "./no/such"}, "is no folder here, and no name on the hub"),
        ({"kind": "datasets", "path": "data/wiki/train"}, "is no folder here, and no name on the hub"),
        ({"kind": "datasets", "path": "~nosuchuser/x"}, "is no folder here, and no name on the hub"),
        ({"kind": "datasets", "path": "owner/no-such"}, "is no folder here, and the hub is out of reach"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence(
    texts: Path, monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(texts.parent)
    given = {"paths": [str(texts)]} if source["kind"] == "files" else {}
    named = {} if source["kind"] == "python-docs" else {"name": "a"}
    assert sentence in refusal({"name": "small", "ingest": {"sources": [{**given, **named, **source}]}})


def test_two_sources_of_one_name_are_refused_in_every_kind_of_recipe() -> None:
    files = {"kind": "files", "name": "a", "paths": ["x"]}
    pictures = {"name": "a", "paths": ["x"]}
    for key, source in (("ingest", files), ("images", pictures), ("interactions", {"kind": "lines", **pictures})):
        said = refusal({"name": "small", key: {"sources": [source, source]}})
        assert said == f"`{key}`: two sources are called 'a'; give each a `name` of its own"
    assert "two sources are called 'python-docs'" in refusal(
        {"name": "small", "ingest": {"sources": [{"kind": "python-docs"}, {"kind": "python-docs"}]}}
    )


def test_an_evaluation_set_without_its_column_is_one_sentence(texts: Path) -> None:
    sets = {"quiz": {"path": str(texts.parent / "quiz.jsonl"), "columns": ["question", "reply"]}}
    said = refusal(recipe(texts, decontaminate={"sets": sets}))
    assert "The evaluation set 'quiz' has no column 'reply' in quiz.jsonl, which has answer, question" in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            {"images": {"sources": [{"name": "a", "paths": ["a.parquet"]}]}},
            "a.parquet has no column 'image' but body, id",
        ),
        ({"images": {"sources": [{"name": "a", "paths": ["no"]}]}}, "there is no file no"),
        ({"images": {"sources": [{"name": "a", "paths": ["x"]}], "labels": ["a", "a"]}}, "the class 'a' stands twice"),
        ({"images": {"sources": [{"name": "a", "paths": ["x"]}], "size": 4}}, "`images.size`"),
        (
            {"images": {"sources": [{"name": "a", "paths": ["x"]}]}, "tokenizer": {}},
            "`tokenizer` is for recipes of text, and this one is of images; remove it",
        ),
        (
            {"interactions": {"sources": [{"kind": "csv", "name": "a", "paths": ["log.csv"]}]}},
            "Source 'a': log.csv has no column 'user' but what, when, who",
        ),
        (
            {"interactions": {"sources": [{"kind": "csv", "name": "a", "paths": ["log.csv"], "user": "item"}]}},
            "user, item and time are three columns",
        ),
        ({"interactions": {"sources": []}, "finetune": {}}, "`finetune` is for recipes of text, and this one is of"),
        ({"pretrain": {}}, "the key `ingest` (or `images`, or `interactions`) is missing; add it"),
        (
            {"images": {"sources": [{"name": "a", "paths": ["s3://b/x"]}]}},
            "s3://b/x is a URL, from which only text is read",
        ),
    ],
)
def test_a_recipe_of_another_kind_of_data_is_checked_alike(
    texts: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(texts.parent)
    assert sentence in refusal({"name": "small", **content})


def test_an_engine_that_is_not_installed_is_one_sentence(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "prefect_ray" else find_spec(name))
    assert "install it with `uv sync --extra ray`" in refusal(recipe(texts, engine="ray"))


def model_folder(folder: Path, config: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"")
    words = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"</s>": 0, "a": 1}, "unk_token": "a"}}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    return folder


@pytest.mark.parametrize(
    ("config", "values", "sentence"),
    [
        ("{", {}, "describes no model"),
        ("[" * 100_000, {}, "describes no model"),
        ('{"model_type": "qwen3"}', {}, "describes no model (KeyError: 'hidden_size')"),
        ('{"model_type": 3, "vocab_size": 9}', {}, "describes no model"),
        (
            '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 64}',
            {},
            "has 64 positions, and context_length is 256",
        ),
        ('{"model_type": "gpt2", "vocab_size": 1, "n_positions": 512}', {}, "has 2 tokens and the model in"),
        ('{"model_type": "gpt2", "vocab_size": 9, "n_positions": 512}', {}, "do not know a gpt2: give all three"),
        (
            '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 512}',
            {"objective": "masked_token"},
            "has no mask token: adopt one whose tokenizer_config.json names it",
        ),
    ],
)
def test_a_start_that_is_no_model_for_the_recipe_is_one_sentence(
    texts: Path, tmp_path: Path, config: str, values: dict[str, Any], sentence: str
) -> None:
    start = model_folder(tmp_path / "m", config)
    assert sentence in refusal(recipe(texts, pretrain={"start": str(start), **values}))


def test_a_foreign_model_is_not_fine_tuned(tmp_path: Path) -> None:
    start = model_folder(tmp_path / "m", '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 512}')
    given = {"start": str(start), "tokens": 1000, "batch": 2, "learning_rate": 0.001}
    check(recipe_of(python_docs(pretrain=given)))
    said = refusal(python_docs(pretrain=given, finetune={"examples": {"classes": 3}}))
    assert "`pretrain.start` is a gpt2, and classification is learnt by our own transformer only" in said


def test_what_a_machine_with_gpus_can_do_is_not_refused(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "this_machine", lambda: Capacity(64, 10**12, (80 * GB,) * 8, compiles=True))
    check(
        recipe_of(
            recipe(texts, pretrain={"size": "xl", "machine": {"strategy": "fsdp", "devices": 8, "compile": True}})
        )
    )
    said = refusal(recipe(texts, pretrain={"batch": 16, "machine": {"devices": 16}}))
    assert "`pretrain.machine.devices` is 16, and this machine has 8 GPUs: lower it, or leave it out" in said


def test_compiling_without_a_compiler_is_refused(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "this_machine", lambda: Capacity(2, 24 * GB, (), compiles=False))
    assert "has no C++ compiler: install g++" in refusal(recipe(texts, pretrain={"machine": {"compile": True}}))


def test_the_least_memory_counts_weights_gradients_states_and_what_a_step_keeps() -> None:
    model = ModelConfig.sized(vocabulary=1024, context_length=64, layers=2, width=128, heads=2, kv_heads=1)
    attention, mlp = 2 * 128 * 64 * 3 + 128, 3 * 128 * 384
    weights = 2 * (attention + mlp + 256) + 128 + 1024 * 128
    assert least_bytes(model, windows=4) == (12 * weights, 2 * 4 * 64 * (2 * 128 + 1024))
    sharded = least_bytes(model, windows=4, sharded_over=2)
    assert sharded is not None and sharded[0] == 6 * weights
    assert [in_words(count) for count in (5, 24 * GB, 10**15, 10**19)] == ["5", "24 GB", "1 PB", "10,000 PB"]


def test_this_machine_has_processors_and_memory() -> None:
    assert this_machine().processors == os.cpu_count()
    assert this_machine().memory > 100_000_000


def test_a_sentence_about_endless_values_is_short(texts: Path) -> None:
    said = refusal(recipe(texts, decontaminate={"sets": {"q": {"path": "/no/" + "such/" * 700}}}))
    assert said.startswith("No file of the evaluation set 'q' is at /no/such") and said.endswith("correct its `path`.")


def test_run_plan_rerun_and_deploy_begin_with_the_checks(tiny: Commands) -> None:
    tiny.change("pretrain.mixture", {"articles": 1.0})
    nights = tiny.home / "nights"
    nights.mkdir(parents=True)
    night = Night(id="n", recipe="tiny", recipe_path=str(tiny.recipe), state="failed", started="")
    (nights / "n.json").write_text(night.model_dump_json())
    for arguments in (("run", str(tiny.recipe)), ("plan", str(tiny.recipe)), ("rerun",), ("deploy", str(tiny.recipe))):
        done = tiny(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("`pretrain.mixture` names 'articles', and no source is called so"), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_recipe_of_the_file_is_what_is_checked(tmp_path: Path, texts: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(texts)))
    assert checked_recipe(path).name == "small"
