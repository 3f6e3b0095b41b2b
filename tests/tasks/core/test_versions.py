"""An older home is one of today's after the first look, and nothing that it holds is lost; a newer one is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tasks.core.artifact import Request
from tasks.core.errors import UserError
from tasks.core.store import Store
from tasks.core.versions import VERSION, open_store, version_of
from tests.night import make_night
from tests.tiny import Commands


def older(home: Path) -> dict[str, Request]:
    """Make the home one of version 1; returns today's requests by the digests of their answers."""
    requests = {}
    for number, file in enumerate(sorted((home / "keys").glob("*/*.json"))):
        content = json.loads(file.read_bytes())
        request = Request.model_validate(content["request"])
        requests[content["digest"]] = request
        if request.stage == "ingest":
            content["request"]["settings"] = {
                "inventory": {"stocks": [{"units": [{"name": "a", "path": "", "mark": "1"}]}]},
                "settings": content["request"]["settings"],
            }
        del content["waiver"]
        content["waived_code_of"] = "0" * 40 if request.stage == "filter" else None
        target = home / "keys" / f"{Request.model_validate(content['request']).key}.json"
        target.write_text(json.dumps(content))
        os.utime(target, ns=(number, number))
        file.unlink()
    shutil.rmtree(home / "keys" / "ingest")
    (home / "store.json").unlink(missing_ok=True)
    return requests


def test_what_an_older_home_has_computed_answers_todays_requests(tmp_path: Path) -> None:
    made = make_night(tmp_path)
    requests = older(tmp_path)
    assert version_of(tmp_path) == 1
    open_store(tmp_path)
    assert version_of(tmp_path) == VERSION
    store = Store(tmp_path)
    for digest, request in requests.items():
        if request.stage != "ingest":
            record = store.record(request)
            assert record is not None and record.digest == digest
    (ingest,) = store.records("ingest")
    assert ingest.digest == made.artifacts["ingest"].digest
    assert ingest.request.settings["inventory"] == {"stocks": [{"units": [{"name": "a", "mark": "1"}]}]}
    (filtered,) = store.records("filter")
    assert filtered.waiver is not None and filtered.waiver.made_for == "0" * 40
    assert not list((tmp_path / "keys").glob("*.json"))


def test_the_order_of_answers_stays(tmp_path: Path) -> None:
    make_night(tmp_path)
    requests = older(tmp_path)
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "keys").glob("*.json"))]
    open_store(tmp_path)
    after = [path.stat().st_mtime_ns for path in (tmp_path / "keys").glob("*/*.json")]
    assert sorted(after) == sorted(before)
    assert len(after) == len(requests)


def test_a_kill_in_the_middle_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_night(tmp_path)
    requests = older(tmp_path)
    left = iter(range(4))

    def killed(*_: object, **__: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tasks.core.versions.os.utime", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store(tmp_path)
    assert version_of(tmp_path) == 1
    open_store(tmp_path)
    assert len(list((tmp_path / "keys").glob("*/*.json"))) == len(requests)


def test_an_empty_home_has_todays_version_from_the_start(tmp_path: Path) -> None:
    open_store(tmp_path / "home")
    assert json.loads((tmp_path / "home" / "store.json").read_text()) == {"version": VERSION}


def test_a_newer_home_is_refused_in_one_sentence_by_every_verb(tiny: Commands) -> None:
    tiny.home.mkdir()
    (tiny.home / "store.json").write_text(json.dumps({"version": VERSION + 1}))
    for verb in (["status"], ["plan", str(tiny.recipe)], ["run", str(tiny.recipe)], ["rerun"], ["sync"], ["up"]):
        done = tiny(*verb)
        assert done.returncode == 2, verb
        assert f"was written by a newer Nightschool (version {VERSION + 1}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tiny.home.iterdir()] == ["store.json"]


def test_a_version_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(UserError, match="does not say the version of the home"):
        open_store(tmp_path)
