"""Named tensors in safetensors files, whole or in the parts that several processes hold; read by any number of them.

`model.safetensors` holds whole tensors. Of a model that is divided (FSDP), process r of n writes
`model-0000r-of-0000n.safetensors` with its parts, and the header says where each begins and how large the whole is: a
process that holds other parts, or all, reads just the bytes that it needs. torch's own distributed checkpoints pickle
their index.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from models.machine.ranks import Ranks

_PLACES = "places"


@dataclass(frozen=True)
class TensorPart:
    """A stretch of a tensor's first dimension; a whole tensor is the stretch from 0."""

    begin: int
    rows: int
    shape: tuple[int, ...]
    """The shape of the whole tensor."""


def write_tensors(folder: Path, kind: str, tensors: dict[str, Tensor], ranks: Ranks, own: bool = False) -> None:
    """Write what this process has to: its parts of divided tensors, and, the first process alone, whole ones.

    `own`: each process has tensors of its own under the same names (random states). Raises OSError when the disk
    refuses.
    """
    divided = (own and ranks.world > 1) or any(isinstance(tensor, DTensor) for tensor in tensors.values())
    if not divided:
        if ranks.first:
            _write({name: _plain(tensor) for name, tensor in tensors.items()}, folder / f"{kind}.safetensors")
        return
    mine = {name: tensor for name, tensor in tensors.items() if own or ranks.first or isinstance(tensor, DTensor)}
    places = {name: [part.begin, *part.shape] for name, tensor in mine.items() for part in [part_of(tensor)]}
    file = folder / f"{kind}-{ranks.rank:05d}-of-{ranks.world:05d}.safetensors"
    _write({name: _plain(tensor) for name, tensor in mine.items()}, file, {_PLACES: json.dumps(places, sort_keys=True)})


def part_of(tensor: Tensor) -> TensorPart:
    """Which part of the whole this process holds. Only division by rows, as FSDP's, is known."""
    shape = tuple(tensor.shape)
    if not isinstance(tensor, DTensor) or not any(isinstance(p, Shard) for p in tensor.placements):
        return TensorPart(0, shape[0] if shape else 1, shape)
    (placement,) = tensor.placements
    assert isinstance(placement, Shard) and placement.dim == 0, f"divided as {tensor.placements}"
    chunk = -(-shape[0] // tensor.device_mesh.size())
    begin = min(shape[0], chunk * tensor.device_mesh.get_local_rank())
    return TensorPart(begin, min(chunk, shape[0] - begin), shape)


class Tensors:
    """The stored tensors of one kind in a checkpoint's folder."""

    def __init__(self, folder: Path, kind: str, own: int | None = None) -> None:
        """`own`: of which process, where each has tensors of its own; the first's where that one did not write any."""
        whole = folder / f"{kind}.safetensors"
        files = [whole] if whole.exists() else sorted(folder.glob(f"{kind}-*-of-*.safetensors"))
        if not files:
            raise ValueError(f"The checkpoint {folder} has no {kind}: it is not one of a training.")
        if own is not None:
            files = [files[own if own < len(files) else 0]]
        self._folder = folder
        self._open: list[Any] = []
        self._parts: dict[str, list[tuple[Any, int]]] = {}
        for file in files:
            reader = safe_open(file, framework="pt", device="cpu")
            self._open.append(reader)
            places = json.loads((reader.metadata() or {}).get(_PLACES, "{}"))
            for name in reader.keys():  # noqa: SIM118 - no dictionary
                self._parts.setdefault(name, []).append((reader, places.get(name, [0])[0]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._parts.clear()

    @property
    def names(self) -> Sequence[str]:
        """The names of all tensors, in the order of the files."""
        return tuple(self._parts)

    def read(self, name: str) -> Tensor:
        """The whole tensor."""
        pieces = [reader.get_tensor(name) for reader, _ in self._found(name)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def read_rows(self, name: str, part: TensorPart) -> Tensor:
        """The rows of the part alone, from whichever files hold them."""
        pieces = []
        for reader, begin in self._found(name):
            stored = reader.get_slice(name)
            low = max(part.begin, begin)
            high = min(part.begin + part.rows, begin + stored.get_shape()[0])
            if low < high:
                pieces.append(stored[low - begin : high - begin])
        return torch.cat(pieces) if pieces else self._found(name)[0][0].get_tensor(name)[:0]

    def read_into(self, name: str, tensor: Tensor) -> None:
        """Set the tensor, or the part of it that this process holds, in place."""
        if isinstance(tensor, DTensor):
            tensor.to_local().copy_(self.read_rows(name, part_of(tensor)))
        else:
            tensor.copy_(self.read(name))

    def read_like(self, name: str, parameter: Tensor) -> Tensor:
        """A tensor that lies on the devices and is divided as the parameter is; one of another shape is whole."""
        if isinstance(parameter, DTensor) and self._rows(name) == parameter.shape[0]:
            local = self.read_rows(name, part_of(parameter)).to(parameter.device)
            return DTensor.from_local(
                local,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        return self.read(name).to(parameter.device)

    def _rows(self, name: str) -> int | None:
        shapes = [reader.get_slice(name).get_shape() for reader, _ in self._found(name)]
        return sum(shape[0] for shape in shapes) if all(shapes) else None

    def _found(self, name: str) -> list[tuple[Any, int]]:
        if name not in self._parts:
            raise ValueError(f"The checkpoint {self._folder} lacks {name}: it is one of another model.")
        return self._parts[name]


def _write(tensors: dict[str, Tensor], file: Path, header: dict[str, str] | None = None) -> None:
    try:
        save_file(tensors, file, header)
    except SafetensorError as error:  # a full disk too is told as an error of its own kind, in words
        if refused := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(file)) from error
        raise


def _plain(tensor: Tensor) -> Tensor:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().cpu().contiguous()
