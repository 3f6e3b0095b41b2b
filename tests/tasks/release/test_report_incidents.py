"""The report names the windows that moved nothing, where there are any."""

import shutil
from dataclasses import replace
from pathlib import Path

from models.learn.incidents import write_incidents
from tasks.core.artifact import Artifact
from tasks.core.stage import StageLog
from tasks.release.report import ReportSettings, report
from tests.models.learn.test_incidents import some
from tests.night import make_night


def test_the_report_tells_incidents_where_there_are_any(tmp_path: Path) -> None:
    made = make_night(tmp_path / "home")
    model = made.artifacts["pretrain"]
    copy = model.path.with_name("another")
    shutil.copytree(model.path, copy)
    write_incidents(copy, some(tmp_path / "data"))
    pages = []
    for number, shown in enumerate((model, Artifact("pretrain", "another", copy))):
        out = tmp_path / str(number)
        out.mkdir()
        report(replace(made.of_text(), model=shown), ReportSettings(title="night"), out, StageLog())
        pages.append((out / "report.html").read_text())
    assert "Incidents" not in pages[0]
    assert "Step 120 moved nothing" in pages[1] and "windows 2,800 to 3,199" in pages[1]
