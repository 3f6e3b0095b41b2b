"""Images: any picture becomes a row of the same size, repeated ones go and name the one that stays."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.errors import StageError, UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.images import ImagesSettings, images, judge_images, take_images_inventory
from tasks.intake.pictures import decode
from tasks.similarity.perceptual import hash_images, match_images
from tests.corpora import fresh


def scene(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """A picture with large shapes, as photographs have; other seeds give others."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def settings_of(*paths: Path, **values: Any) -> ImagesSettings:
    source = {"paths": [str(path) for path in paths], "name": "pics", **values.pop("source", {})}
    return ImagesSettings.model_validate({"sources": [source], "size": 32, **values})


def run(folder: Path, chosen: ImagesSettings, history: tuple[Artifact, ...] = ()) -> Metrics:
    out = fresh(folder / "out")
    return images(take_images_inventory(chosen), history, chosen, out, StageLog(), Batches(folder / "batches"))


def rows(folder: Path, pattern: str = "*.arrow") -> list[dict[str, Any]]:
    found = []
    for shard in sorted((folder / "out").glob(pattern)):
        table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
        pixels = [row for chunk in table["image"].chunks for row in chunk.flatten().to_numpy().reshape(len(chunk), -1)]
        found += [row | {"image": image} for row, image in zip(table.drop("image").to_pylist(), pixels, strict=True)]
    return found


def verdicts(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / "out").glob("verdicts-*.parquet"))])


def rejects(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "out" / "rejects.parquet").rows()


def test_folders_say_the_class_and_a_row_holds_the_planes_of_the_centred_square(tmp_path: Path) -> None:
    striped = np.zeros((32, 64, 3), dtype=np.uint8)
    striped[:, :16], striped[:, 16:48], striped[:16, 16:48, 2], striped[:, 48:] = 255, [10, 20, 30], 200, 255
    write(tmp_path / "in" / "dog" / "deep" / "a.PNG", encoded(Image.fromarray(striped)))
    write(tmp_path / "in" / "cat" / "b.jpg", encoded(scene(1, 300, 200), "JPEG"))
    write(tmp_path / "in" / "c.webp", encoded(scene(2), "WEBP"))
    write(tmp_path / "in" / "notes.txt", b"no picture, and not asked")
    metrics = run(tmp_path, settings_of(tmp_path / "in", heldout=0))
    by_id = {row["image_id"]: row for row in rows(tmp_path)}
    assert {name: (row["label"], row["source"]) for name, row in by_id.items()} == {
        "pics/c.webp": (None, "pics"),
        "pics/cat/b.jpg": (0, "pics"),
        "pics/dog/deep/a.PNG": (1, "pics"),
    }
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == ["cat", "dog"]
    image = by_id["pics/dog/deep/a.PNG"]["image"].reshape(3, 32, 32)
    assert (image[0] == 10).all()
    assert (image[1] == 20).all()
    assert (image[2, :16] == 200).all()
    assert (image[2, 16:] == 30).all()
    assert metrics == {
        "images": 3,
        "rejects": 0,
        "kept": 3,
        "dropped_exact_duplicate": 0,
        "dropped_near_duplicate": 0,
        "labels": 2,
        "train_images": 3,
        "heldout_images": 0,
    }


def test_parquet_with_bytes_or_structs_is_read_in_batches_with_its_labels(tmp_path: Path) -> None:
    pictures = [encoded(scene(seed)) for seed in range(25)]
    plain = pa.table({"image": pictures, "label": [10 - index % 3 for index in range(25)]})
    pa.parquet.write_table(plain, tmp_path / "plain.parquet", row_group_size=7)
    structs = pa.table({"image": [{"bytes": content, "path": None} for content in pictures]})
    pa.parquet.write_table(structs, tmp_path / "structs.parquet")
    size = {"size": 1024}  # ten images a batch: parts begin and end inside row groups
    run(tmp_path / "a", settings_of(tmp_path / "plain.parquet", heldout=0, **size))
    run(tmp_path / "b", settings_of(tmp_path / "structs.parquet", heldout=0, source={"label_column": None}))
    found = rows(tmp_path / "a")
    assert len(list((tmp_path / "a" / "out").glob("train-*.arrow"))) == 3
    assert [row["image_id"] for row in found] == [f"pics/plain.parquet#{index}" for index in range(25)]
    assert [row["label"] for row in found] == [2 - index % 3 for index in range(25)]
    assert json.loads((tmp_path / "a" / "out" / "labels.json").read_text()) == ["8", "9", "10"]
    assert [row["label"] for row in rows(tmp_path / "b")] == [None] * 25


