"""Going on at a far step of a training of a billion windows: opening its data and reading that step's batch.

    python -m tests.benchmarks.resume

10^9 windows of 256 tokens are 512 GB of uint16. They are laid out in two ways, without writing them: as *one file*
whose tokens are a hole of a sparse file and whose record batches are nearly as large as Arrow's list offsets allow
(2^30 tokens); and as *many shards* like those of the tokenize stage (8 record batches of a million tokens each), here
one such shard on disk that the training names 32,000 times. Bytes of a hole cost no reading and the file system's cache
is warm, so the figures are of our own work, not of a disk. Each run is a process of its own; what is measured begins
after the imports: `Steps(spec)`, then the batch of a random step of the third epoch. The first process to open many
shards keeps in the training's folder what it found (models/order/stretches.py): "first" is that process, "resumed" any
later one. Memory is what the process holds more than before, pages of mapped files apart, which the kernel takes back
when it wants.

The goals are of the resumed training. Exits with 1 where one is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from rich.console import Console
from rich.table import Table

from models.spec import FitSpec, ModelConfig, NextToken, Optimisation, Source, TokenStream

PROJECT = Path(__file__).resolve().parents[2]
FEW, MANY = 10**6, 10**9
"""Windows."""
LENGTH = 256
BATCH = 16
LARGEST = 1 << 30
"""Tokens of a record batch of the one file."""
PART = 1_000_000
"""Tokens of a record batch of the tokenize stage: 4 MB of text."""
PARTS = 8
"""Record batches of a shard of the tokenize stage: 32 MB of text."""
WALL_S = 2.0
SAME_BYTES = 4_000_000
"""Memory that is noise: arenas of the allocators."""


class Holes:
    """A file to write to in which a large buffer of zeros becomes a hole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.closed = False

    def write(self, data: bytes | pa.Buffer) -> int:
        size = len(memoryview(data))
        if size >= PART:
            self._file.seek(size, os.SEEK_CUR)
        else:
            self._file.write(data)
        return size

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if not self.closed:
            self._file.truncate(max(self._file.tell(), os.fstat(self._file.fileno()).st_size))
            self._file.close()
        self.closed = True


def write_shard(path: Path, tokens: int, part: int, document: int) -> None:
    """A shard of so many tokens, all 0 and no byte of them on disk, in record batches of `part` tokens."""
    hole = path.with_suffix(".hole")
    with hole.open("wb") as file:
        file.truncate(2 * part)
    zeros = pa.memory_map(str(hole)).read_buffer()
    schema = pa.schema(
        [("doc_id", pa.string()), ("source", pa.string()), ("bytes", pa.int32()), ("tokens", pa.list_(pa.uint16()))]
    )
    with pa.PythonFile(Holes(path), "w") as sink, pa.ipc.new_file(sink, schema) as writer:
        for first in range(0, tokens, part):
            count = min(part, tokens - first)
            offsets = np.append(np.arange(0, count, document), count).astype(np.int32)
            rows = offsets.size - 1
            values = pa.Array.from_buffers(pa.uint16(), count, [None, zeros.slice(0, 2 * count)])
            lists = pa.ListArray.from_arrays(pa.array(offsets), values)
            columns = [[f"{first}/{i}" for i in range(rows)], ["all"] * rows, np.full(rows, document, np.int32)]
            writer.write_batch(
                pa.record_batch([*map(pa.array, columns[:2]), pa.array(columns[2], pa.int32()), lists], schema)
            )
    hole.unlink()


def spec_of(shards: tuple[Path, ...], place: Path) -> FitSpec:
    """A training on the shards; only the data matters."""
    return FitSpec(
        model=ModelConfig.sized(vocabulary=64, context_length=LENGTH, layers=1, width=8, heads=1, kv_heads=1),
        data=TokenStream(sources=(Source(name="all", shards=shards),), digest="", objective=NextToken()),
        optimisation=Optimisation(learning_rate=1e-3, warmup_steps=0, cooldown_steps=0),
        steps=1 << 40,
        batch=BATCH,
        seed=7,
        work=place,
        out=place,
    )


