"""A recipe's file as plain values: YAML without what can surprise, hang or hide.

What YAML offers beyond mappings, lists and scalars is refused, because each has made a recipe say something that its
writer did not mean: a key that stands twice, aliases and merge keys (nine lines of which can be a gigabyte), tags,
several documents. Of the scalars only those of YAML 1.2's core schema have a type, so `no` is Norway, `12:30` is a text
and a date stays what was written; underscores in numbers are kept from YAML 1.1. Keys are always texts.

Built on PyYAML's events, which arrive one at a time: nothing recurses, and what is wrong is told before the rest is
read. Light on purpose: none of the stages is imported, so a slip of the pen is told in 0.2 s.
"""

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import yaml

from flows.terminal.printable import sentence
from tasks.core.errors import UserError
from tasks.intake.walk import in_kernel_folder

SHIPPED = Path(__file__).resolve().parent.parent / "deployments"
NOT_RECIPES = ("prefect", "compose")
LARGEST_BYTES = 1 << 20
DEEPEST = 16
MOST_VALUES = 50_000
"""Ten times what a list of five thousand paths needs."""
LARGEST_NUMBER = 1 << 63
"""Settings are kept as 64-bit integers."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C where PyYAML was built with it: a megabyte takes 0.1 s instead of 5 s."""

NULL = re.compile(r"~|null|Null|NULL|")
TRUE, FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)|0x[0-9a-fA-F]+|0o[0-7]+")
FLOAT = re.compile(r"[-+]?(?=[0-9_.]*[.eE])(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
SECRET_PARAMETER = re.compile(
    r"(?i)(.*[-_])?(auth|(o?auth|access|api|id|refresh|sas|session|security)?[-_]?token|(access|api|account|secret)?[-_]?"
    r"key([-_]?id)?|awsaccesskeyid|credentials?|pass(wd|word|phrase)?|pwd|secret|sig|signature)"
)


class Unfit(Exception):
    """What a recipe cannot hold, and in which line (from 0)."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The content of a recipe, of which only the form has been checked.

    Raises:
        UserError: there is no such file, it is not plain YAML, it is no mapping, or it holds a password; one sentence.
    """
    file = find_recipe(path)
    text = _text_of(file)
    try:
        content = parse(text)
    except Unfit as fault:
        raise UserError(sentence(f"the recipe {file} is wrong at line {fault.line + 1}: {fault}")) from fault
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UserError(
            sentence(f"the recipe {file} is not valid YAML{line}; mend the indentation or quotes there")
        ) from error
    if not isinstance(content, dict):
        raise UserError(sentence(f"the recipe {file} must be a mapping such as `name: ...` and `ingest: ...`"))
    if place := next(_secrets(content, ()), None):
        raise UserError(
            sentence(
                f"{file}: `{place}` holds a password or key, and recipes are kept, logged and shown: take it out, and "
                "give it in the environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for the hub HF_TOKEN)"
            )
        )
    return content


def find_recipe(path: Path) -> Path:
    """The recipe's file: as given, or the one that ships under that name.

    Raises:
        UserError: there is neither.
    """
    shipped = SHIPPED / f"{path.name}.yaml"
    given = _expanded(path)
    try:
        if given.is_file() and not in_kernel_folder(given):
            return given.resolve()
        if path.parent == Path(".") and not path.suffix and shipped.is_file():
            return shipped
        is_other = given.exists()
    except (OSError, RuntimeError):  # a name that is too long; links that lead to themselves
        is_other = False
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml") if file.stem not in NOT_RECIPES))
    what = f"{path} is no file" if is_other else f"there is no recipe {path}"
    raise UserError(sentence(f"{what}; give the path of a YAML file or one of the names that ship: {names}"))


def parse(text: str) -> Any:
    """The value that a YAML text describes: dicts with texts as keys, lists, texts, numbers, truth values and None.

    Raises:
        Unfit: it uses what recipes do without.
        yaml.YAMLError: it is not YAML.
    """
    if found := CONTROL.search(text):
        raise Unfit(text.count("\n", 0, found.start()), "a control character; remove it")
    open_ones: list[_Open] = []
    result: Any = None
    documents = values = 0
    for event in yaml.parse(text, LOADER):
        line = event.start_mark.line if event.start_mark else 0
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise Unfit(line, "a second document begins; keep one recipe a file and remove `---`")
            continue
        if isinstance(event, (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentEndEvent)):
            continue
        if isinstance(event, yaml.AliasEvent):
            raise Unfit(line, f"the alias *{event.anchor}; recipes have no anchors and aliases, so repeat the value")
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            value = open_ones.pop().value
        else:
            values += 1
            _refuse_extras(event, line, len(open_ones), values)
            if isinstance(event, yaml.ScalarEvent):
                if open_ones and open_ones[-1].take_key(event, line):
                    continue
                value = scalar(event.value, event.implicit[0], line)
            else:
                if open_ones and open_ones[-1].wants_key:
                    raise Unfit(line, "a list or mapping stands where a key should; write `key: value`")
                open_ones.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else []))
                continue
        if open_ones:
            open_ones[-1].add(value)
        else:
            result = value
    return result


