"""Globs: what `glob.glob` finds, without its endless walks."""

from glob import glob
from pathlib import Path

import pytest

from tasks.core.errors import UserError
from tasks.intake.places import find
from tasks.intake.walk import fixed_part, in_kernel_folder, matches


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.md", "g/h.txt", ".hidden/i.txt", "b/.j.txt", "b/[k].txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "*.txt",
            "*/*.txt",
            "**/*.txt",
            "**",
            "b/**",
            "**/d/*",
            "**/**/*.txt",
            "?/[ch].txt",
            "b/*/e.txt",
            "**/b/**/*.md",
        ),
        *("*/d/e.txt", ".*/*.txt", "b/.*", "no/**", "**/no", "b/[[]k[]].txt", "[ab]*"),
    ],
)
def test_a_glob_finds_the_files_that_the_standard_library_finds(tree: Path, pattern: str) -> None:
    found = matches(*fixed_part(tree / pattern))
    expected = {path for path in map(Path, glob(str(tree / pattern), recursive=True)) if path.is_file()}
    assert set(found) == expected
    assert len(found) == len(set(found))


def test_links_that_lead_round_end(tree: Path) -> None:
    for number in range(12):  # glob.glob follows each into each, 40 levels deep
        (tree / f"b/link{number}").symlink_to(tree / "b")
    (tree / "self.txt").symlink_to(tree / "self.txt")
    found = find(str(tree / "**/*.txt"), (".txt",), "a")
    assert sorted(file.relative for file in found) == ["a.txt", "b/[k].txt", "b/c.txt", "b/d/e.txt", "g/h.txt"]


def test_a_linked_folder_is_entered_once(tree: Path) -> None:
    (tree / "z").symlink_to(tree / "b" / "d")
    (tree / "elsewhere").symlink_to(tree.parent)
    names = [path.relative_to(tree).as_posix() for path in matches(tree, ["z", "**", "*.txt"])]
    assert names == ["z/e.txt"]


def test_a_folder_of_files_that_may_not_be_listed_is_passed_over(tree: Path) -> None:
    assert matches(tree / "a.txt", ["**"]) == []
    assert matches(tree / "no", ["*"]) == []


@pytest.mark.parametrize("path", ["/proc", "/proc/self/fd", "/sys/class", "/dev/zero", "/usr/../dev/null"])
def test_the_kernels_folders_are_no_place_for_documents(path: str) -> None:
    assert in_kernel_folder(path)
    for pattern in (path, f"{path}/**", f"{path}/*"):
        with pytest.raises(
            UserError, match="lies where the kernel shows itself, and no documents do; correct its `paths`"
        ):
            find(pattern, (".txt",), "a")


def test_a_walk_from_above_keeps_out_of_the_kernels_folders(tmp_path: Path) -> None:
    (tmp_path / "kernel").symlink_to("/proc")
    (tmp_path / "a.txt").write_text("x")
    assert [path.name for path in matches(tmp_path, ["**", "*"])] == ["a.txt"]
    assert not in_kernel_folder(tmp_path)
    assert not in_kernel_folder("/process/x")
    assert not in_kernel_folder("/dev/shm/texts")


@pytest.mark.parametrize("path", ["/", "/**", "/**/*.jsonl", "/*/**/a.txt"])
def test_the_whole_machine_is_not_searched(path: str) -> None:
    with pytest.raises(UserError, match="would search the whole machine, so nobody looked; name the folder to search"):
        find(path, (".txt",), "a")
