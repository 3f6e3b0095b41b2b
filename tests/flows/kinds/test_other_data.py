"""Recipes of images and of interactions: their nights end with Arrow shards, reused and planned like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from flows.recipe import load_recipe
from tasks.core.errors import UserError
from tests.tiny import Commands


def night_of(commands: Commands, recipe: dict[str, Any]) -> dict[str, Any]:
    commands.recipe.write_text(yaml.safe_dump(recipe))
    night: dict[str, Any] = commands.json("run", str(commands.recipe))
    return night


def rows(commands: Commands, stage: str, digest: str) -> int:
    shards = (commands.home / "artifacts" / stage / digest).glob("*.arrow")
    return sum(pa.ipc.open_file(shard).read_all().num_rows for shard in shards)


def test_a_recipe_of_images_ends_with_shards(ready: Commands, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(5):
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    source = {"name": "pets", "paths": [str(tmp_path / "pictures")]}
    night = night_of(ready, {"name": "pictures", "images": {"size": 16, "sources": [source]}})
    (stage,) = night["stages"]
    assert (night["state"], stage["node"], stage["action"]) == ("done", "images", "ran")
    assert rows(ready, "images", stage["digest"]) == 10
    assert [step["action"] for step in ready.json("plan", str(ready.recipe))] == ["reuse"]


def test_a_recipe_of_interactions_ends_with_shards(ready: Commands, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    events = [f"{user},{item},{item}" for user in range(8) for item in range(6)]
    log.write_text("user,item,time\n" + "\n".join(events) + "\n")
    source = {"kind": "csv", "name": "shop", "paths": [str(log)]}
    night = night_of(ready, {"name": "shop", "interactions": {"sources": [source]}})
    (stage,) = night["stages"]
    assert (night["state"], stage["node"], stage["action"]) == ("done", "interactions", "ran")
    assert rows(ready, "interactions", stage["digest"]) == 8


def test_a_recipe_of_two_kinds_of_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    images = {"sources": [{"name": "pets", "paths": ["pets"]}]}
    ingest = {"sources": [{"kind": "python-docs"}]}
    path.write_text(yaml.safe_dump({"name": "both", "images": images, "ingest": ingest}))
    with pytest.raises(UserError, match="`ingest` and `images` are two pipelines; write a recipe for each"):
        load_recipe(path)
