"""Reads encoded pictures from where they lie, and decodes them to the square of pixels that a model is shown.

Only formats of plain pictures are tried (Pillow also knows some that run programs), and none beyond 89 million pixels.
A JPEG that is much larger than what is wanted is decoded at a half, quarter or eighth of its size, which the format
offers: 45 ms instead of 165 for 12 megapixels.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from models.settings import Name, NotInKey, Settings
from tasks.intake.listing import ListedFile

PICTURES = {".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}
PICTURES |= {".tiff": "TIFF", ".webp": "WEBP"}
FORMATS = (*PICTURES, ".parquet")
MOST_PIXELS = 89_478_485
"""From here on Pillow warns of a decompression bomb: 256 MB of pixels."""


class ImageSource(Settings):
    """Pictures in folders, where the first folder below what is named says the class, or in parquet files."""

    paths: NotInKey[tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...]] = Field(min_length=1)
    """Files, folders (searched to the bottom) or globs of pictures or parquet files. What is found there enters the
    key, not the place."""
    name: Name
    """What this source is called in image ids and in results by source."""
    image_column: str = Field(default="image", min_length=1, max_length=200)
    """The column of a parquet file that holds encoded pictures: bytes, or `datasets`' struct with a field `bytes`."""
    label_column: str | None = Field(default="label", min_length=1, max_length=200)
    """The column of a parquet file that holds the class, a number or a name; None: there is none."""


class PictureBatch(NamedTuple):
    """The images of one batch: whole picture files, or some rows of a parquet file."""

    source: ImageSource
    files: tuple[ListedFile, ...]
    rows: tuple[int, int] | None


class Picture(NamedTuple):
    """An encoded image and where it comes from."""

    path: str
    row: int | None
    content: bytes | None
    label: str | None
    damage: str | None = None
    """Why there is no content."""


def read_pictures(batch: PictureBatch) -> Iterator[Picture]:
    """The encoded pictures of a batch; one without content stands for a file that cannot be read, and says why."""
    for file in batch.files:
        try:
            if batch.rows is None:
                folders = file.name.split("/")[1:-1]
                yield Picture(file.name, None, Path(file.path).read_bytes(), folders[0] if folders else None)
            else:
                yield from _rows_of(batch.source, file, *batch.rows)
        except (OSError, ValueError) as error:  # of which Arrow's are
            yield Picture(file.name, None, None, None, str(error).splitlines()[0].replace(file.path, file.name))
            continue
        file.check_unchanged()


def _rows_of(source: ImageSource, file: ListedFile, first: int, last: int) -> Iterator[Picture]:
    """The pictures in some rows of a parquet file."""
    columns = [source.image_column, *([source.label_column] if source.label_column else [])]
    with pq.ParquetFile(file.path, memory_map=True) as table:
        if missing := [column for column in columns if column not in table.schema_arrow.names]:
            raise ValueError(f"no column {missing[0]!r} among {', '.join(table.schema_arrow.names)}")
        row = 0
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if row + size <= first or row >= last:
                row += size
                continue
            for batch in table.iter_batches(256, [group], columns):
                low, high = max(first - row, 0), min(last - row, batch.num_rows)
                values = batch.slice(low, max(high - low, 0)).to_pylist()
                for number, value in enumerate(values, row + low):
                    content = value[source.image_column]
                    content = content.get("bytes") if isinstance(content, dict) else content
                    label = value[source.label_column] if source.label_column else None
                    yield Picture(file.name, number, content, None if label is None else str(label))
                row += batch.num_rows


def decode(content: bytes, size: int, row: NDArray[np.uint8]) -> str | None:
    """Write the planes of a picture's centred square into `row` (shape [3 * size * size]), or say why it cannot be.

    The picture is turned as its EXIF data say, the first frame is taken of an animation, transparency is dropped.
    """
    try:
        with Image.open(io.BytesIO(content), formats=sorted(set(PICTURES.values()))) as image:
            if image.width * image.height > MOST_PIXELS:
                return f"{image.width} x {image.height} pixels, more than {MOST_PIXELS}"
            image.draft("RGB", (2 * size, 2 * size))  # a JPEG is decoded at the least scale that is enough
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey
                upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
            side = min(upright.size)
            left, top = (upright.width - side) / 2, (upright.height - side) / 2
            square = upright.convert("RGB").resize(
                (size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side), reducing_gap=3.0
            )
    except MemoryError:
        raise
    except UnidentifiedImageError:  # its message holds an address in memory
        return "not a picture in a known format"
    except Exception as error:  # decoders run into anything in damaged files
        message = str(error).splitlines()[0] if str(error) else ""
        return message if message and " at 0x" not in message else type(error).__name__
    row.reshape(3, size, size)[:] = np.asarray(square).transpose(2, 0, 1)
    return None