def test_repeated_pictures_go_and_name_the_one_that_stays(tmp_path: Path) -> None:
    base = scene(1, 128, 128)
    write(tmp_path / "in" / "a.png", encoded(base))
    write(tmp_path / "in" / "b.bmp", encoded(base, "BMP"))
    write(tmp_path / "in" / "c.png", encoded(scene(2)))
    write(tmp_path / "in" / "d.jpg", encoded(base, "JPEG", quality=30))
    metrics = run(tmp_path, settings_of(tmp_path / "in"))
    found = verdicts(tmp_path)
    assert found.select("doc_id", "stage", "verdict", "reason", "survivor").rows() == [
        ("pics/a.png", "images", "kept", "new", None),
        ("pics/b.bmp", "images", "dropped", "exact duplicate", "pics/a.png"),
        ("pics/c.png", "images", "kept", "new", None),
        ("pics/d.jpg", "images", "dropped", "near-duplicate", "pics/a.png"),
    ]
    assert found["evidence"][1] == "same pixels as pics/a.png"
    assert found["evidence"][3].endswith("of 64 bits from pics/a.png")
    assert found["similarity"][1] == 1.0
    assert {row["image_id"] for row in rows(tmp_path)} == {"pics/a.png", "pics/c.png"}
    assert (metrics["kept"], metrics["dropped_exact_duplicate"], metrics["dropped_near_duplicate"]) == (2, 1, 1)


