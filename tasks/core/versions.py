"""The version of a home's store: an older home is made one of today's before anything reads it, a newer one is refused.

A version counts changes of what lies in a home: where key records stand, and how requests are written in them. Code is
not counted, nor are keys that code has changed. Artifacts have never changed form.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.files import write_file
from tasks.core.errors import UserError
from tasks.core.lease import take
from tasks.core.store import KeyRecord

VERSION = 2
"""2: key records in a folder a stage; paths are no part of a request. 1: all records in one folder."""
FILE = "store.json"


def open_store(home: Path) -> None:
    """Make the home one of today's version.

    Raises:
        UserError: a newer Nightschool has written in it.
    """
    if version_of(home) == VERSION:
        return
    home.mkdir(parents=True, exist_ok=True)
    with take(home / "leases" / "store-version"):
        if version_of(home) < VERSION:
            for file in list(_records(home)):
                _bring_forward(home, file)
            write_file(home / FILE, json.dumps({"version": VERSION}).encode())


def version_of(home: Path) -> int:
    """The version of what lies in a home; an empty one has today's.

    Raises:
        UserError: it is newer than this program, or not written by it.
    """
    try:
        version = int(json.loads((home / FILE).read_bytes())["version"])
    except FileNotFoundError:
        return 1 if (home / "keys").is_dir() else 0
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{home / FILE} does not say the version of the home; restore it from a backup") from error
    if version > VERSION:
        raise UserError(
            f"the home {home} was written by a newer Nightschool (version {version} of the store, and this one knows "
            f"{VERSION}); update Nightschool, or set NIGHTSCHOOL_HOME to another folder"
        )
    return version


def _records(home: Path) -> Iterator[Path]:
    yield from sorted((home / "keys").glob("*.json"))
    yield from sorted((home / "keys").glob("*/*.json"))


def _bring_forward(home: Path, file: Path) -> None:
    """Write a record of version 1 as one of version 2, under its new key and with its old time; a torn one goes."""
    try:
        content = json.loads(file.read_bytes())
        request = content["request"]
        request["settings"] = {name: _without_paths(value) for name, value in request["settings"].items()}
        training = request["settings"].get("settings", {})
        if request["stage"] == "finetune" and "precision" in training:
            training["machine"] = {"precision": training.pop("precision"), "compile": "auto", "strategy": "auto"}
        if kept := content.pop("waived_code_of", None):
            content["waiver"] = {"asked_by": "--keep", "made_for": kept, "differences": ["code"]}
        record = KeyRecord.model_validate(content)
    except (ValueError, KeyError, TypeError, ValidationError):
        file.unlink()
        return
    target = home / "keys" / record.request.stage / f"{record.request.key}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    at = file.stat().st_mtime_ns
    write_file(target, record.model_dump_json(indent=1).encode())
    os.utime(target, ns=(at, at))
    if target != file:
        file.unlink()


def _without_paths(value: Any) -> Any:
    """An inventory's units without the empty path that stood for any."""
    if isinstance(value, dict):
        return {name: _without_paths(inner) for name, inner in value.items() if (name, inner) != ("path", "")}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value
