"""Text that comes from data, file names or errors, as it may be shown: what would steer a terminal is spelt out.

A file name may hold an escape sequence that clears the screen, a line feed that forges a log line, or a mark that turns
the reading direction round. Everything that the command line, a view or a log says passes through here, and Rich gets
it as `Text`, which has no markup.
"""

import unicodedata

from rich.text import Text

LONGEST = 300
"""Characters of a sentence: it is to be read at one glance."""
LONGEST_WORD = 80
"""Characters of a path or value that a sentence quotes."""
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"))
"""Unicode's categories of what has no glyph of its own: controls, marks of direction, halves of surrogate pairs,
separators of lines."""


def printable(text: str) -> str:
    r"""One line in which every character without a glyph stands as its escape, such as \x1b or \u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(mark) if unicodedata.category(mark) in HIDDEN else mark for mark in text)


def shown(text: str, style: str = "") -> Text:
    """The text for Rich: printable, and without markup."""
    return Text(printable(text), style=style)


def sentence(text: str) -> str:
    """An error as one printable line of at most 300 characters: long values lose their middle, and if that is not
    enough, the text does."""
    words = printable(" ".join(text.split())).split(" ")
    line = " ".join(_without_middle(word, LONGEST_WORD) for word in words)
    return _without_middle(line, LONGEST)


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def _spelt(mark: str) -> str:
    return mark.encode("unicode_escape", "surrogatepass").decode()