def test_pictures_of_earlier_nights_count_and_nights_equal_one_pass(tmp_path: Path) -> None:
    base = scene(1, 64, 64)
    pictures = [encoded(base), encoded(scene(2)), encoded(base, "JPEG", quality=40), encoded(scene(3)), encoded(base)]
    for index, content in enumerate(pictures):
        for night in (index // 2, "all"):
            write(tmp_path / f"in{night}" / f"{index}.png", content)
    history: tuple[Artifact, ...] = ()
    for night in range(3):
        folder = tmp_path / f"night{night}"
        run(folder, settings_of(tmp_path / f"in{night}"), history)
        history += (Artifact.of("images", folder / "out"),)
    run(tmp_path / "once", settings_of(tmp_path / "inall"))
    nightly = pl.concat([verdicts(tmp_path / f"night{night}") for night in range(3)])
    assert nightly.equals(verdicts(tmp_path / "once"))
    assert nightly["survivor"].to_list() == [None, None, "pics/0.png", None, "pics/0.png"]


def test_plain_surfaces_repeat_only_themselves(tmp_path: Path) -> None:
    for index, colour in enumerate(["black", "white", "red", "white"]):
        write(tmp_path / "in" / f"{index}.png", encoded(Image.new("RGB", (40, 40), colour)))
    run(tmp_path, settings_of(tmp_path / "in"))
    assert verdicts(tmp_path)["survivor"].to_list() == [None, None, None, "pics/1.png"]


def test_damaged_pictures_are_written_down_and_too_many_stop_the_night(tmp_path: Path) -> None:
    good = encoded(scene(1), "JPEG")
    write(tmp_path / "in" / "a.jpg", good)
    write(tmp_path / "in" / "b.jpg", good[:300])
    write(tmp_path / "in" / "c.png", b"text")
    write(tmp_path / "in" / "d.parquet", b"text")
    table = pa.table({"image": [None, encoded(scene(2)), b""], "label": [1, 1, 1]})
    pa.parquet.write_table(table, tmp_path / "in" / "e.parquet")
    pa.parquet.write_table(pa.table({"picture": [b""]}), tmp_path / "in" / "f.parquet")
    run(tmp_path, settings_of(tmp_path / "in", reject_limit=0.8))
    found = rejects(tmp_path)
    assert [row[:2] for row in found] == [
        ("pics/d.parquet", None),
        ("pics/e.parquet", 0),
        ("pics/e.parquet", 2),
        ("pics/f.parquet", None),
        ("pics/b.jpg", None),
        ("pics/c.png", None),
    ]
    assert [row[2] for row in found][1:4] == [
        "no picture",
        "not a picture in a known format",
        "no column 'image' among picture",
    ]
    assert found[4][2] == "Truncated File Read"
    assert str(tmp_path) not in str(found)
    with pytest.raises(StageError, match=r"6 of 8 images could not be read, the first being pics/d\.parquet"):
        run(tmp_path / "again", settings_of(tmp_path / "in", reject_limit=0.5))


def test_named_classes_keep_their_numbers_and_others_are_refused(tmp_path: Path) -> None:
    for index, name in enumerate(["dog", "cat", "owl"]):
        write(tmp_path / "in" / name / "a.png", encoded(scene(index)))
    run(tmp_path, settings_of(tmp_path / "in", labels=["owl", "bat", "cat"], reject_limit=0.5))
    assert {row["image_id"]: row["label"] for row in rows(tmp_path)} == {"pics/cat/a.png": 2, "pics/owl/a.png": 0}
    assert rejects(tmp_path) == [("pics/dog/a.png", None, "the class dog is none of `labels`")]


def test_what_is_held_out_is_chosen_by_id(tmp_path: Path) -> None:
    for index in range(60):
        write(tmp_path / "in" / f"{index}.png", encoded(scene(index)))
    metrics = run(tmp_path, settings_of(tmp_path / "in", heldout=0.3))
    assert metrics["train_images"] + metrics["heldout_images"] == 60
    assert 8 <= len(rows(tmp_path, "heldout-*.arrow")) == metrics["heldout_images"] <= 30


def test_shards_open_in_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    write(tmp_path / "in" / "a" / "a.png", encoded(scene(1)))
    run(tmp_path, settings_of(tmp_path / "in", heldout=0))
    shards = str(tmp_path / "out" / "train-*.arrow")
    loaded = load_dataset("arrow", data_files=shards, cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded[0]["image_id"] == "pics/a/a.png"
    assert np.array(loaded[0]["image"], dtype=np.uint8).reshape(3, 32, 32).tolist() == _planes(scene(1)).tolist()


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for index in range(5):
        write(tmp_path / "in" / f"{index}.jpg", encoded(scene(index), "JPEG"))
    for name in ("one", "two"):
        run(tmp_path / name, settings_of(tmp_path / "in"))
    one, two = (Artifact.of("images", tmp_path / name / "out").digest for name in ("one", "two"))
    assert one == two


def _planes(picture: Image.Image, size: int = 32, **options: Any) -> np.ndarray:
    row = np.empty(3 * size * size, dtype=np.uint8)
    assert decode(encoded(picture, **options), size, row) is None
    return row.reshape(3, size, size)


def test_orientation_grey_depth_and_animation_are_understood() -> None:
    picture = scene(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(_planes(turned, exif=exif), _planes(picture))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    assert np.array_equal(_planes(deep), _planes(picture.convert("L")))
    assert np.array_equal(
        _planes(picture, kind="GIF", save_all=True, append_images=[scene(6)]), _planes(picture, kind="GIF")
    )


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    row = np.empty(3 * 8 * 8, dtype=np.uint8)
    with pytest.warns(Image.DecompressionBombWarning):
        assert decode(encoded(Image.new("1", (10_000, 9_000))), 8, row) == "10000 x 9000 pixels, more than 89478485"


def test_mistakes_are_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Source 'pics': there is no file .*/none\.png; correct its `paths`\."):
        take_images_inventory(settings_of(tmp_path / "none.png"))
    write(tmp_path / "empty" / "a.txt", b"")
    with pytest.raises(UserError, match=r"no file in .*/empty ends in one of \.bmp"):
        take_images_inventory(settings_of(tmp_path / "empty"))
    source = {"paths": ["x"], "name": "same"}
    with pytest.raises(ValidationError, match="two sources are called 'same'"):
        ImagesSettings.model_validate({"sources": [source, source]})


@settings(max_examples=30)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=30), st.integers(0, 16), st.integers(0, 30), st.randoms())
def test_matches_are_those_of_a_comparison_of_all_pairs(
    bases: list[int], distance: int, known: int, random: Any
) -> None:
    hashes = []
    for base in bases:  # few bits away from few centres: distances around the limit are common
        flips = sum(1 << bit for bit in random.sample(range(64), random.randint(0, 10)))
        hashes.append(base * 0x9E3779B97F4A7C15 % 2**64 ^ flips)
    known = min(known, len(hashes))
    expected = [
        next((j for j in range(i) if (hashes[i] ^ hashes[j]).bit_count() <= distance), i) if i >= known else i
        for i in range(len(hashes))
    ]
    assert match_images(np.array(hashes, dtype=np.uint64), distance, known).tolist() == expected


def test_the_hash_outlives_scale_compression_and_brightness_but_not_another_picture() -> None:
    rng = np.random.default_rng(0)
    several = []
    for seed in range(40):
        base = scene(seed, 256, 256)
        small = Image.open(io.BytesIO(encoded(base.resize((90, 90)), "JPEG", quality=60)))
        darker = Image.fromarray((np.asarray(base) * 0.8).astype(np.uint8))
        noisy = Image.fromarray((np.asarray(base) * 0.9 + rng.integers(0, 10, (256, 256, 3))).astype(np.uint8))
        several += [base, small, darker, noisy]
    planes = np.stack([_planes(picture, 64).ravel() for picture in several])
    hashes, textured = hash_images(planes, 64)
    assert textured.all()
    matches = match_images(hashes, 4)
    bases = np.arange(160) // 4 * 4
    assert ((matches == bases) | (matches == np.arange(160))).all()
    assert (matches == bases).sum() >= 157


def test_the_hash_of_a_row_does_not_depend_on_its_neighbours() -> None:
    planes = np.stack([_planes(scene(seed), 48).ravel() for seed in range(6)])
    together, _ = hash_images(planes, 48)
    assert together.tolist() == [int(hash_images(planes[index : index + 1], 48)[0][0]) for index in range(6)]


def test_no_history_and_no_images_give_no_verdicts() -> None:
    from tasks.corpus.images import read_fingerprints

    nothing = read_fingerprints(())
    assert judge_images(nothing, nothing, 4).height == 0


def test_real_photographs_are_all_read(tmp_path: Path, shared_data: Path) -> None:
    table = pl.read_parquet(shared_data / "image" / "cifar10_train.parquet", n_rows=2000)
    table.write_parquet(tmp_path / "cifar.parquet")
    metrics = run(tmp_path, settings_of(tmp_path / "cifar.parquet"))
    assert (metrics["images"], metrics["rejects"], metrics["labels"]) == (2000, 0, 1)
