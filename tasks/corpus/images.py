"""Turns pictures of any size and format into Arrow shards of equal rows, without those that repeat an earlier one.

A row is `size` x `size` pixels, three bytes each, ready to be mapped and handed to a model: decoding is paid once
(0.14 ms for a 32 x 32 JPEG, 45 ms for one of 12 megapixels), not once an epoch, at the price of the pixels that
the crop leaves out and of random crops from the original. Pictures that cannot be decoded are written down and passed
over. Memory holds a batch of rows (32 MB) for each worker, and about 120 bytes for each image of this and earlier
nights.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from pydantic import Field, model_validator

from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, Facts
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import VERDICTS, write_rows
from tasks.corpus.heldout import is_heldout
from tasks.intake.listing import ListedFile, list_files
from tasks.intake.pictures import FORMATS, ImageSource, PictureBatch, decode, read_pictures
from tasks.intake.rejects import REJECTS, judge_rejects
from tasks.similarity.perceptual import BITS, hash_images, match_images

BATCH_BYTES = 32_000_000
MOST_IN_BATCH = 8192
"""Images in a batch where they are small: 2 s of work."""

EXACT, NEAR = "exact duplicate", "near-duplicate"
MATCH_VERDICTS = pa.schema([*VERDICTS, ("survivor", pa.string()), ("similarity", pa.float64())])
FINGERPRINTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("pixels", pa.binary(16)),
        ("hash", pa.uint64()),
        ("textured", pa.bool_()),
        ("survivor", pa.string()),
    ]
)


class ImagesSettings(Settings):
    """Which pictures are taken in, and as what."""

    sources: tuple[ImageSource, ...] = Field(min_length=1)
    """Where pictures come from, in canonical order."""
    size: int = Field(default=224, ge=8, le=2048)
    """Height and width in pixels: the largest centred square, resized (bicubic) to this."""
    labels: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    """Classes in the order of their numbers; images of another class are rejects. Empty: those that are found, in
    the order of their names (numbers before names), which is stable only while each night brings all of them."""
    distance: int = Field(default=4, ge=0, le=16)
    """Largest number of bits of 64 by which the perceptual hashes of near-duplicates differ (4: 95 % of such
    pairs in CIFAR-10's training images are the same picture; at 2 bits 99 %, of fewer pairs)."""
    heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of images, chosen by their ids, that no model may learn from."""
    reject_limit: float = Field(default=0.01, ge=0, le=1)
    """Largest share of images that may be unreadable before the stage fails."""

    @model_validator(mode="after")
    def _names_differ(self) -> "ImagesSettings":
        names = [source.name for source in self.sources]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called {min(repeated)!r}; give each a `name` of its own")
        if repeated := {label for label in self.labels if self.labels.count(label) > 1}:
            raise ValueError(f"the class {min(repeated)!r} stands twice in `labels`; remove one of them")
        return self


class ImagesInventory(Settings):
    """What the sources had when the run began; part of the stage's key, so what is unchanged is not read again."""

    files: tuple[tuple[ListedFile, ...], ...]
    """A list for each source of the settings, in their order."""


def take_images_inventory(settings: ImagesSettings) -> ImagesInventory:
    """List every source without reading it.

    Raises UserError for a path that matches nothing and for a file of another format.
    """
    return ImagesInventory(files=tuple(list_files(source.name, source.paths, FORMATS) for source in settings.sources))


@stage(version=1)
def images(
    inventory: ImagesInventory,
    history: tuple[Artifact, ...],
    settings: ImagesSettings,
    out: Path,
    log: StageLog,
    batches: Batches,
) -> Metrics:
    """Write train-*.arrow and heldout-*.arrow, labels.json, verdicts-*.parquet, fingerprints.parquet, rejects.parquet.

    Shards have image_id, source, label (int32, null where there is none) and image: 3 * size * size uint8, the
    red, green and blue plane (C, H, W), so that a batch is a reshape of mapped memory. labels.json lists the classes by
    number. A shard holds what is kept of one batch; verdicts have its number and name a kept survivor for each drop.

    Args:
        history: this stage's artifacts of earlier nights, whose images count as earlier ones.

    Raises:
        UserError: the sources hold no image at all.
        StageError: more than `reject_limit` of all images were unreadable, or a file changed meanwhile.
    """
    parts = list(_divide(inventory, settings))
    decoded = batches.map("decode", partial(decode_pictures, settings=settings), parts)
    rejects = pa.concat_tables([pq.read_table(batch.folder / "rejects.parquet") for batch in decoded])
    found = [pl.read_parquet(batch.folder / "images.parquet") for batch in decoded]
    total = sum(frame.height for frame in found)
    judge_rejects(total, rejects, settings.reject_limit, "images")
    write_rows(rejects, REJECTS, out / "rejects.parquet")
    labels = settings.labels or tuple(
        sorted({label for batch in decoded for label in batch.facts["labels"]}, key=_rank)
    )
    (out / "labels.json").write_text(json.dumps(labels, ensure_ascii=False) + "\n", encoding="utf-8")

    verdicts = judge_images(pl.concat(found), read_fingerprints(history), settings.distance)
    log.info(f"{total:,} images decoded, {rejects.num_rows:,} rejects")
    fingerprints = (
        pl.concat(found)
        .select("image_id", "pixels", "hash", "textured")
        .with_columns(survivor=pl.coalesce(verdicts["survivor"], verdicts["doc_id"]))
    )
    write_rows(fingerprints, FINGERPRINTS, out / "fingerprints.parquet")
    counts: Metrics = {
        "images": total,
        "rejects": rejects.num_rows,
        "kept": verdicts.filter(verdict="kept").height,
        "dropped_exact_duplicate": verdicts.filter(reason=EXACT).height,
        "dropped_near_duplicate": verdicts.filter(reason=NEAR).height,
        "labels": len(labels),
        "train_images": 0,
        "heldout_images": 0,
    }
    items, start = [], 0
    for number, (batch, frame) in enumerate(zip(decoded, found, strict=True)):
        own = verdicts[start : start + frame.height]
        write_rows(own, MATCH_VERDICTS, out / f"verdicts-{number:05d}.parquet")
        items.append((str(batch.folder), np.flatnonzero(own["verdict"] == "kept").tolist()))
        start += frame.height
    written = batches.map("shards", partial(write_shards, labels=labels, settings=settings), items)
    for number, batch in enumerate(written):
        for split in ("train", "heldout"):
            batch.hand_over(f"{split}.arrow", out / f"{split}-{number:05d}.arrow")
            counts[f"{split}_images"] += batch.facts[split]
    log.info(f"{counts['train_images']:,} images to train on, {counts['heldout_images']:,} held out")
    return counts


def decode_pictures(batch: PictureBatch, folder: Path, settings: ImagesSettings) -> Facts:
    """Batch: write rows.npy (uint8, shape [images, 3 * size * size]), images.parquet and rejects.parquet."""
    size = settings.size
    most = batch.rows[1] - batch.rows[0] if batch.rows else len(batch.files)
    rows = np.empty((most, 3 * size * size), dtype=np.uint8)
    found: list[tuple[str, str | None, bytes]] = []
    rejects: list[dict[str, Any]] = []
    for picture in read_pictures(batch):
        image_id = picture.path if picture.row is None else f"{picture.path}#{picture.row}"
        if picture.content is None:
            reason: str | None = picture.damage or "no picture"
        elif settings.labels and picture.label not in settings.labels:
            reason = f"the class {picture.label} is none of `labels`"
        else:
            row = rows[len(found)]
            reason = decode(picture.content, size, row)
            if reason is None:
                found.append((image_id, picture.label, blake3(row.data).digest(16)))
                continue
        rejects.append({"path": picture.path, "row": picture.row, "reason": reason})
    rows = rows[: len(found)]
    np.save(folder / "rows.npy", rows)
    hashes, textured = hash_images(rows, size)
    frame = pl.DataFrame(found, {"image_id": pl.String, "label": pl.String, "pixels": pl.Binary}, orient="row")
    frame = frame.with_columns(source=pl.lit(batch.source.name), hash=pl.Series(hashes), textured=pl.Series(textured))
    frame.write_parquet(folder / "images.parquet")
    write_rows(pa.Table.from_pylist(rejects, REJECTS), REJECTS, folder / "rejects.parquet")
    return {"labels": sorted(frame["label"].drop_nulls().unique())}


def read_fingerprints(history: tuple[Artifact, ...]) -> pl.DataFrame:
    """What earlier nights know of their images, in canonical order; columns as in `FINGERPRINTS`."""
    nothing = pl.DataFrame(pa.Table.from_pylist([], FINGERPRINTS))
    return pl.concat([nothing, *(pl.read_parquet(artifact.path / "fingerprints.parquet") for artifact in history)])


def judge_images(found: pl.DataFrame, history: pl.DataFrame, distance: int) -> pl.DataFrame:
    """The verdict on each image found, in their order; columns as in `MATCH_VERDICTS`.

    An image is dropped if an earlier one (whether itself kept or not) has the same pixels, or a hash at most
    `distance` bits away: what follows changes no verdict.
    """
    known = history.height
    columns = ["image_id", "pixels", "hash", "textured"]
    everything = pl.concat([history.select(columns), found.select(columns)])
    positions = everything.with_row_index("position").select(pl.col("position").first().over("pixels"))
    first = positions.to_series().to_numpy().astype(np.int64)
    hashes = everything["hash"].to_numpy()
    exact = first != np.arange(len(first))
    matches = first.copy()
    compared = np.flatnonzero(everything["textured"].to_numpy() & ~exact)
    matches[compared] = compared[match_images(hashes[compared], distance, int(np.searchsorted(compared, known)))]
    matches[:known] = np.arange(known)
    apart = np.bitwise_count(hashes ^ hashes[matches])
    ends = matches
    while not np.array_equal(further := ends[ends], ends):
        ends = further
    ids = everything["image_id"]
    survivors = pl.concat([history["survivor"], found["image_id"]])
    judged = pl.DataFrame(
        {
            "doc_id": ids,
            "match": ids[matches],
            "survivor": survivors[ends],
            "dropped": matches != np.arange(len(matches)),
            "exact": exact,
            "apart": apart,
        }
    )
    dropped = pl.col("dropped")
    near = pl.format(f"perceptual hash differs in {{}} of {BITS} bits from {{}}", "apart", "match")
    return judged[known:].select(
        "doc_id",
        pl.lit("images").alias("stage"),
        pl.when(dropped).then(pl.lit("dropped")).otherwise(pl.lit("kept")).alias("verdict"),
        pl.when("exact").then(pl.lit(EXACT)).when(dropped).then(pl.lit(NEAR)).otherwise(pl.lit("new")).alias("reason"),
        pl.when("exact").then(pl.format("same pixels as {}", "match")).when(dropped).then(near).alias("evidence"),
        pl.when(dropped).then("survivor").alias("survivor"),
        pl.when("exact").then(1.0).when(dropped).then(1 - pl.col("apart") / BITS).alias("similarity"),
    )


def write_shards(item: tuple[str, list[int]], folder: Path, labels: tuple[str, ...], settings: ImagesSettings) -> Facts:
    """Batch: write train.arrow and heldout.arrow with the kept images (their positions) of a decoded batch."""
    decoded, kept = Path(item[0]), item[1]
    frame = pl.read_parquet(decoded / "images.parquet")[kept]
    rows = np.load(decoded / "rows.npy", mmap_mode="r")
    label = frame["label"].cast(pl.Enum(labels)).to_physical().cast(pl.Int32)
    held = is_heldout(frame["image_id"], settings.heldout).to_numpy()
    width = rows.shape[1]
    schema = pa.schema(
        [
            ("image_id", pa.string()),
            ("source", pa.string()),
            ("label", pa.int32()),
            ("image", pa.list_(pa.uint8(), width)),
        ]
    )
    counts = {}
    for split, chosen in (("train", ~held), ("heldout", held)):
        own = frame.filter(chosen).select("image_id", "source").to_arrow()
        pixels = pa.FixedSizeListArray.from_arrays(
            pa.array(rows[np.array(kept, dtype=np.int64)[chosen]].ravel()), width
        )
        columns = [own["image_id"], own["source"], label.filter(chosen).to_arrow(), pixels]
        table = pa.table(columns, names=schema.names).cast(schema).combine_chunks()
        with pa.ipc.new_file(str(folder / f"{split}.arrow"), schema) as writer:
            writer.write_table(table)
        counts[split] = table.num_rows
    return counts


def _divide(inventory: ImagesInventory, settings: ImagesSettings) -> Iterator[PictureBatch]:
    """The batches, in canonical order: about 32 MB of rows each."""
    most = max(1, min(MOST_IN_BATCH, BATCH_BYTES // (3 * settings.size**2)))
    for source, files in zip(settings.sources, inventory.files, strict=True):
        pictures: list[ListedFile] = []
        for file in files:
            if not file.name.lower().endswith(".parquet"):
                pictures.append(file)
                continue
            try:
                metadata = pq.read_metadata(file.path)
                readable = source.image_column in metadata.schema.to_arrow_schema().names
            except (OSError, pa.ArrowException):
                readable = False
            count = metadata.num_rows if readable else 0  # whoever reads it says why it is not
            bounds = [*range(0, max(count, 1), most), count]
            yield from (PictureBatch(source, (file,), rows) for rows in pairwise(bounds))
        for start in range(0, len(pictures), most):
            yield PictureBatch(source, tuple(pictures[start : start + most]), None)


def _rank(label: str) -> tuple[int, int, str]:
    """Sorts numbers by value and before names."""
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)
