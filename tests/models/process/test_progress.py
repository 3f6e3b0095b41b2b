"""The record of a training: every step once, whatever interrupts it."""

from pathlib import Path

from models.process.progress import ProgressFile, Report, read_reports


def report(step: int) -> Report:
    return Report(step, loss=1 / step, learning_rate=0.1, grad_norm=2.0, tokens_per_second=3.0, time=4)


def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    first = ProgressFile(path)
    for step in (1, 2):
        first.append(report(step))
    first.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    second = ProgressFile(path)
    assert second.last_step == 1
    second.append(report(2))
    second.close()
    assert path.read_bytes() == whole


def test_a_step_that_was_reported_is_not_reported_again(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for steps in ((1, 2, 3), (2, 3, 4)):
        progress = ProgressFile(path)
        for step in steps:
            progress.append(report(step))
        progress.close()
    assert [found.step for found, _ in read_reports(path)] == [1, 2, 3, 4]


def test_a_reader_goes_on_where_it_stopped_and_waits_for_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert list(read_reports(path)) == []
    progress = ProgressFile(path)
    progress.append(report(1))
    [(found, offset)] = read_reports(path)
    assert found == report(1)
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert list(read_reports(path, offset)) == []


def test_losses_survive_the_file_exactly(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "progress.jsonl")
    progress.append(report(1))
    progress.append(Report(2, 0.1 + 0.2, 1e-300, 1 / 3, 0.0, 2**60))
    progress.close()
    assert [found for found, _ in read_reports(tmp_path / "progress.jsonl")][1].loss == 0.1 + 0.2
