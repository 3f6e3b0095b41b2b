"""Made-up English prose with natural frequencies, duplicates and near-duplicates, for tests that need a corpus."""

import json
import random
from pathlib import Path
from pydoc_data.topics import topics


def write_prose(folder: Path, files: int, documents: int, seed: int) -> list[Path]:
    """Write `documents` in `files` jsonl files: one in ten is a copy of an earlier one, one in ten nearly so."""
    chance = random.Random(seed)
    sentences = english_sentences(5, 40, plain=False)
    texts: list[str] = []
    for _ in range(documents):
        fate = chance.random()
        if texts and fate < 0.1:
            texts.append(chance.choice(texts))
        elif texts and fate < 0.2:
            words = chance.choice(texts).split()
            words[chance.randrange(len(words))] = "nightfall"
            texts.append(" ".join(words))
        else:
            texts.append("\n".join(chance.choices(sentences, k=chance.randint(6, 30))))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.jsonl" for number in range(files)]
    for number, path in enumerate(paths):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[number::files]))
    return paths


def english_sentences(shortest: int = 8, longest: int = 20, plain: bool = True) -> list[str]:
    """Sentences of Python's language reference, of so many words, in its order; plain ones hold letters alone."""
    return [
        " ".join(sentence.split()) + "."
        for text in topics.values()
        for paragraph in text.split("\n\n")
        for sentence in paragraph.split(". ")
        if shortest <= len(sentence.split()) <= longest and (not plain or sentence.replace(" ", "").isalpha())
    ]
