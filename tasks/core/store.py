"""The store: artifacts below one home folder, and keys that say what was asked for.

An artifact appears whole or not at all: its files are written in scratch, synced, described by a manifest, and moved
into place by one rename. A kill before the rename leaves scratch to sweep; a kill after it leaves an artifact that the
next run finds by its digest.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.files import place_folder, sync, write_file
from tasks.core.artifact import (
    MANIFEST_FILE,
    METRICS_FILE,
    SAMPLED_BYTES,
    Artifact,
    Manifest,
    Reference,
    Request,
    digest_of,
    find_damage,
    hash_files,
)
from tasks.core.digest import canonical

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
        where = f"it was moved to {aside}" if aside else "another process has moved it aside"
        warn(f"{artifact.stage} {artifact.digest[:12]} is damaged ({damage}); {where} and is derived again")
        return None

    def set_aside(self, artifact: Artifact) -> Path | None:
        """Move a damaged artifact out of reach, keeping its bytes for whoever wants to know what happened.

        Returns where it is, or None if another process has moved it.
        """
        damaged = self.home / "damaged"
        damaged.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            aside = damaged / f"{artifact.stage}-{artifact.digest}-{number}"
            try:
                artifact.path.rename(aside)
            except FileNotFoundError:
                return None
            except OSError:
                if not aside.exists():
                    raise
            else:
                return aside
        raise AssertionError("unreachable")

    def commit(
        self,
        request: Request,
        out: Path,
        metrics: dict[str, int | float],
        held: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Artifact:
        """Make the folder `out` the artifact that answers `request`.

        What others can see happens in `held()`, which raises if the writer has lost its lease (Lease.held): a process
        that slept through its own time-out must not speak for the stage any more.

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
        artifact = Artifact(request.stage, name, target)
        with held():
            if target.exists() and find_damage(artifact) is not None:
                self.set_aside(artifact)
            try:
                place_folder(out, target)
            except OSError:
                if not (target / MANIFEST_FILE).exists():
                    raise
                shutil.rmtree(out)  # other settings, same bytes: the wave of reruns stops at this stage
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
