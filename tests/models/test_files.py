"""Files and folders appear whole or not at all, whatever breaks in between and whoever else writes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.files import create_file, place_folder, write_file, written_aside


def test_a_failed_write_leaves_the_old_content_and_no_remains(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_file(file, b"old")
    with pytest.raises(TypeError):
        write_file(file, "text is not bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_until_the_block_ends_the_old_content_stands(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_file(file, b"old", durable=False)
    with written_aside(file) as aside:
        aside.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"


def test_of_several_that_create_a_file_the_first_wins_and_is_told_so(tmp_path: Path) -> None:
    contents = [str(number).encode() for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda content: create_file(tmp_path / "secret", content), contents))
    assert won.count(True) == 1
    assert (tmp_path / "secret").read_bytes() == contents[won.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_file(tmp_path / "state", content, durable=False), contents))
    assert (tmp_path / "state").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_folder_is_not_placed_over_another_with_content(tmp_path: Path) -> None:
    for name in ("aside", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        place_folder(tmp_path / "aside", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "final"
