"""The store: immutable artifacts named by what they contain, and keys that say what was asked for.

An artifact is a folder that appears whole or not at all: its files are written in scratch, synced, described by a
manifest, and moved into place by one rename. A kill before the rename leaves scratch to sweep; a kill after it
leaves an artifact that the next run finds by its digest. Reuse reads back what it trusts: every size, and the
hashes of up to 256 MiB of each artifact (0.1 s), so that a flipped bit on the disk becomes a rerun instead of a
wrong model.
"""

import json
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

from models.files import place_folder, sync, write_file
from tasks.core.digest import canonical, digest
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


WAIVABLE = ("version", "code", "libraries")
"""In which fields a request may differ from the one whose output is accepted for it."""


class Waiver(BaseModel):
    """Why a request is answered by an output that was made for another one."""

    model_config = ConfigDict(frozen=True)
    asked_by: str
    """Who accepts it: `--keep`, or a rule."""
    made_for: str
    """The key for which it was made."""
    differences: tuple[str, ...]
    """The fields of `WAIVABLE` in which the two differ."""


class KeyRecord(BaseModel):
    """The answer to a request: which artifact, and what was waived where it was made for another request."""

    model_config = ConfigDict(frozen=True)
    request: Request
    digest: str
    waiver: Waiver | None = None

    @property
    def reference(self) -> Reference:
        """The artifact that answers, as others name it."""
        return Reference(stage=self.request.stage, digest=self.digest)


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


class Store:
    """Artifacts, keys and scratch below one home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def path(self, stage: str, digest: str) -> Path:
        """The folder in which an artifact lies, or would lie."""
        return self.home / "artifacts" / stage / digest

    def scratch(self, key: str) -> Path:
        """The folder in which the output of a key is made; it is gone after the commit."""
        return self.home / "scratch" / key

    def get(self, reference: Reference) -> Artifact:
        """The handle to an artifact; whether its folder stands is not looked at."""
        return Artifact(reference.stage, reference.digest, self.path(reference.stage, reference.digest))

    def record(self, request: Request) -> KeyRecord | None:
        """The request's answer if there is one and its artifact stands."""
        return self._read(self._key_file(request))

    def find(
        self, request: Request, warn: Callable[[str], None], sampled_bytes: int | None = SAMPLED_BYTES
    ) -> Artifact | None:
        """The verified artifact that answers a request; a damaged one is moved aside, named to `warn`, and not
        returned.

        `sampled_bytes` is as for `find_damage`.
        """
        record = self.record(request)
        if record is None:
            return None
        artifact = self.get(record.reference)
        damage = find_damage(artifact, sampled_bytes)
        if damage is None:
            return artifact
        aside = self.set_aside(artifact)
        warn(
            f"{artifact.stage} {artifact.digest[:12]} is damaged ({damage}); "
            f"it was moved to {aside} and is derived again"
        )
        return None

    def set_aside(self, artifact: Artifact) -> Path:
        """Move a damaged artifact out of reach, keeping its bytes for whoever wants to know what happened."""
        damaged = self.home / "damaged"
        damaged.mkdir(parents=True, exist_ok=True)
        taken = sum(1 for _ in damaged.glob(f"{artifact.stage}-{artifact.digest}-*"))
        aside = damaged / f"{artifact.stage}-{artifact.digest}-{taken + 1}"
        artifact.path.rename(aside)
        return aside

    def commit(
        self,
        request: Request,
        out: Path,
        metrics: dict[str, int | float],
        confirm: Callable[[], None] = lambda: None,
    ) -> Artifact:
        """Make the folder `out` the artifact that answers `request`.

        `confirm` is called last before the rename and raises if the writer has lost its lease: a process that slept
        through its own time-out must not speak for the stage any more.

        Raises:
            StageError: `out` holds a link or other thing that is not a plain file.
        """
        write_file(out / METRICS_FILE, canonical(metrics))
        files = hash_files(out)
        for entry in files:
            path = out / entry.path
            sync(path)
            path.chmod(0o400)
        name = digest_of(files)
        manifest = Manifest(**dict(request), files=files)
        write_file(out / MANIFEST_FILE, json.dumps(manifest.model_dump(), indent=1, sort_keys=True).encode())
        for folder in {path.parent for path in out.rglob("*")}:
            sync(folder)
        target = self.path(request.stage, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        confirm()
        artifact = Artifact(request.stage, name, target)
        if target.exists() and find_damage(artifact) is not None:
            self.set_aside(artifact)
        if target.exists():  # other settings, same bytes: the wave of reruns stops at this stage
            shutil.rmtree(out)
        else:
            place_folder(out, target)
        self.point(request, name)
        return artifact

    def point(self, request: Request, digest: str, waiver: Waiver | None = None) -> None:
        """Answer `request` with the artifact `digest` from now on."""
        file = self._key_file(request)
        file.parent.mkdir(parents=True, exist_ok=True)
        record = KeyRecord(request=request, digest=digest, waiver=waiver)
        write_file(file, record.model_dump_json(indent=1).encode())

    def records(self, stage: str) -> Iterator[KeyRecord]:
        """All standing answers of a stage, the newest first."""
        files = (self.home / "keys" / stage).glob("*.json")
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            record = self._read(path)
            if record is not None:
                yield record

    def acceptable(self, request: Request) -> KeyRecord | None:
        """The newest standing answer to a request that differs in nothing but what can be waived."""
        wanted = _waived(request)
        return next((record for record in self.records(request.stage) if _waived(record.request) == wanted), None)

    def accept(
        self,
        request: Request,
        asked_by: str,
        warn: Callable[[str], None],
        sampled_bytes: int | None = SAMPLED_BYTES,
    ) -> Artifact | None:
        """Answer a request from now on with the newest output that differs from it in nothing but what can be waived,
        and keep with the answer who asked for it and what was waived; None where there is no such output."""
        record = self.acceptable(request)
        found = self.find(record.request, warn, sampled_bytes) if record is not None else None
        if record is None or found is None:
            return None
        differing = tuple(name for name in WAIVABLE if getattr(record.request, name) != getattr(request, name))
        waiver = Waiver(asked_by=asked_by, made_for=record.request.key, differences=differing)
        self.point(request, found.digest, waiver)
        return found

    def _read(self, file: Path) -> KeyRecord | None:
        """An answer whose artifact stands; a torn or foreign file counts as no answer."""
        try:
            record = KeyRecord.model_validate_json(file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return record if (self.get(record.reference).path / MANIFEST_FILE).exists() else None

    def _key_file(self, request: Request) -> Path:
        return self.home / "keys" / request.stage / f"{request.key}.json"


def _waived(request: Request) -> dict[str, Any]:
    return request.model_dump(exclude=set(WAIVABLE))


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
