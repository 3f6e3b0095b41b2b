"""Looks for what a document repeats: in the index of all nights and among tonight's own, a range of keys at a time.

Candidates are the earliest documents with an equal key. Each is asked of the table that can answer, "contents" for the
same words and "sketches" for similarity; a pair is compared once for each key that it shares (1 us, mostly the
reading of two rows), since remembering what was compared would need memory that grows with the corpus.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.batches import Facts
from tasks.similarity.band_index import (
    FIRST_OF_A_KEY,
    DocumentFile,
    Family,
    Keys,
    Positions,
    SortedRun,
    find_entries,
    key_ranges,
    mapped,
    part_path,
    read_entries,
    read_run,
    sort_entries,
    table_path,
    take_rows,
)

PAIRS = 1 << 15
"""Compared at a time: 16 MB of sketches."""
MATCH = np.dtype([("position", np.int64), ("match", np.int64), ("similarity", np.float64)])
SETTLED = np.dtype([("match", np.int64), ("survivor", np.int64), ("similarity", np.float64), ("exact", np.bool_)])


@dataclass(frozen=True)
class Search:
    """What the batches that look for earlier documents share."""

    family: Family
    older: tuple[DocumentFile, ...]
    """The files of all nights before."""
    tonight: tuple[DocumentFile, ...]
    start: int
    """Position of tonight's first document."""
    folders: tuple[Path, ...]
    """The index of each night before."""
    live: tuple[SortedRun, ...]
    swallowed: int
    """How many of the last live runs are merged into tonight's."""
    entries: int
    """Tonight's."""
    bits: int
    """Tonight's run has 2^bits parts."""
    threshold: float
    repeated: tuple[Path, ...]
    """Matches of tonight's documents that are left out, since they have the words of an earlier one."""

    @property
    def run_start(self) -> int:
        """Position of the first document in tonight's run."""
        return self.live[-self.swallowed].start if self.swallowed else self.start


@dataclass(frozen=True)
class Matches:
    """What all parts found."""

    older: tuple[DocumentFile, ...]
    """The files of all nights before."""
    tonight: tuple[DocumentFile, ...]
    found: tuple[tuple[Path, tuple[int, ...]], ...]
    """(matches, where those of each of tonight's files end) of every part, first those with the same words."""
    exact: int
    """How many parts those are."""


def match_part(search: Search, part: int, folder: Path) -> Facts:
    """Find the earliest match of each of tonight's documents among those with equal keys in this part.

    Writes "matches" (rows of MATCH, by position) and the part of tonight's run; `ends` says where the matches of each
    of tonight's files end.
    """
    left_out = _left_out(search)
    around = (search.entries + sum(run.entries for run in search.live)) >> search.bits
    found: list[NDArray[Any]] = []
    entries = 0
    with (
        part_path(folder, search.family, part, "keys").open("wb") as key_file,
        part_path(folder, search.family, part, "positions").open("wb") as position_file,
    ):
        for first, last in key_ranges(part, search.bits, around):
            keys, positions = _group(search, left_out, first, last)
            ranks = _ranks(keys)
            found.append(_match(search, positions, ranks))
            own = (ranks < FIRST_OF_A_KEY) & (positions >= search.run_start)
            keys[own].tofile(key_file)
            (positions[own] - search.run_start).astype(np.uint32).tofile(position_file)
            entries += int(own.sum())
    matches = _earliest(np.concatenate(found))
    matches.tofile(folder / "matches")
    ends = np.searchsorted(matches["position"], [file.start + file.count for file in search.tonight])
    return {"entries": entries, "ends": ends.tolist()}


def settle(matches: Matches, folder: Path) -> Facts:
    """Choose among the matches of all parts, and follow them: tables "settled" (rows of SETTLED) and "survivors"."""
    done = list(matches.older)
    for file in matches.tonight:
        own = np.arange(file.start, file.start + file.count)
        settled = np.zeros(file.count, dtype=SETTLED)
        settled["match"], settled["similarity"] = own, 1
        parts = [_matches_of(path, ends, file.number) for path, ends in matches.found]
        for exact, some in ((True, parts[: matches.exact]), (False, parts[matches.exact :])):
            chosen = _earliest(np.concatenate(some))
            rows = chosen["position"] - file.start
            settled["match"][rows], settled["similarity"][rows] = chosen["match"], chosen["similarity"]
            settled["exact"][rows] = exact
        survivors = settled["match"].copy()
        older = survivors < file.start
        survivors[older] = take_rows(done, "survivors", np.int64, survivors[older])
        survivors = _follow(survivors, file.start)
        settled["survivor"] = survivors
        settled.tofile(table_path(folder, file.number, "settled"))
        survivors.tofile(table_path(folder, file.number, "survivors"))
        done.append(DocumentFile(folder, file.number, file.start, file.count))
    return {}


