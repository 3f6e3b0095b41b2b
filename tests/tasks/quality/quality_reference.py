"""The quality rules written down plainly, over Python strings and lists: slow, and what the kernels must equal.

Written from the papers and the definitions in the docstrings of tasks/quality (scan, repetition, c4, rules).
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import regex

from tasks.corpus.filter import FilterSettings
from tasks.quality.rules import C4, FineWeb

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
WORD = re.compile(f"[\u3001-\ud7ff]|[^{WHITE_SPACE}\u3001-\ud7ff]+")
LETTER = regex.compile(r"\p{L}")
TERMINAL = regex.compile(r"\p{Sentence_Terminal}")
CLOSING = "\"')]}”’»」』）"  # noqa: RUF001
CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]", re.IGNORECASE | re.ASCII)
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def words_of(text: str) -> list[str]:
    return WORD.findall(text)


def blocks_of(text: str) -> list[list[str]]:
    """Paragraphs as lists of their lines."""
    blocks: list[list[str]] = [[]]
    for raw in text.split("\n"):
        line = raw.strip(WHITE_SPACE)
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def lines_of(text: str) -> list[str]:
    return [line for block in blocks_of(text) for line in block]


def sentences_in(line: str) -> int:
    count, unfinished = 0, False
    for word in words_of(line):
        if any(not TERMINAL.match(character) and character not in CLOSING for character in word):
            unfinished = True
        core = word.rstrip(CLOSING)
        if unfinished and core and TERMINAL.match(core[-1]):
            count, unfinished = count + 1, False
    return count + unfinished


def is_stop_word(word: str) -> bool:
    core = word
    while core and not LETTER.match(core[0]):
        core = core[1:]
    while core and not LETTER.match(core[-1]):
        core = core[:-1]
    return core.isascii() and core.lower() in STOP_WORDS


def stop_words_in(text: str) -> set[str]:
    found = set()
    for word in words_of(text):
        core = "".join(LETTER.findall(word)).lower()
        if is_stop_word(word):
            found.add(core)
    return found


def repeated(things: Sequence[tuple[Hashable, int]]) -> tuple[int, int]:
    """How many of (thing, length) repeat an earlier thing, and their lengths together."""
    seen: set[Hashable] = set()
    count = length = 0
    for thing, size in things:
        if thing in seen:
            count, length = count + 1, length + size
        seen.add(thing)
    return count, length


def top_characters(words: list[str], size: int) -> int:
    grams = Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))
    most = max(grams.values(), default=0)
    if most < 2:
        return 0
    return most * max(len(" ".join(gram)) for gram, count in grams.items() if count == most)


def duplicate_characters(words: list[str], size: int) -> int:
    seen = set()
    characters = start = 0
    while start + size <= len(words):
        gram = tuple(words[start : start + size])
        if gram in seen:
            characters += len("".join(gram))
            start += size
        else:
            seen.add(gram)
            start += 1
    return characters


def remaining_lines(text: str, rules: C4) -> tuple[list[str], int, int]:
    """Lines that C4's rules leave; lines with the placeholder; lines with a curly bracket."""
    kept, placeholders, brackets = [], 0, 0
    for line in lines_of(CITATION.sub("", text) if rules.cut_citations else text):
        words = words_of(line)
        if rules.max_word_length is not None and any(len(word) > rules.max_word_length for word in words):
            continue
        if rules.end_punctuation and (not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")):
            continue
        if rules.min_line_words is not None and len(words) < rules.min_line_words:
            continue
        lower = "".join(character.lower() if character.isascii() else character for character in line)
        placeholders += "lorem ipsum" in lower
        if rules.remove_javascript and "javascript" in lower:
            continue
        brackets += "{" in line
        if rules.remove_policies and any(phrase in lower for phrase in POLICIES):
            continue
        kept.append(line)
    return kept, placeholders, brackets


def measures_of(text: str, settings: FilterSettings) -> dict[str, int]:
    """Every column that tasks/quality/measures.py gives under these settings."""
    words, lines, blocks = words_of(text), lines_of(text), blocks_of(text)
    same = [(tuple(words_of(line)), len(line)) for line in lines]
    measures = {
        "characters": len(text),
        "newlines": text.count("\n"),
        "words": len(words),
        "letters": sum(map(len, words)),
        "alphabetic": sum(LETTER.search(word) is not None for word in words),
        "stop_words": len(stop_words_in(text)),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "lines": len(lines),
        "bullets": sum(line.startswith(("•", "‣", "*", "-")) for line in lines),
        "cut": sum(line.endswith(("...", "…")) for line in lines),
    }
    if settings.gopher_repetition is not None:
        paragraphs = [(tuple(tuple(words_of(line)) for line in block), sum(map(len, block))) for block in blocks]
        measures["repeated_lines"], measures["repeated_line_characters"] = repeated(same)
        measures["paragraphs"] = len(blocks)
        measures["repeated_paragraphs"], measures["repeated_paragraph_characters"] = repeated(paragraphs)
        measures |= {f"top_{size}": top_characters(words, size) for size in (2, 3, 4)}
        measures |= {f"duplicate_{size}": duplicate_characters(words, size) for size in range(5, 11)}
    left, newlines = lines, text.count("\n")
    if settings.c4 is not None:
        left, placeholders, brackets = remaining_lines(text, settings.c4)
        newlines = max(len(left) - 1, 0)
        sentences = sum(map(sentences_in, left))
        measures |= {"sentences": sentences, "placeholders": placeholders, "curly_brackets": brackets}
    if settings.c4 is not None or settings.fineweb is not None:
        short = (settings.fineweb or FineWeb()).short_line
        measures |= {
            "left_lines": len(left),
            "left_terminal": sum(TERMINAL.match(line[-1]) is not None for line in left),
            "left_short": sum(len(line) <= short for line in left),
            "left_repeated": repeated([(tuple(words_of(line)), len(line)) for line in left])[1],
            "left_characters": sum(map(len, left)),
            "left_words": sum(len(words_of(line)) for line in left),
            "left_newlines": newlines,
        }
    return measures


@dataclass(frozen=True)
class Limit:
    """A rule: breaks if the part over the whole (1 if there is none) is below `least` or above `most`."""

    reason: str
    part: str
    whole: str | None
    least: float | None = None
    most: float | None = None

    def broken(self, measures: dict[str, int]) -> bool:
        whole = 1 if self.whole is None else measures[self.whole]
        if whole == 0:
            return False
        value = measures[self.part] / whole
        return (self.least is not None and value < self.least) or (self.most is not None and value > self.most)


def limits_of(settings: FilterSettings) -> list[Limit]:
    limits = []
    if (quality := settings.gopher_quality) is not None:
        limits += [
            Limit("too few words", "words", None, least=quality.min_words),
            Limit("too many words", "words", None, most=quality.max_words),
            Limit("words too short", "letters", "words", least=quality.min_mean_word_length),
            Limit("words too long", "letters", "words", most=quality.max_mean_word_length),
            Limit("too many hash signs", "hashes", "words", most=quality.max_hashes_per_word),
            Limit("too many ellipses", "ellipses", "words", most=quality.max_ellipses_per_word),
            Limit("too many bullet lines", "bullets", "lines", most=quality.max_bullet_lines),
            Limit("too many cut lines", "cut", "lines", most=quality.max_ellipsis_lines),
            Limit("too few real words", "alphabetic", "words", least=quality.min_alphabetic_words),
            Limit("too few stop words", "stop_words", None, least=quality.min_stop_words),
        ]
    if (repetition := settings.gopher_repetition) is not None:
        line_text, paragraph_text = repetition.max_repeated_line_text, repetition.max_repeated_paragraph_text
        limits += [
            Limit("repeated lines", "repeated_lines", "lines", most=repetition.max_repeated_lines),
            Limit("repeated paragraphs", "repeated_paragraphs", "paragraphs", most=repetition.max_repeated_paragraphs),
            Limit("text in repeated lines", "repeated_line_characters", "characters", most=line_text),
            Limit("text in repeated paragraphs", "repeated_paragraph_characters", "characters", most=paragraph_text),
        ]
        for size in (2, 3, 4):
            most = getattr(repetition, f"max_top_{size}_gram")
            limits.append(Limit(f"frequent {size}-gram", f"top_{size}", "characters", most=most))
        for size in range(5, 11):
            most = getattr(repetition, f"max_duplicate_{size}_grams")
            limits.append(Limit(f"duplicate {size}-grams", f"duplicate_{size}", "characters", most=most))
    if (c4 := settings.c4) is not None:
        limits += [
            Limit("lorem ipsum", "placeholders", None, most=0 if c4.drop_lorem_ipsum else None),
            Limit("curly bracket", "curly_brackets", None, most=0 if c4.drop_curly_brackets else None),
            Limit("too few sentences", "sentences", None, least=c4.min_sentences),
            Limit("no line left", "left_lines", None, least=1),
        ]
    if (fineweb := settings.fineweb) is not None:
        repeats, newlines = fineweb.max_repeated_line_text, fineweb.max_newlines_per_word
        limits += [
            Limit("unpunctuated lines", "left_terminal", "left_lines", least=fineweb.min_punctuated_lines),
            Limit("short lines", "left_short", "left_lines", most=fineweb.max_short_lines),
            Limit("repeated text", "left_repeated", "left_characters", most=repeats),
            Limit("list of lines", "left_newlines", "left_words", most=newlines),
        ]
    return limits


def judged(text: str, settings: FilterSettings) -> tuple[str, str]:
    """(the first broken rule's reason or "passed", what C4's rules leave of the text)."""
    measures = measures_of(text, settings)
    reason = next((limit.reason for limit in limits_of(settings) if limit.broken(measures)), "passed")
    return reason, text if settings.c4 is None else "\n".join(remaining_lines(text, settings.c4)[0])
