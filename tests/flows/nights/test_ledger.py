"""The ledger: each night in one state, dead ones settled, reruns found."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.nights.ledger import Ledger, close_journal, new_night
from tasks.core.errors import UserError
from tasks.core.journal import Journal, read_journal


def test_a_running_night_whose_process_was_killed_is_settled_as_killed(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from flows.nights.ledger import *\n"
        "from tasks.core.journal import Journal\n"
        f"ledger = Ledger(Path({str(tmp_path)!r})); night = new_night('small', Path('r.yaml'))\n"
        "with ledger.hold(night):\n"
        "    ledger.write(night); journal = Journal(ledger.journal_path(night))\n"
        "    journal.append('start'); journal.append('start', 'ingest')\n"
        "    journal.append('end', 'ingest', status='FINISHED')\n"
        "    journal.append('start', 'filter'); print('up', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    ledger = Ledger(tmp_path)
    assert [night.state for night in ledger.nights()] == ["running"]
    with pytest.raises(UserError, match="is running; see `nightschool status`"):
        ledger.to_rerun()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (night,) = ledger.nights()
    assert night.state == "killed"
    assert ledger.to_rerun().id == night.id
    ledger.settle(night)
    ends = [(r.node, r.payload["status"]) for r in read_journal(ledger.journal_path(night)) if r.kind == "end"]
    assert ends == [("ingest", "FINISHED"), ("filter", "KILLED"), ("", "KILLED")]


def test_only_a_night_that_ended_badly_is_rerun(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(UserError, match=r"no night in .*; `nightschool run RECIPE` starts one"):
        ledger.to_rerun()
    night = new_night("small", Path("r.yaml"))
    ledger.write(night.model_copy(update={"state": "done"}))
    with pytest.raises(UserError, match="ended well, so there is nothing to rerun"):
        ledger.to_rerun()
    ledger.write(night.model_copy(update={"state": "failed", "failed_node": "tokenize"}))
    assert ledger.to_rerun(night.id).failed_node == "tokenize"


def test_a_prefect_retry_finds_its_night(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    night = new_night("small", Path("r.yaml")).model_copy(update={"state": "failed", "prefect_runs": ["p1", "p2"]})
    ledger.write(night)
    assert ledger.by_prefect_run("p2") == night
    assert ledger.by_prefect_run("p3") is None


def test_closing_a_journal_twice_adds_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.append("start")
    journal.close()
    close_journal(journal.path, "FAILED")
    close_journal(journal.path, "FINISHED")
    assert [record.kind for record in read_journal(journal.path)] == ["start", "end"]


def test_looking_writes_nothing_and_settling_writes_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    night = new_night("small", Path("r.yaml"))
    ledger.write(night)
    Journal(ledger.journal_path(night)).append("start")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (seen,) = ledger.nights()
    assert seen.state == "killed"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    ledger.settle(seen)
    entry = ledger.entry(night.id)
    assert entry is not None and entry.state == "killed"
    written = ledger.journal_path(night).read_bytes()
    ledger.settle(seen)
    assert ledger.journal_path(night).read_bytes() == written


def test_a_stale_copy_settles_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    night = new_night("small", Path("r.yaml"))
    stale = night.model_copy()
    ledger.write(night.model_copy(update={"state": "done"}))
    ledger.settle(stale)
    entry = ledger.entry(night.id)
    assert entry is not None and entry.state == "done"


def test_an_entry_that_cannot_be_read_is_named_and_the_others_are_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    night = new_night("small", Path("r.yaml"))
    ledger.write(night.model_copy(update={"state": "done"}))
    (tmp_path / "nights" / "20200101-000000-0000.json").write_text("{torn")
    assert [found.id for found in ledger.nights()] == [night.id]
    assert "20200101-000000-0000.json cannot be read" in caplog.text


def test_whether_mlflow_has_a_night_is_kept_beside_its_entry(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    night = new_night("small", Path("r.yaml"))
    ledger.write(night.model_copy(update={"state": "done"}))
    before = (tmp_path / "nights" / f"{night.id}.json").read_bytes()
    ledger.mark_in_mlflow(night, True)
    assert ledger.nights()[0].in_mlflow
    ledger.mark_in_mlflow(night, False)
    assert not ledger.nights()[0].in_mlflow
    assert (tmp_path / "nights" / f"{night.id}.json").read_bytes() == before