class _Open:
    """A mapping or list whose end has not come yet."""

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self.value = value
        self._key: str | None = None
        self._lines: dict[str, int] = {}

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self._key is None

    def take_key(self, event: yaml.ScalarEvent, line: int) -> bool:
        """Whether the scalar was a key, which is then remembered."""
        if not self.wants_key:
            return False
        key = event.value
        if key == "<<" and event.implicit[0]:
            raise Unfit(line, "the merge key `<<`; recipes have none, so write the keys out")
        if key in self._lines:
            raise Unfit(line, f"the key `{key}` stands in line {self._lines[key] + 1} already; keep one of the two")
        if _has_control(key):
            raise Unfit(line, "a key with a control character; remove it")
        self._key, self._lines[key] = key, line
        return True

    def add(self, value: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        else:
            assert self._key is not None, "a value follows its key"
            self.value[self._key], self._key = value, None


def _refuse_extras(event: Any, line: int, depth: int, values: int) -> None:
    if event.anchor is not None:
        raise Unfit(line, f"the anchor &{event.anchor}; recipes have no anchors and aliases, so remove it")
    if event.tag is not None:
        written = event.tag.replace("tag:yaml.org,2002:", "!!")
        raise Unfit(line, f"the tag {written}; recipes hold plain values, so remove it")
    if depth >= DEEPEST:
        raise Unfit(line, f"more than {DEEPEST} levels of nesting; no setting lies so deep, so remove some")
    if values > MOST_VALUES:
        raise Unfit(line, f"more than {MOST_VALUES:,} values; name folders or globs instead of single files")


def scalar(text: str, plain: bool, line: int = 0) -> Any:
    """What a scalar means; `plain` ones stand without quotes."""
    if not plain:
        if _has_control(text):
            raise Unfit(line, "a text with a control character; remove it")
        return text
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return text.lower() == "true"
    is_integer = INTEGER.fullmatch(text)
    if NO_NUMBER.fullmatch(text):
        raise Unfit(line, f"{text} is no finite number; write one that is")
    if is_integer or FLOAT.fullmatch(text):
        digits = text.replace("_", "")
        number: int | float = math.inf
        if is_integer and len(digits) <= 70:
            number = int(digits, 0)
        elif not is_integer:
            number = float(digits)
        if abs(number) >= LARGEST_NUMBER:
            raise Unfit(line, f"the number {text} is too large; no setting reaches 2^63")
        return number
    return text


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~nosuchuser
        return path


def _text_of(file: Path) -> str:
    """The file's text, read without waiting for anybody and no further than a recipe can be long."""
    advice = "make it a readable UTF-8 file"
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(sentence(f"the recipe {file} is no regular file; give the path of a YAML file"))
            content = stream.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise UserError(
                sentence(f"the recipe {file} is larger than a megabyte; name folders or globs, not single files")
            )
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(sentence(f"the recipe {file} cannot be read ({error.reason}); {advice}")) from error
    except OSError as error:
        raise UserError(sentence(f"the recipe {file} cannot be read ({error.strerror}); {advice}")) from error


def _has_control(text: str) -> bool:
    return CONTROL.search(text) is not None


def _secrets(value: Any, place: tuple[str, ...]) -> Iterator[str]:
    """The places of texts that hold credentials."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if has_credentials(key):
                yield ".".join((*place, "…"))
            yield from _secrets(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _secrets(inner, (*place, str(number)))
    elif isinstance(value, str) and has_credentials(value):
        yield ".".join(place)


def has_credentials(text: str) -> bool:
    """Whether a text is a URL with a user's name, a password, a token or a signature in it."""
    if "://" not in text:
        return False
    try:
        url = urlsplit(text.strip())
    except ValueError:  # brackets that are no IPv6 address
        return "@" in text.partition("://")[2].partition("/")[0]
    return "@" in url.netloc or any(SECRET_PARAMETER.fullmatch(name) for name in _parameters(url))


def _parameters(url: SplitResult) -> Iterator[str]:
    """The names of a URL's parameters, also of those that stand after a `#`."""
    for part in (url.query, url.fragment):
        try:
            yield from (name for name, _ in parse_qsl(part, keep_blank_values=True, max_num_fields=1000))
        except ValueError:  # more parameters than any address has
            yield "token"
