"""Documentation out of Python source without importing it: a package's import may run code, need a GPU or fail.

The syntax tree is the price: 8 MB of source a second and core (a pattern match finds `def` at 100 MB/s, but not what
is inside a string). Files are spread over child processes that read paths on stdin and answer a JSON line per file;
answers are taken in the order of the files, so pipes give back-pressure, memory holds a few files, and the number of
children cannot show in the result. A child imports the standard library only (40 ms) and ends with its parent's pipe.
"""

import ast
import gc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock, Thread

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

FEW_FILES = 200  # parsed here in about a second: not worth two processes
_ATTEMPTS = 3
_parsing = Lock()
_BLOCKS = (ast.If, ast.Try, ast.With, ast.TryStar)


@dataclass(frozen=True)
class SourceFile:
    """A Python file and the dotted name under which it would be imported."""

    path: str
    module: str


@dataclass(frozen=True)
class Extracted:
    """What one file holds: (qualified name, text) of each documented object, or the error that stopped its parsing."""

    documents: tuple[tuple[str, str], ...] = ()
    error: str | None = None


def extract_files(files: Sequence[SourceFile], processes: int | None = None) -> Iterator[Extracted]:
    """The documentation in each of `files`, in their order. `processes`: None for one a core, at most 8."""
    if processes is None:
        processes = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if len(files) <= FEW_FILES:
        yield from (_extract_file(file) for file in files)
        return
    command = [sys.executable, "-P", __file__]  # -P: no module out of this folder or the current one
    with ExitStack() as stack:
        children = []
        for index in range(processes):
            child = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
            )
            stack.callback(child.kill)  # no effect on a child that has answered everything and left
            Thread(target=_ask, args=(child, files[index::processes]), daemon=True).start()
            children.append(child)
        for index, file in enumerate(files):
            stdout = children[index % processes].stdout
            assert stdout is not None
            answer = stdout.readline()
            if not answer:  # killed, or its parser ran out of stack: this file is the one it could not take
                raise RuntimeError(f"the process that parses {file.path} ended before it answered")
            documents, error = json.loads(answer)
            yield Extracted(tuple((name, text) for name, text in documents), error)


def extract(source: bytes, module: str) -> list[tuple[str, str]]:
    """(qualified name, text) of each documented object of one module, in the order of the source.

    An object is the module itself, a function, or a class with its constructor's signature and the signatures and
    docstrings of its methods. Text is a title line (name and signature), an empty line and the cleaned docstring.

    Raises SyntaxError, ValueError, RecursionError or MemoryError for what the parser does not take.
    """
    text = importlib.util.decode_source(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = _parse(text)
    lines = text.split("\n")
    documents = []
    if docstring := _docstring(tree):
        documents.append((module, f"{module}\n\n{docstring}"))
    documents.extend(_objects(tree.body, module, lines))
    return documents


def _parse(text: str) -> ast.Module:
    """The syntax tree; one thread at a time, and again where another parser in this process got in the way.

    CPython 3.11 keeps one counter for the depth of all trees under construction, so that threads that parse at the same
    time can meet `SystemError: AST constructor recursion depth mismatch`.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _parsing:
                return ast.parse(text)
        except SystemError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _objects(body: Sequence[ast.stmt], prefix: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for node in _definitions(body):
        name = f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            if text := _class_text(node, name, lines):
                yield name, text
            yield from _objects([inner for inner in _definitions(node.body) if _is_class(inner)], name, lines)
        elif docstring := _docstring(node):
            yield name, f"{_title(node, name, lines)}\n\n{docstring}"


def _class_text(node: ast.ClassDef, name: str, lines: list[str]) -> str | None:
    docstring = _docstring(node)
    methods = []
    documented = docstring is not None
    for method in _definitions(node.body):
        if isinstance(method, ast.ClassDef):
            continue
        text = _docstring(method)
        if text is not None:
            documented = True
            indented = "\n".join(f"    {line}" if line else "" for line in text.split("\n"))
            methods.append(f"{_title(method, method.name, lines)}\n{indented}")
        elif method.name == "__init__":
            methods.append(_title(method, method.name, lines))
    if not documented:
        return None
    return "\n\n".join([f"class {_title(node, name, lines)}", *([docstring] if docstring else []), *methods])


def _definitions(body: Sequence[ast.stmt]) -> Iterator[Definition]:
    """Functions and classes of a body, also those that it defines under a condition."""
    for node in body:
        if isinstance(node, Definition):
            yield node
        elif isinstance(node, _BLOCKS):
            for field in ("body", "handlers", "orelse", "finalbody"):
                for part in getattr(node, field, ()):
                    yield from _definitions(part.body if isinstance(part, ast.ExceptHandler) else [part])


def _is_class(node: Definition) -> bool:
    return isinstance(node, ast.ClassDef)


def _docstring(node: Definition | ast.Module) -> str | None:
    docstring = ast.get_docstring(node)
    if docstring is None:
        return None
    # A docstring may spell a lone surrogate or a control character; neither is text that UTF-8 files should hold.
    printable = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "", docstring)
    cleaned = "\n".join(line.rstrip() for line in printable.split("\n")).strip("\n")
    return cleaned or None


def _title(node: Definition, name: str, lines: list[str]) -> str:
    """The name with its signature on one line, spelled as in the source: unparsing the tree takes ten times as long."""
    header = lines[node.lineno - 1 : node.body[0].lineno - 1]
    joined = " ".join(line.strip() for line in header)
    match = re.match(rf"(?:async )?(?:def|class) +{re.escape(node.name)} *(.*?) *:$", joined)
    if match and "#" not in joined and "\\" not in joined:
        signature = re.sub(r"([(\[{]) ", r"\1", match[1])
        return name + re.sub(r",? ([)\]}])", r"\1", signature)
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(part) for part in [*node.bases, *node.keywords])
        return f"{name}({bases})" if bases else name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({ast.unparse(node.args)}){returns}"


def _extract_file(file: SourceFile) -> Extracted:
    try:
        with open(file.path, "rb") as stream:
            return Extracted(tuple(extract(stream.read(), file.module)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        return Extracted(error=f"{type(error).__name__}: {getattr(error, 'msg', None) or error}")


def _ask(child: "subprocess.Popen[str]", files: Sequence[SourceFile]) -> None:
    assert child.stdin is not None
    try:
        json.dump([[file.path, file.module] for file in files], child.stdin)
        child.stdin.close()
    except BrokenPipeError:  # the child is gone: whoever reads its answers says so
        pass


def _answer() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then takes the pipe away
    gc.disable()  # syntax trees are freed by counting references; the collector costs an eighth of the time
    for path, module in json.load(sys.stdin):
        extracted = _extract_file(SourceFile(path, module))
        try:
            print(json.dumps([extracted.documents, extracted.error], ensure_ascii=False), flush=True)
        except BrokenPipeError:  # the parent is gone
            os._exit(1)


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    _answer()
