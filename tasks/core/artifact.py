"""An artifact: an immutable folder of files, named by what it contains, and the request that it answers.

Reuse reads back what it trusts: every size, and the hashes of up to 256 MiB of each artifact (0.1 s), so that a flipped
bit on the disk becomes a rerun instead of a wrong model.
"""

import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

from models.files import write_file
from tasks.core.digest import digest
from tasks.core.errors import StageError

SAMPLED_BYTES = 256 << 20
METRICS_FILE = "metrics.json"
MANIFEST_FILE = "manifest.json"
RUN_FILE = "run.json"


class FileEntry(BaseModel):
    """One data file of an artifact; `path` is relative to the artifact and uses forward slashes."""

    model_config = ConfigDict(frozen=True)
    path: str
    bytes: int
    blake3: str


class Reference(BaseModel):
    """An artifact as another one names it: independent of where the store lies."""

    model_config = ConfigDict(frozen=True)
    stage: str
    digest: str


class Request(BaseModel):
    """Everything that decides what a stage puts out; its hash is the stage's key."""

    model_config = ConfigDict(frozen=True)
    stage: str
    version: int
    inputs: dict[str, Reference | list[Reference] | None]
    settings: dict[str, Any]
    code: dict[str, str]
    """Hash of each symbol that the stage's function reaches, and of each file that it reads."""
    libraries: dict[str, str]
    """Releases of the libraries that they use, and of Python."""

    @cached_property
    def key(self) -> str:
        """The hash of all the fields, under which the output is found again."""
        return digest(self.model_dump())

    def references(self) -> Iterator[tuple[str, Reference]]:
        """(parameter name, artifact) of every input; those of a parameter that takes several are numbered from 0."""
        for name, given in self.inputs.items():
            if isinstance(given, Reference):
                yield name, given
            else:
                yield from ((f"{name}.{number}", reference) for number, reference in enumerate(given or ()))


class Manifest(Request):
    """What an artifact says of itself. Holds nothing that differs between two equal runs."""

    files: list[FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A handle to an immutable folder: small enough to pass through Prefect, complete enough to read from."""

    stage: str
    digest: str
    path: Path

    @property
    def reference(self) -> Reference:
        """The artifact's name in requests: its stage and digest, without its place."""
        return Reference(stage=self.stage, digest=self.digest)

    @cached_property
    def manifest(self) -> Manifest:
        """What manifest.json says: the request and every data file. Read once."""
        return Manifest.model_validate_json((self.path / MANIFEST_FILE).read_bytes())

    @cached_property
    def metrics(self) -> dict[str, int | float]:
        """The deterministic figures that the stage returned."""
        path = self.path / METRICS_FILE
        return json.loads(path.read_bytes()) if path.exists() else {}

    @classmethod
    def of(cls, stage: str, folder: Path) -> "Artifact":
        """Treat any folder as an artifact (tests, and models brought in from elsewhere)."""
        return cls(stage, digest_of(hash_files(folder)), folder)


PROMISED = "?"
"""Stands where the digest of an output that does not exist yet would stand."""


@dataclass(frozen=True)
class Promise(Artifact):
    """An output that does not exist yet: what a plan hands on to the stages after it."""

    foretold: dict[str, int | float]
    """Those of its metrics that are known before the stage runs."""

    @classmethod
    def of_stage(cls, stage: str, foretold: dict[str, int | float]) -> "Promise":
        """The promise of a stage's output, under the digest that stands for an unknown one."""
        return cls(stage, PROMISED, Path(PROMISED), foretold)

    @property
    def metrics(self) -> dict[str, int | float]:
        """The figures that are foretold: all that is known of the output."""
        return self.foretold


def hash_files(folder: Path) -> list[FileEntry]:
    """Entries of all data files below `folder` (the manifest and the run record are not data), sorted by path."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StageError(f"{path} is not a plain file, so the artifact cannot be moved; write the file itself")
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and relative not in (MANIFEST_FILE, RUN_FILE):
            hasher = blake3(max_threads=blake3.AUTO)
            hasher.update_mmap(path)
            entries.append(FileEntry(path=relative, bytes=path.stat().st_size, blake3=hasher.hexdigest()))
    return entries


def digest_of(files: list[FileEntry]) -> str:
    """The artifact's name: a hash over paths, sizes and hashes, so the same bytes have the same name anywhere."""
    return digest([entry.model_dump() for entry in files])


def find_damage(artifact: Artifact, sampled_bytes: int | None = SAMPLED_BYTES) -> str | None:
    """What is wrong with an artifact's files, or None. All sizes are compared, and hashes of files in random order
    until `sampled_bytes` are read (None: all of them)."""
    try:
        manifest = artifact.manifest
    except (FileNotFoundError, ValidationError):
        return "its manifest cannot be read"
    if digest_of(manifest.files) != artifact.digest:
        return "its manifest does not belong to its digest"
    for entry in manifest.files:
        path = artifact.path / entry.path
        if not path.is_file():
            return f"{entry.path} is missing"
        if path.stat().st_size != entry.bytes:
            return f"{entry.path} has {path.stat().st_size} bytes instead of {entry.bytes}"
    left = sampled_bytes
    for entry in random.sample(manifest.files, len(manifest.files)):
        if left is not None and left <= 0:
            break
        hasher = blake3(max_threads=blake3.AUTO)
        hasher.update_mmap(artifact.path / entry.path)
        if hasher.hexdigest() != entry.blake3:
            return f"the bytes of {entry.path} have changed"
        left = None if left is None else left - entry.bytes
    return None


def write_run_record(artifact: Artifact, run_id: str, node: str, started: float) -> None:
    """Say beside the manifest when, where and in which run the artifact was made; outside its digest, since it differs
    between equal runs. `started` is in seconds since 1970."""
    made = {
        "run": run_id,
        "node": node,
        "host": socket.gethostname(),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
    }
    write_file(artifact.path / RUN_FILE, json.dumps(made, indent=1).encode())


def run_of(artifact: Artifact) -> str | None:
    """The run in which an artifact was made, where that is known."""
    try:
        return str(json.loads((artifact.path / RUN_FILE).read_bytes())["run"])
    except (OSError, ValueError, KeyError):
        return None
