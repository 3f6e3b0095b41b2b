"""Learns a vocabulary: byte-level BPE, WordPiece or byte-level Unigram, the same one for any number of threads.

BPE (Sennrich et al. 2016) is the default: fastest to train and to encode. Unigram (Kudo 2018) is the alternative for
generation, WordPiece (Devlin et al. 2019) the one that masked models are used with; only it loses something, the
spaces between words and characters too rare for its alphabet. The trainers of the `tokenizers` package for the last
two give another vocabulary in every process, because they walk a randomly seeded hash map: WordPiece is told its
alphabet beforehand, which settles the order, and Unigram is trained in tasks/tokens/unigram.py.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from models.named import ByName
from tasks.tokens.unigram import learn_pieces

Sample = Callable[[], Iterator[list[str]]]
"""Gives the texts to learn from, some at a time, as often as it is called."""

END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
SPECIALS: ByName[dict[str, str]] = {
    "bpe": {"eos_token": END_OF_TEXT, "pad_token": PADDING},
    "wordpiece": {
        "eos_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "unigram": {"eos_token": END_OF_TEXT, "pad_token": PADDING, "unk_token": "<|unknown|>", "mask_token": "<|mask|>"},
}
"""The special tokens of each kind by their role in transformers; ids count from 0 in this order."""

WORD_PATTERN = (  # Qwen2's and Qwen3's tokenizer.json
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())

WORDPIECE_ALPHABET = 1000  # BERT's own limit on characters

UNIGRAM_SEED = 4  # times the vocabulary: pieces to start from
UNIGRAM_LONGEST = 16  # bytes of a piece


def learn(kind: str, vocabulary: int, sample: Sample) -> Tokenizer:
    """A tokenizer of one of the kinds of `LEARNT` and at most `vocabulary` tokens."""
    return LEARNT[kind](vocabulary, sample)


def _byte_level(model: BPE | Unigram) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _learn_bpe(vocabulary: int, sample: Sample, specials: Iterable[str] = SPECIALS["bpe"].values()) -> Tokenizer:
    """Deterministic as it is: ties between merges are broken by ids."""
    tokenizer = _byte_level(BPE())
    trainer = BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(specials), initial_alphabet=BYTES, show_progress=False
    )
    tokenizer.train_from_iterator(sample(), trainer)
    return tokenizer


def _learn_wordpiece(vocabulary: int, sample: Sample) -> Tokenizer:
    """Cased, as Devlin et al. cut words: at spaces, punctuation and around every CJK character.

    What begins no word is written `##x`. Those single characters enter the vocabulary in the order in which the
    trainer meets them, which is random; given as special tokens they have places of their own before that.
    """
    specials = list(SPECIALS["wordpiece"].values())
    tokenizer = Tokenizer(WordPiece(unk_token=SPECIALS["wordpiece"]["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    characters: Counter[str] = Counter()
    for texts in sample():
        for text in texts:
            characters.update(tokenizer.normalizer.normalize_str(text))
    frequent = sorted((-count, character) for character, count in characters.items() if not character.isspace())
    room = min(WORDPIECE_ALPHABET, (vocabulary - len(specials)) // 2)
    alphabet = sorted(character for _, character in frequent[:room])
    trainer = WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*specials, *(f"##{character}" for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(), trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(described))


def _learn_unigram(vocabulary: int, sample: Sample) -> Tokenizer:
    """From the pieces of a byte-level BPE of four times the size, as Kudo 2018 (section 3.2) suggests for a seed."""
    specials = list(SPECIALS["unigram"].values())
    wanted = vocabulary - len(specials)
    seed = _learn_bpe(len(BYTES) + UNIGRAM_SEED * wanted, sample, specials=())
    pieces = [piece for piece in seed.get_vocab() if len(piece) <= UNIGRAM_LONGEST]
    words: Counter[str] = Counter()
    for texts in sample():
        for text in texts:
            words.update(word for word, _ in seed.pre_tokenizer.pre_tokenize_str(text))
    ordered = sorted(words)
    scored = learn_pieces(ordered, [words[word] for word in ordered], pieces, BYTES, wanted)
    unknown = specials.index(SPECIALS["unigram"]["unk_token"])
    tokenizer = _byte_level(Unigram([*((special, 0.0) for special in specials), *scored], unk_id=unknown))
    tokenizer.add_special_tokens(specials)
    return tokenizer


LEARNT: ByName[Callable[[int, Sample], Tokenizer]] = {
    "bpe": _learn_bpe,
    "wordpiece": _learn_wordpiece,
    "unigram": _learn_unigram,
}
"""What learns a tokenizer, by kind."""
