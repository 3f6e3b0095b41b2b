"""One way to take the main text out of web pages: how fast, what it keeps. Run as `python webpages.py SIDE DATA`."""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lxml.html
import pyarrow.parquet as pq

MENU = (
    "ancestor-or-self::nav or ancestor-or-self::footer or "
    "ancestor-or-self::*[contains(@class, 'Nav') or contains(@class, 'nav') or contains(@class, 'legal')]"
)
PARTS = {
    "code": "//pre",
    "cells": f"//td[not(.//td)][not({MENU})]",
    "paragraphs": "//p",
    "headings": "//h1|//h2|//h3",
    "menus": f"//li[not(.//li)][{MENU}]",
}


def pages(data: Path) -> list[str]:
    """100 pages of the user documentation and 100 of four generations of javadoc."""
    docs: list[str] = pq.read_table(data / "kafka_docs_html.parquet")["text"].to_pylist()
    javadoc = pq.ParquetFile(data / "kafka_javadoc_html.parquet")
    found = docs[::18][:100]
    for group in (0, 3, 6, 9):
        found += javadoc.read_row_group(group)["text"].to_pylist()[::27][:25]
    return [page for page in found if len(page) < 300_000]


def extractor(side: str) -> Callable[[str], str]:
    """The function from a page to its text."""
    if side == "trafilatura":
        import trafilatura

        return lambda page: trafilatura.extract(page, include_comments=False, favor_recall=True) or ""
    from resiliparse.extract.html2text import extract_plain_text

    if side == "main_content":
        return lambda page: extract_plain_text(page, main_content=True)
    surroundings = json.loads(side)
    return lambda page: extract_plain_text(page, skip_elements=surroundings)


def bare(text: str) -> str:
    """Words without what extractors add between them."""
    return re.sub(r"[\s•|-]+", "", text)


def main(side: str, data: Path) -> None:
    """Print megabytes a second of CPU and the share of each kind of part that is in the text."""
    extract, source = extractor(side), pages(data)
    started = time.process_time()
    texts = [extract(page) for page in source]
    seconds = time.process_time() - started
    kept, total = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for page, text in zip(source, texts, strict=True):
        whole, lines = bare(text), set(map(bare, text.splitlines()))
        try:
            tree = lxml.html.fromstring(page.encode())
        except lxml.etree.ParserError:  # a page of nothing but a comment
            continue
        for name, path in PARTS.items():
            words = [bare(element.text_content()) for element in tree.xpath(path)]
            total[name] += sum(len(word) > 3 for word in words)
            # An entry of a menu is a word that may well be in the text, too: it counts as kept where it is a line.
            kept[name] += sum(len(word) > 3 and word in (lines if name == "menus" else whole) for word in words)
    facts = {name: round(kept[name] / total[name], 3) for name in PARTS}
    print(json.dumps({"mb_per_s": round(sum(len(page.encode()) for page in source) / 1e6 / seconds, 2), **facts}))


main(sys.argv[1], Path(sys.argv[2]))
