"""Makes the tokenizer: trains one on an even sample of the documents, or adopts one that was made elsewhere.

Byte-level BPE unless the recipe says otherwise, so that any text has tokens and decodes to itself; its words are cut
by Qwen's pattern (digits one by one, letters with one leading character), because the model exports as a Qwen3. A
sample is enough: 16 of 61 MB of docstrings need 0.07 % more tokens for unseen text than all 61 MB do, for a third of
the time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import Field, computed_field, model_validator
from tokenizers import Tokenizer

from models.named import one_of
from models.settings import NotInKey, Settings
from tasks.core.artifact import Artifact
from tasks.core.stage import Forecast, Metrics, StageLog, stage
from tasks.corpus.documents import read_documents
from tasks.corpus.heldout import is_heldout, write_split
from tasks.intake.places import LocalPath
from tasks.tokens.adopt import adopt, fingerprints
from tasks.tokens.pieces import LEARNT, SPECIALS, learn
from tasks.tokens.vocabulary import CONFIG_FILE, TOKENIZER_FILE


class TokenizerSettings(Settings):
    """What the tokenizer learns from, and how much; or where a finished one lies."""

    kind: Annotated[str, one_of(LEARNT)] = "bpe"
    """What is trained: `bpe`; `wordpiece` and `unigram` bring the mask token that masked models need."""
    vocabulary: int = Field(default=8192, ge=270, le=1 << 20)
    """Tokens, including 256 bytes and the special ones. Up to 65,536 a token takes 2 bytes in the shards."""
    sample_megabytes: float = Field(default=16, ge=0.001, le=100_000)
    """Text to learn from, in millions of bytes: every k-th document for the k that comes out at this much."""
    heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of documents, chosen by their ids, that neither the tokenizer nor any model trained with it may see."""
    path: NotInKey[LocalPath | None] = None
    """A tokenizer.json, or a folder with one, to adopt instead of training (a model's folder from the hub). What enters
    the key are its files' hashes."""
    end_of_text: str | None = Field(default=None, min_length=1)
    """The adopted tokenizer's token that ends a document, where its files do not name one."""

    @model_validator(mode="after")
    def _trained_or_adopted(self) -> Self:
        trained = self.model_fields_set & {"kind", "vocabulary", "sample_megabytes"}
        if self.path is not None and trained:
            raise ValueError(f"an adopted tokenizer is not trained: remove {' and '.join(sorted(trained))}, or path")
        if self.path is None and self.end_of_text is not None:
            raise ValueError("end_of_text is for an adopted tokenizer: remove it, or give a path")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def adopted(self) -> dict[str, str]:
        """BLAKE3 of each adopted file, so that a changed tokenizer under the same path is another request.

        Raises UserError if there is no tokenizer at the path.
        """
        return {} if self.path is None else fingerprints(self.path)


def foretell(documents: Artifact, settings: TokenizerSettings) -> Forecast:
    """The size of a tokenizer that is learnt is known before."""
    return Forecast(metrics={"vocabulary": settings.vocabulary} if settings.path is None else {})


@stage(version=2, foretell=foretell)
def tokenizer(documents: Artifact, settings: TokenizerSettings, out: Path, log: StageLog) -> Metrics:
    """Write tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` loads, and split.json.

    Training is deterministic for any number of threads. No kind puts special tokens around a text by itself: a model
    sees documents one after the other, each ending in end-of-text.

    Raises UserError if the tokenizer to adopt cannot be read or has nothing that ends a document.
    """
    sample_bytes = 0
    if settings.path is not None:
        made, config = adopt(settings.path, settings.end_of_text)
        log.info(f"{made.get_vocab_size():,} tokens adopted; {config['eos_token']} ends a document")
    else:
        sample = list(_sample(documents, settings))
        sample_bytes = sum(len(text.encode()) for texts in sample for text in texts)
        made = learn(settings.kind, settings.vocabulary, lambda: iter(sample))
        specials = SPECIALS[settings.kind]
        config = {"bos_token": specials["eos_token"], **specials, "clean_up_tokenization_spaces": False}
        log.info(f"{made.get_vocab_size():,} tokens learnt from {sample_bytes / 1e6:.1f} MB")
    made.save(str(out / TOKENIZER_FILE))
    _write_config(out, made, config)
    write_split(out, settings.heldout)
    return {"vocabulary": made.get_vocab_size(), "sample_bytes": sample_bytes}


def _write_config(out: Path, made: Tokenizer, config: dict[str, Any]) -> None:
    """Write a config whose class takes tokenizer.json as it stands: others build a pipeline of their own around it."""
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for number, token in sorted(made.get_added_tokens_decoder().items())
        },
        **config,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (out / CONFIG_FILE).write_text(text, encoding="utf-8")


def _sample(documents: Artifact, settings: TokenizerSettings) -> Iterator[list[str]]:
    """The texts to learn from, a file at a time: every k-th document that is not held out.

    As Python's strings: a filtered polars column keeps the whole file's text in memory.
    """
    wanted = settings.sample_megabytes * 1e6
    total = sum(int(batch["text"].str.len_bytes().sum()) for batch in read_documents(documents))
    step = max(1.0, total / wanted)
    seen = 0
    for batch in read_documents(documents):
        positions = pl.int_range(seen, seen + batch.height, eager=True)
        # The positions at which floor(position / step) goes up: every `step`-th, whole or not.
        chosen = (positions / step).floor() > ((positions - 1) / step).floor()
        seen += batch.height
        yield batch.filter(chosen & ~is_heldout(batch["doc_id"], settings.heldout))["text"].to_list()
