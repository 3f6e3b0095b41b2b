"""Texts that are nearly alike, and how alike they truly are."""

import random

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


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