def own_bytes() -> int:
    """Memory of this process that is no page of a mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def side(shards: tuple[Path, ...], work: Path) -> None:
    """Open, read a far batch, print what it took: the process that is measured."""
    from models.order.loader import Steps

    spec = spec_of(shards, work)
    before = own_bytes()
    started = time.perf_counter()
    steps = Steps(spec)
    opened = time.perf_counter()
    far = int(np.random.default_rng().integers(2 * steps.order.n // BATCH, 3 * steps.order.n // BATCH))
    batch = steps[far]
    ended = time.perf_counter()
    assert batch.tokens_BT.shape == (BATCH, LENGTH)
    print(
        json.dumps(
            {
                "windows": steps.order.n,
                "step": far,
                "open_s": opened - started,
                "read_s": ended - opened,
                "bytes": own_bytes() - before,
            }
        )
    )


@dataclass(frozen=True)
class Layout:
    """One way to lay windows out."""

    name: str
    windows: int
    shard: Path
    times: int

    def measure(self, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
        """The figures of the first process, and medians of later ones."""
        place = self.shard.parent / f"work-{self.name}-{self.windows}"
        command = [sys.executable, "-m", "tests.benchmarks.resume", "--side", self.shard, "--work", place]
        found = []
        for _ in range(1 + rounds):
            done = subprocess.run(
                [*map(str, command), "--times", str(self.times)],
                cwd=PROJECT,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                check=True,
                stdout=subprocess.PIPE,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
        assert all(abs(one["windows"] / self.windows - 1) < 0.01 for one in found), found
        later = {name: statistics.median(one[name] for one in found[1:]) for name in ("open_s", "read_s", "bytes")}
        return found[0], later


def layouts_in(folder: Path) -> list[Layout]:
    """Both layouts of both sizes, written."""
    small = folder / "shard.arrow"
    write_shard(small, PART * PARTS, PART, document=1000)
    found = []
    for windows in (FEW, MANY):
        large = folder / f"one-{windows}.arrow"
        write_shard(large, windows * LENGTH + 1, LARGEST, document=1 << 16)
        times = round(windows * LENGTH / (PART * PARTS))
        found += [Layout("one file", windows, large, 1), Layout("many shards", windows, small, times)]
    return found


def main(rounds: int) -> int:
    """Measure, print the table, say whether all goals are met."""
    with tempfile.TemporaryDirectory() as place:
        layouts = layouts_in(Path(place))
        used = sum(path.stat().st_blocks * 512 for path in Path(place).iterdir())
        print(f"{used / 1e6:,.0f} MB of disk for all layouts", file=sys.stderr)
        found = {(layout.name, layout.windows): layout.measure(rounds) for layout in layouts}
    table = Table("what", "first", "resumed", "goal", "met", title="Going on at a far step")
    missed = 0
    for layout in layouts:
        first, later = found[layout.name, layout.windows]
        walls = [figures["open_s"] + figures["read_s"] for figures in (first, later)]
        met = walls[1] < WALL_S
        missed += not met
        resumed = f"{walls[1]:.3f} s (of it, the batch {later['read_s'] * 1e3:.1f} ms)"
        what = f"{layout.name}, {layout.windows:,} windows: open and read"
        table.add_row(what, f"{walls[0]:.3f} s", resumed, f"{WALL_S:g} s", "yes" if met else "NO")
    for name in ("one file", "many shards"):
        figures = [[found[name, windows][run]["bytes"] for windows in (FEW, MANY)] for run in (0, 1)]
        few, many = figures[1]
        met = many - few < SAME_BYTES
        missed += not met
        texts = [" and ".join(f"{count / 1e6:.1f}" for count in pair) + " MB" for pair in figures]
        what = f"{name}, memory at {FEW:,} and {MANY:,}"
        table.add_row(what, *texts, f"equal, to {SAME_BYTES / 1e6:g} MB", "yes" if met else "NO")
    Console(width=140).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=Path, help="measure this shard, here")
    parser.add_argument("--work", type=Path, help="the training's folder")
    parser.add_argument("--times", type=int, default=1, help="how often the training names it")
    arguments = parser.parse_args()
    if arguments.side:
        side((arguments.side,) * arguments.times, arguments.work)
    else:
        sys.exit(main(arguments.rounds))
