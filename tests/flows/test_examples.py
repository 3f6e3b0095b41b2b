"""Every example recipe works: its checks pass on data such as it names, and its data stages run on them."""

import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import checks
from flows.capacity import Capacity
from flows.checks import checked_recipe
from flows.recipe import TextRecipe
from tests.conftest import PROJECT
from tests.plain import PlainRun, opened
from tests.prose import english_sentences
from tests.tasks.intake.test_formats import response
from tests.tracing.nights import foreign_model

FOLDER = PROJECT / "deployments" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of somebody who has what the examples name."""
    folder = tmp_path_factory.mktemp("user")
    data = folder / "data"
    for name in ("articles", "crawl", "photos/cats", "photos/dogs"):
        (data / name).mkdir(parents=True)
    articles = [
        {"body": text, "url": f"https://example.org/{number}", "section": ("news", "sport")[number % 2]}
        for number, text in enumerate(texts(200))
    ]
    (data / "articles" / "today.jsonl").write_text("".join(json.dumps(row) + "\n" for row in articles))
    pages = []
    for number, text in enumerate(texts(40, seed=1)):
        lines = "".join(f"<p>{line}</p>" for line in text.splitlines())
        page = f"<html><body><article>{lines}</article></body></html>"
        pages.append(response(f"https://example.org/page-{number}", page.encode()))
    (data / "crawl" / "one.warc.gz").write_bytes(b"".join(gzip.compress(page) for page in pages))
    quiz = {"question": "Which colour does a sky without clouds have?", "answer": "It is mostly blue."}
    (data / "quiz.jsonl").write_text(json.dumps(quiz) + "\n")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png")
    orders = [f"c{number % 9},p{number % 6},{number}" for number in range(200)]
    (data / "orders.csv").write_text("\n".join(["customer,product,at", *orders, ""]))
    (folder / "models").mkdir()
    foreign_model(folder / "models" / "gpt2", positions=512)
    return folder


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """Documents of English sentences, a few to a line."""
    sentences = english_sentences()
    chance = random.Random(seed)
    for _ in range(count):
        yield "\n".join(" ".join(chance.sample(sentences, 2)) for _ in range(4))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_all_checks_and_its_data_stages_run(
    path: Path, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setitem(os.environ, "NIGHTSCHOOL_HOME", str(tmp_path))
    if path.stem == "on-a-cluster":  # whose training asks for GPUs
        monkeypatch.setattr(checks, "this_machine", lambda: Capacity(64, 10**12, (80 << 30,) * 8, compiles=True))
    recipe = checked_recipe(path)
    assert recipe.name == path.stem
    from flows.kinds.corpus import corpus
    from flows.nights.nightly import night

    with opened(PlainRun(tmp_path)) as run:
        if isinstance(recipe, TextRecipe):
            assert all(partition.documents.metrics["kept"] > 10 for partition in corpus.fn(recipe).partitions)
        else:
            night(recipe, call=lambda flow, *arguments: flow.fn(*arguments))
            (outcome,) = run.outcomes
            assert outcome.action == "ran"


def test_every_kind_of_work_has_an_example() -> None:
    recipes = {path.stem for path in EXAMPLES}
    assert recipes == {
        *("own-text", "web-pages", "continue-a-model", "guess-hidden-words"),
        *("images", "interactions", "on-a-cluster"),
    }
