"""What did not go as every other step is kept with the model, counted from one, and read as a sentence."""

from pathlib import Path

from models.learn.incidents import Incident, read_incidents, write_incidents
from tests.models.shards import stream_spec


def some(folder: Path) -> list[Incident]:
    spec = stream_spec(folder, batch=8)
    return [
        Incident.of("skip", spec, (120, 120), 9.75, 1.5, "loss 9.75 is 7.1 deviations above the median"),
        Incident.of("rollback", spec, (351, 400), float("nan"), float("inf"), "back to the weights of step 350"),
    ]


def test_incidents_survive_their_file(tmp_path: Path) -> None:
    write_incidents(tmp_path, some(tmp_path / "data"))
    assert read_incidents(tmp_path) == some(tmp_path / "data")


def test_a_model_from_elsewhere_has_none(tmp_path: Path) -> None:
    assert read_incidents(tmp_path) == []


def test_an_incident_is_a_sentence_that_names_the_windows(tmp_path: Path) -> None:
    assert [str(incident) for incident in some(tmp_path)] == [
        "Step 120 moved nothing (windows 952 to 959 of the order): loss 9.75 is 7.1 deviations above the median.",
        "Steps 351 to 400 moved nothing (windows 2,800 to 3,199 of the order): back to the weights of step 350.",
    ]


def test_what_is_no_number_is_kept_as_none(tmp_path: Path) -> None:
    rollback = some(tmp_path)[1]
    assert (rollback.loss, rollback.grad_norm) == (None, None)