def _left_out(search: Search) -> NDArray[np.bool_]:
    left_out = np.zeros(sum(file.count for file in search.tonight), dtype=np.bool_)
    for path in search.repeated:
        left_out[mapped(path, MATCH)["position"] - search.start] = True
    return left_out


def _group(search: Search, left_out: NDArray[np.bool_], first: int, last: int) -> tuple[Keys, Positions]:
    """Entries in a range, sorted by key and position: tonight's, all of the runs to be merged, and of the other runs
    those that have one of tonight's keys."""
    fresh = [read_entries(file, search.family, first, last) for file in search.tonight]
    keys = np.concatenate([np.empty(0, dtype=np.uint64), *(some for some, _ in fresh)])
    positions = np.concatenate([np.empty(0, dtype=np.int64), *(some for _, some in fresh)])
    staying = ~left_out[positions - search.start]
    keys, positions = sort_entries(keys[staying], positions[staying], first, last)
    if not search.live:
        return keys, positions
    asked = keys[_ranks(keys) == 0]
    all_keys, all_positions = [], []
    for number, run in enumerate(search.live):
        folder = search.folders[run.night]
        if number >= len(search.live) - search.swallowed:
            for run_keys, run_positions in read_run(folder, search.family, run, first, last):
                all_keys.append(run_keys)
                all_positions.append(run_positions + np.int64(run.start))
        else:
            found = find_entries(folder, search.family, run, asked, first, last)
            all_keys.append(found[0])
            all_positions.append(found[1])
    return sort_entries(np.concatenate([*all_keys, keys]), np.concatenate([*all_positions, positions]), first, last)


def _ranks(keys: Keys) -> NDArray[np.int64]:
    """How many entries before each one have the same key; keys are sorted."""
    places = np.arange(len(keys))
    begins = np.where(np.r_[True, keys[1:] != keys[:-1]][: len(keys)], places, 0)
    return places - np.maximum.accumulate(begins)


def _match(search: Search, positions: Positions, ranks: NDArray[np.int64]) -> NDArray[Any]:
    """The earliest of the first FIRST_OF_A_KEY with its key that each of tonight's documents repeats: rows of MATCH.

    All entries are compared with the first of their key, those that do not match with the second, and so on.
    """
    from tasks.similarity.minhash import SKETCH_WORDS

    agree, table, width = (
        (_same_words, "contents", 2) if search.family == "words" else (_similarity, "sketches", SKETCH_WORDS)
    )
    files, row = (*search.older, *search.tonight), (np.uint64, (width,))
    asking = np.flatnonzero((ranks > 0) & (positions >= search.start))
    found: list[NDArray[Any]] = [np.empty(0, dtype=MATCH)]
    for begin in range(0, len(asking), PAIRS):
        entries = asking[begin : begin + PAIRS]
        own = take_rows(files, table, row, positions[entries])
        for rank in range(FIRST_OF_A_KEY):
            others = positions[entries - ranks[entries] + rank]
            similarities = agree(own, take_rows(files, table, row, others))
            hit = similarities >= search.threshold - 1e-9
            matches = np.empty(int(hit.sum()), dtype=MATCH)
            matches["position"], matches["match"] = positions[entries[hit]], others[hit]
            matches["similarity"] = similarities[hit]
            found.append(matches)
            on = ~hit & (ranks[entries] > rank + 1)
            entries, own = entries[on], own[on]
            if not len(entries):
                break
    return _earliest(np.concatenate(found))


def _same_words(contents: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (contents == others).all(axis=1).astype(np.float64)


def _similarity(sketches: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.float64]:
    from tasks.similarity.minhash import estimate

    similarities = np.empty(len(sketches))
    estimate(sketches, others, similarities)
    return similarities


def _earliest(matches: NDArray[Any]) -> NDArray[Any]:
    """The earliest match of each position, by position."""
    ordered = matches[np.lexsort((matches["match"], matches["position"]))]
    return ordered[np.r_[True, ordered["position"][1:] != ordered["position"][:-1]][: len(ordered)]]


def _matches_of(path: Path, ends: tuple[int, ...], number: int) -> NDArray[Any]:
    begin = ends[number - 1] if number else 0
    return np.fromfile(path, MATCH, ends[number] - begin, offset=begin * MATCH.itemsize)


def _follow(matches: Positions, start: int) -> Positions:
    """The end of each row's chain of matches; those before `start` are ends already."""
    while True:
        inside = matches >= start
        further = matches.copy()
        further[inside] = matches[matches[inside] - start]
        if np.array_equal(further, matches):
            return matches
        matches = further
