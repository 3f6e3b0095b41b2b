"""The main text of web pages: what a reader came for, without menus, headers and footers.

By resiliparse, told which elements surround a text (menus, headers, footers, side bars, by element, role and the usual
class names). Over 200 documentation pages of several generations that keeps all code blocks, table cells and headings,
99 % of the paragraphs and 4 % of the menus' lines, at 50 MB of HTML a second and core. Its own guess of what is main
keeps 76, 86, 53 and 69 % (and 1 % of the menus), since it takes long lists for menus; trafilatura, tuned for news,
keeps 94, 83, 74 and 97 % (and 2 %), at a twentieth of the speed. The names were
chosen with these pages at hand, so expect less of others: what a page does not mark as a menu stays.
`python -m tests.benchmarks.webpages` measures this again.

It runs in a child process: its parser holds the interpreter's lock, so that threads would share one core, and a page
that makes it crash must cost a page, not the night. The parent sends Arrow tables through a pipe and gets the texts
back; a child takes a second to start on a busy machine.

Run as a file of its own, so it imports nothing of the project.
"""

import re
import subprocess
import sys
from types import TracebackType

import pyarrow as pa

PAGES = pa.schema([("page", pa.large_binary()), ("charset", pa.string())])
TEXTS = pa.schema([("text", pa.large_string()), ("error", pa.string())])
SURROUNDINGS = [
    *("nav", "aside", "footer", "body > header", "[aria-hidden=true]"),
    *(f"[role={role}]" for role in ("navigation", "banner", "contentinfo", "search", "complementary")),
    *(f".{name}" for name in ("nav", "navbar", "navigation", "menu", "sidebar", "breadcrumb", "breadcrumbs", "toc")),
    *(f"#{name}" for name in ("nav", "navbar", "navigation", "menu", "sidebar", "breadcrumbs", "toc", "footer")),
    *(".footer", ".topNav", ".subNav", ".bottomNav", ".skipNav", ".skip-nav", ".legalCopy", ".legal-copy"),
]
# Sites that draw themselves in the browser ship their text in templates; to a parser that is a script, not text.
TEMPLATE = re.compile(
    r"<script\b[^>]*\btype=[\"']?text/(?:x-)?(?:handlebars|html|template)[^>]*>(.*?)</script\s*>", re.S | re.I
)


def main_text(page: bytes, charset: str | None) -> str:
    """The main text of one HTML page: blocks as lines, list items with bullets, code and tables as they stand.

    Args:
        page: the page as it came.
        charset: as the server named it; without it (or with a wrong one) UTF-8 if that fits, else as the page's own
            meta element says, else by its letters.
    """
    from resiliparse.extract.html2text import extract_plain_text

    html = TEMPLATE.sub(r"<div>\1</div>", _decoded(page, charset))
    return extract_plain_text(html, skip_elements=SURROUNDINGS).strip()


def _decoded(page: bytes, charset: str | None) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    try:
        return page.decode(map_encoding_to_html5(charset or "utf-8") or "utf-8").removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError):
        return bytes_to_str(page, detect_encoding(page, from_html_meta=True) or "utf-8")


class Pages:
    """Extracts pages in a child process that lives as long as this context."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Pages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def extract(self, pages: pa.Table) -> pa.Table:
        """Text or error of each page: TEXTS for PAGES, row by row."""
        answer = self._ask(pages)
        if answer is None and pages.num_rows == 1:
            return pa.table({"text": [None], "error": ["the HTML parser crashed on this page"]}, schema=TEXTS)
        if answer is None:  # one of them is to blame: halve until it is alone
            middle = pages.num_rows // 2
            return pa.concat_tables([self.extract(pages[:middle]), self.extract(pages[middle:])])
        return answer

    def _ask(self, pages: pa.Table) -> pa.Table | None:
        if self._child is None:
            command = [sys.executable, "-P", __file__]  # -P: no module out of this folder or the current one
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        try:
            _send(pages, child.stdin)
            return _receive(child.stdout)
        except (OSError, pa.ArrowException):  # it is gone
            self._end()
            return None

    def _end(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            with child:
                pass


def _send(table: pa.Table, pipe: object) -> None:
    with pa.ipc.new_stream(pipe, table.schema) as writer:
        writer.write_table(table)
    pipe.flush()  # type: ignore[attr-defined]


def _receive(pipe: object) -> pa.Table:
    with pa.ipc.open_stream(pipe) as reader:
        return reader.read_all()


def _answer() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then takes the pipe away
    while True:
        try:
            pages = _receive(sys.stdin.buffer)
        except (OSError, pa.ArrowException):  # the parent has closed the pipe
            return
        texts: list[str | None] = []
        errors: list[str | None] = []
        for page, charset in zip(pages["page"].to_pylist(), pages["charset"].to_pylist(), strict=True):
            try:
                texts.append(main_text(page, charset))
                errors.append(None)
            except Exception as error:  # whatever a parser may think of; it becomes the page's reject
                texts.append(None)
                errors.append(f"not HTML: {type(error).__name__} {error}".splitlines()[0])
        try:
            _send(pa.table({"text": texts, "error": errors}, schema=TEXTS), sys.stdout.buffer)
        except OSError:
            return


if __name__ == "__main__":
    _answer()
