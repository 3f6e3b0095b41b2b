"""Deduplicate: the verdict on a document depends on what came before it, and on nothing else."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.deduplicate import DeduplicateSettings, deduplicate, find_matches, sign_texts, survivors
from tasks.minhash import NOTHING, permutations
from tests.corpora import corpus_of, fresh, rows_of, verdicts_of

DEFAULT = DeduplicateSettings()
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def sign(texts: list[str], how: DeduplicateSettings = DEFAULT) -> tuple[np.ndarray, np.ndarray]:
    return sign_texts(pa.array(texts, pa.large_string()), how)


def matches(texts: list[str], how: DeduplicateSettings = DEFAULT, threads: int | None = None) -> list[int]:
    found, _, _ = find_matches(*sign(texts, how), how, threads)
    return found.tolist()


def prose(seed: int, words: int = 200) -> list[str]:
    generator = random.Random(seed)
    return [f"{generator.choice(WORDS)}{generator.randrange(500)}" for _ in range(words)]


def edited(words: list[str], edits: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    changed = list(words)
    for position in generator.sample(range(len(words)), edits):
        changed[position] = f"edit{generator.randrange(10**6)}"
    return changed


def jaccard(one: list[str], other: list[str], width: int = 5) -> float:
    first, second = (
        {tuple(words[start : start + width]) for start in range(len(words) - width + 1)} for words in (one, other)
    )
    return len(first & second) / len(first | second)


def reference_signature(text: str, width: int, count: int) -> list[int]:
    """The definition, spelled out in Python integers."""
    mask = 2**64 - 1

    def mix(value: int) -> int:
        value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & mask
        value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return value ^ value >> 33

    def hash_word(word: str) -> int:
        value = 0xCBF29CE484222325
        for byte in word.encode():
            value = (value ^ byte) * 0x100000001B3 & mask
        return mix(value)

    def hash_shingle(words: list[int]) -> int:
        value = 0
        for word in words:
            value = (value * 0x9DDFEA08EB382D69 + word) & mask
        return mix(value) >> 32

    text = "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in text)
    words, word = [], ""
    for char in text + " ":
        alone = "\u3000" <= char <= "\ud7ff"
        ascii_word = char.isascii() and (char.isalnum() or char == "_")
        other = not char.isascii() and not "\u0080" <= char <= "\u00a9" and not "\u2000" <= char <= "\u203f"
        if alone or not (ascii_word or other):
            words += [word] if word else []
            words += [char] if alone else []
            word = ""
        else:
            word += char
    hashes = [hash_word(word) for word in words]
    shingles = [hash_shingle(hashes[start : start + width]) for start in range(max(1, len(hashes) - width + 1))]
    multipliers, summands = permutations(count)
    if not hashes:
        return [NOTHING] * count
    return [
        min((int(a) * shingle + int(b)) % 2**32 for shingle in shingles)
        for a, b in zip(multipliers, summands, strict=True)
    ]


TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab C_9 \n.,-"),
        st.sampled_from("äß\u00a0\u00a9\u00aa\u2014\u201c\u2026\u203f\u2040中文かな\u3000한\ud7a3\ufb01😀"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=5), st.integers(1, 6))
def test_signatures_are_what_their_definition_says(texts: list[str], width: int) -> None:
    how = DeduplicateSettings(shingle_words=width, bands=3, rows=2)
    signatures, contents = sign(texts, how)
    assert signatures.tolist() == [reference_signature(text, width, 6) for text in texts]
    assert contents.shape == (len(texts), 2)


def test_a_long_text_fills_the_buffer_of_shingles_many_times() -> None:
    text = " ".join(prose(1, words=5000))
    assert sign([text])[0][0].tolist() == reference_signature(text, 5, 112)


def test_the_estimate_is_near_the_true_similarity() -> None:
    base = prose(1, words=2000)
    for edits in (10, 40, 100):
        other = edited(base, edits)
        signatures, _ = sign([" ".join(base), " ".join(other)], DeduplicateSettings(bands=100, rows=10))
        estimate = (signatures[0] == signatures[1]).mean()
        true = jaccard(base, other)
        assert abs(estimate - true) < 4 * (true * (1 - true) / 1000) ** 0.5


def test_layout_case_and_punctuation_do_not_make_another_text() -> None:
    text = " ".join(prose(1))
    assert matches([text, text.upper().replace(" ", ",\n  ") + "!", text + " more"]) == [0, 0, 0]
    _, exact, similarity = find_matches(*sign([text, text.upper() + ".", text + " more"]), DEFAULT)
    assert exact.tolist() == [False, True, False]
    assert similarity[1] == 1
    assert similarity[2] > 0.9


def test_texts_without_words_repeat_nothing_and_short_ones_repeat_only_themselves() -> None:
    assert matches(["", "...", "", "one", "two", "one", "one two", "One, two"]) == [0, 1, 2, 3, 4, 3, 6, 6]


def test_a_near_duplicate_is_dropped_past_the_threshold_only() -> None:
    base = prose(3)
    near, far = edited(base, 2), edited(base, 40)
    assert jaccard(base, near) > 0.85
    assert jaccard(base, far) < 0.4
    texts = [" ".join(words) for words in (base, near, far)]
    assert matches(texts) == [0, 0, 2]
    assert matches(texts, DeduplicateSettings(threshold=1)) == [0, 1, 2]


def test_survivors_end_every_chain() -> None:
    assert survivors(np.array([0, 0, 1, 3, 2, 3])).tolist() == [0, 0, 0, 3, 0, 3]


CORPORA = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 1, 3, 8, 20]), st.integers(0, 3)), min_size=1, max_size=12
).map(lambda specs: [" ".join(edited(prose(base, 80), edits, seed)) for base, edits, seed in specs])


@settings(max_examples=50, deadline=None)
@given(CORPORA, st.data())
def test_no_verdict_is_changed_by_what_follows(texts: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(texts)))
    assert matches(texts[:cut]) == matches(texts)[:cut]


@settings(max_examples=50, deadline=None)
@given(CORPORA)
def test_matches_are_those_of_a_comparison_of_all_pairs(texts: list[str]) -> None:
    signatures, contents = sign(texts)
    expected = []
    for later in range(len(texts)):
        exact = [earlier for earlier in range(later) if (contents[later] == contents[earlier]).all()]
        near = []
        for earlier in range(later):
            same = signatures[later] == signatures[earlier]
            shares_band = same.reshape(DEFAULT.bands, DEFAULT.rows).all(axis=1).any()
            if shares_band and same.mean() >= DEFAULT.threshold:
                near.append(earlier)
        expected.append([*exact, *near, later][0])
    assert matches(texts) == expected


def test_the_number_of_threads_does_not_show() -> None:
    texts = [" ".join(edited(prose(index % 300, 60), index % 4, index)) for index in range(3000)]
    column = pa.array(texts, pa.large_string())
    one, many = sign_texts(column, DEFAULT, threads=1), sign_texts(column, DEFAULT, threads=5)
    assert all(np.array_equal(*pair) for pair in zip(one, many, strict=True))
    pairs = zip(find_matches(*one, DEFAULT, threads=1), find_matches(*one, DEFAULT, threads=5), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def test_a_sliced_column_is_signed_like_a_whole_one() -> None:
    texts = [" ".join(prose(index, 30)) for index in range(6)]
    whole = pa.array(texts, pa.large_string())
    assert np.array_equal(sign_texts(whole, DEFAULT)[0][2:5], sign_texts(whole.slice(2, 3), DEFAULT)[0])


def test_each_drop_names_a_kept_survivor_and_the_rest_is_copied_in_order(tmp_path: Path) -> None:
    base, other = prose(5), prose(6)
    chain = edited(base, 3, seed=1)
    rows = [
        ("a", " ".join(base), "s"),
        ("b", " ".join(other), "t"),
        ("c", " ".join(chain), "s"),
        ("d", " ".join(other).upper(), "t"),
        ("e", " ".join(prose(7)), "s"),
        ("f", " ".join(edited(chain, 3, seed=2)), "s"),
    ]
    documents = corpus_of(tmp_path / "in", rows)
    metrics = deduplicate(documents, DEFAULT, fresh(tmp_path / "out"), StageLog())
    assert rows_of(tmp_path / "out") == [rows[0], rows[1], rows[4]]
    verdicts = verdicts_of(tmp_path / "out")
    assert verdicts.schema == {
        **dict.fromkeys(["doc_id", "stage", "verdict", "reason", "evidence", "survivor"], pl.String),
        "similarity": pl.Float64,
    }
    assert verdicts.select("verdict", "reason", "survivor").rows() == [
        ("kept", "new", None),
        ("kept", "new", None),
        ("dropped", "near-duplicate", "a"),
        ("dropped", "exact duplicate", "b"),
        ("kept", "new", None),
        ("dropped", "near-duplicate", "a"),
    ]
    assert verdicts["evidence"][3] == "same words as b"
    assert verdicts["similarity"][3] == 1
    kept_bytes = sum(len(rows[index][1]) for index in (0, 1, 4))
    assert metrics == {
        "documents": 6,
        "kept": 3,
        "kept_bytes": kept_bytes,
        "dropped_exact_duplicate": 1,
        "dropped_near_duplicate": 2,
    }


def test_how_documents_are_cut_into_files_changes_no_verdict(tmp_path: Path) -> None:
    rows = [(f"d{index}", " ".join(edited(prose(index % 5, 50), index % 3, index)), "s") for index in range(30)]
    for size in (100, 10**6):
        deduplicate(corpus_of(tmp_path / f"in{size}", rows, size), DEFAULT, fresh(tmp_path / f"{size}"), StageLog())
    assert rows_of(tmp_path / "100") == rows_of(tmp_path / "1000000")
    assert verdicts_of(tmp_path / "100").equals(verdicts_of(tmp_path / "1000000"))


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [(f"d{index}", " ".join(edited(prose(index % 9, 50), index % 2, index)), "s") for index in range(200)]
    documents = corpus_of(tmp_path / "in", rows)
    for name in ("one", "two"):
        deduplicate(documents, DEFAULT, fresh(tmp_path / name), StageLog())
    assert Artifact.of("x", tmp_path / "one").digest == Artifact.of("x", tmp_path / "two").digest


@pytest.mark.parametrize("edits", [0, 1, 2])
def test_injected_near_duplicates_are_found(edits: int) -> None:
    originals = [prose(index, 150) for index in range(200)]
    texts = [" ".join(words) for words in originals] + [
        " ".join(edited(words, edits, index)) for index, words in enumerate(originals)
    ]
    found = matches(texts)
    recalled = np.mean([found[200 + index] == index for index in range(200)])
    assert recalled >= (1 if edits == 0 else 0.99)
    assert found[:200] == list(range(200))
