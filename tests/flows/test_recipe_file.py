"""A recipe's file: plain YAML, in which nothing is dropped, guessed, expanded or waited for."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipe_file import Unfit, find_recipe, has_credentials, parse, read_recipe_file
from tasks.core.errors import UserError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(path: Path) -> str:
    """The sentence by which a file is refused, at once."""
    began = time.process_time()
    with pytest.raises(UserError) as error:
        read_recipe_file(path)
    assert time.process_time() - began < 2
    said = str(error.value)
    assert len(said) <= 300 and said.isprintable()
    return said


def written(folder: Path, content: str | bytes) -> Path:
    file = folder / "recipe.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("name: a\npretrain: {size: tiny}\npretrain: {tokens: 1}\n", 3, "the key `pretrain` stands in line 2 already"),
        ("a:\n  b: 1\n  c: 2\n  'b': 3\n", 4, "the key `b` stands in line 2 already; keep one of the two"),
        (BOMB, 1, "the anchor &a; recipes have no anchors and aliases"),
        ("a: *b\n", 1, "the alias *b; recipes have no anchors and aliases"),
        ("a: &a [*a]\n", 1, "the anchor &a"),
        ("name: a\n<<: {b: 1}\n", 2, "the merge key `<<`"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "the tag !!python/object/apply:os.system"),
        ("a: !secret x\n", 1, "the tag !secret"),
        ("a: .inf\n", 1, ".inf is no finite number"),
        ("a: -.INF\n", 1, "-.INF is no finite number"),
        ("a: .nan\n", 1, ".nan is no finite number"),
        ("a: 1e999\n", 1, "the number 1e999 is too large; no setting reaches 2^63"),
        (f"a: {'9' * 5000}\n", 1, "is too large; no setting reaches 2^63"),
        (f"a: 0x{'f' * 5000}\n", 1, "is too large; no setting reaches 2^63"),
        ("a: 1\n---\nb: 2\n", 2, "a second document begins; keep one recipe a file"),
        ("? [a]\n: 1\n", 1, "a list or mapping stands where a key should"),
        ('a: 1\nb: "x\\0y"\n', 2, "a text with a control character"),
        ('"a\\e": 1\n', 1, "a key with a control character"),
        ("a: 1\nb: \x1b[2J\n", 2, "a control character; remove it"),
        ("a: " + "[" * 17 + "]" * 17 + "\n", 1, "more than 16 levels of nesting"),
        ("a:\n" + "- x\n" * 50_001, 49_999, "more than 50,000 values"),
    ],
)
def test_what_yaml_offers_beyond_plain_values_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, sentence: str
) -> None:
    said = refusal(written(tmp_path, text))
    assert f"is wrong at line {line}: " in said
    assert sentence in said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("12:30:45", "12:30:45"),
        ("2001-99-99", "2001-99-99"),
        ("2001-01-01", "2001-01-01"),
        ("0x_", "0x_"),
        ("012", "012"),
        ("1_000_000", 1_000_000),
        ("-0", 0),
        ("0x1f", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        ("2.5e9", 2.5e9),
        ("1_000.5", 1000.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("'true'", "true"),
        ("'1'", "1"),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: Any) -> None:
    (read,) = parse(f"a: {text}\n").values()
    assert (read, type(read)) == (value, type(value))


def test_keys_are_texts() -> None:
    assert parse("2024: 1\nno: 2\n~: 3\ntrue: 4\n") == {"2024": 1, "no": 2, "~": 3, "true": 4}


def test_plain_values_are_those_of_pyyaml() -> None:
    values: dict[str, Any] = {"a": [1, 2.5, True, None, "text", {"b": []}, [{}]], "c": "two\nlines", "d": "'", "e": ""}
    assert parse(yaml.safe_dump(values)) == values
    assert parse(yaml.safe_dump(values, default_flow_style=True)) == values


@pytest.mark.parametrize("mark", ["\ufeff", "%YAML 1.2\n---\n", "# first a comment\n"])
def test_what_may_stand_before_a_recipe(tmp_path: Path, mark: str) -> None:
    assert read_recipe_file(written(tmp_path, f"{mark}name: a\n")) == {"name": "a"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must be a mapping"),
        (b"# nothing\n", "must be a mapping"),
        (b"- a\n", "must be a mapping"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "cannot be read (invalid start byte); make it a readable UTF-8 file"),
        ("name: ä".encode("utf-16"), "cannot be read"),
        (b"a: \x00", "a control character"),
        (b"a: b: c", "is not valid YAML at line 1"),
        (b"[" * 200_000, "is not valid YAML"),
        (b"#" * (1 << 20) + b"\n", "is larger than a megabyte; name folders or globs, not single files"),
    ],
)
def test_a_file_that_is_no_recipe_is_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    said = refusal(written(tmp_path, content))
    assert sentence in said or (content.startswith(b"[") and "levels of nesting" in said)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/kmsg", "/proc/self/cmdline"])
def test_what_the_kernel_shows_as_a_file_is_not_read(path: str) -> None:
    assert f"{path} is no file; give the path of a YAML file" in refusal(Path(path)) or not Path(path).exists()


def test_folders_pipes_loops_and_endless_names_are_sentences(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe.yaml", tmp_path / "loop.yaml"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path in (tmp_path, pipe):
        assert "is no file; give the path of a YAML file" in refusal(path)
    names = (
        loop,
        Path("~nosuchuser/r.yaml"),
        Path("x" * 300),
        Path("/".join("a" * 5000)),
        Path("a\0b"),
        Path("$HOME/r"),
    )
    for path in names:
        assert "there is no recipe" in refusal(path)


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "name: a\n")
    assert find_recipe(Path("~/recipe.yaml")) == tmp_path / "recipe.yaml"


@pytest.mark.parametrize(
    "url",
    [
        *("http://bob:hunter2@127.0.0.1:9/x.jsonl", "https://hunter2@host/x", "tcp://bob:hunter2@scheduler:8786"),
        *("https://host/x?token=hunter2", "https://host/x?a=1&access_token=hunter2", "https://host/x#token=hunter2"),
        *("s3://bucket/x?AWSAccessKeyId=hunter2", "https://b.s3.amazonaws.com/x?X-Amz-Signature=hunter2"),
        *(
            "https://host/x?api_key=hunter2",
            "https://a.blob.core.windows.net/x?sv=1&sig=hunter2",
            "http://u:hunter2@[/x",
        ),
    ],
)
def test_a_url_with_credentials_is_refused_without_repeating_them(tmp_path: Path, url: str) -> None:
    content = {"name": "a", "ingest": {"sources": [{"kind": "files", "name": "a", "paths": ["x", url]}]}}
    said = refusal(written(tmp_path, yaml.safe_dump(content)))
    assert "`ingest.sources.0.paths.1` holds a password or key" in said
    assert "give it in the environment" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/pages/*.jsonl?", "hf://datasets/owner/name@main/x", "https://host/?page=2", "a@b", "what? token=1"],
)
def test_a_url_without_credentials_is_none(text: str) -> None:
    assert not has_credentials(text)


def test_line_numbers_are_those_of_an_editor() -> None:
    with pytest.raises(Unfit) as error:
        parse("a: 1\n\n# comment\nb: .nan\n")
    assert error.value.line == 3
