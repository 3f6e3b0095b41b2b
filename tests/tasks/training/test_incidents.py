"""What went wrong in a training is counted in its manifest and told in the report, with the windows at fault."""

import json
import math
import shutil
from pathlib import Path

from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.report import ReportSettings, report
from tasks.training.incidents import count_incidents, read_incidents, told
from tests.night import make_night

SKIPPED = {
    "kind": "skipped",
    "step": 120,
    "first_position": 952,
    "last_position": 959,
    "loss": 9.75,
    "grad_norm": 1.5,
    "reason": "its loss is 7.1 deviations above the mean of the last 128",
}
ROLLBACK = {
    "kind": "rollback",
    "step": 400,
    "to_step": 350,
    "first_position": 2800,
    "last_position": 3199,
    "loss": math.nan,
    "grad_norm": math.inf,
}


def write(folder: Path) -> None:
    (folder / "incidents.json").write_text(json.dumps([SKIPPED, ROLLBACK]))


def test_incidents_are_counted(tmp_path: Path) -> None:
    assert count_incidents(tmp_path) == {"skipped_steps": 0, "rollbacks": 0}
    write(tmp_path)
    assert count_incidents(tmp_path) == {"skipped_steps": 1, "rollbacks": 1}


def test_an_incident_is_a_sentence_that_names_the_windows(tmp_path: Path) -> None:
    write(tmp_path)
    assert [told(incident) for incident in read_incidents(tmp_path)] == [
        "Step 120 moved nothing: its loss is 7.1 deviations above the mean of the last 128 (windows 952 to 959; loss "
        "9.75, gradient norm 1.5).",
        "At step 400 the loss was no number (loss nan, gradient norm inf): the training went back to step 350 and left "
        "out windows 2,800 to 3,199.",
    ]


def test_the_report_tells_incidents_where_there_are_any(tmp_path: Path) -> None:
    made = make_night(tmp_path / "home")
    arguments = made.report_arguments()
    model = made.artifacts["pretrain"]
    copy = model.path.with_name("another")
    shutil.copytree(model.path, copy)
    write(copy)
    pages = []
    for number, shown in enumerate((model, Artifact("pretrain", "another", copy))):
        arguments[arguments.index(model)] = shown
        out = tmp_path / str(number)
        out.mkdir()
        report(*arguments, ReportSettings(title="night"), out, StageLog())
        pages.append((out / "report.html").read_text())
    assert "Incidents" not in pages[0]
    assert "Step 120 moved nothing" in pages[1] and "windows 2,800 to 3,199" in pages[1]
