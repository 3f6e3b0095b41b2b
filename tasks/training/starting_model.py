"""The weights that a training goes on from: a model's folder from elsewhere, or the trunk of an earlier night."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from blake3 import blake3
from pydantic import Field
from tokenizers import Tokenizer

from models.settings import NotInKey, Settings
from models.spec import ForeignConfig, ModelConfig, StartingPoint
from models.text.identify import load_config
from tasks.core.artifact import Artifact, Reference, Request
from tasks.core.digest import digest
from tasks.core.errors import UserError
from tasks.tokens.vocabulary import TOKENIZER_FILE, count_ids

TRUNK = "trunk"
"""The folder of a pre-training's output in which its trunk lies."""


class StartingModel(Settings):
    """What the model knew before its first night: nothing, or what a model from elsewhere had learnt."""

    folder: NotInKey[Path | None] = None
    """Where the model from elsewhere lies; the key has its files' hashes instead."""
    files: dict[str, str] = Field(default={})
    """BLAKE3 of each, by name."""
    family: str = "transformer"
    """What kind of model it is, and with it every model that is trained from here on."""


def fingerprints(folder: Path) -> dict[str, str]:
    """BLAKE3 of the files that make a model: config.json, and weights as safetensors (never as pickles).

    Raises UserError if there is no model in the folder.
    """
    return {file.name: blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest() for file in model_files(folder)}


def model_files(folder: Path) -> list[Path]:
    """The files that make a model.

    Raises UserError if there is no model in the folder.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise UserError(
            f"There is no model in {folder}: `start` is a folder with config.json and *.safetensors, as "
            "`AutoModel....from_pretrained(...).save_pretrained(folder)` writes it."
        )
    return [folder / "config.json", *sorted(folder.glob("*.safetensors.index.json")), *weights]


def starting_config(
    folder: Path, words: Tokenizer, attention: Literal["causal", "bidirectional"], context_length: int
) -> ModelConfig | ForeignConfig:
    """The model in a folder, as it is trained here: on the ids of `words`, in windows of `context_length` tokens.

    Raises UserError if there is none that can be, or if its ids are not the tokenizer's.
    """
    try:
        model = load_config(folder, attention)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not model.any_length and model.context_length < context_length:
        raise UserError(
            f"The model in {folder} has {model.context_length} positions, and context_length is {context_length}: "
            "shorten it."
        )
    if model.attention != attention:
        raise UserError(
            f"The model in {folder} is {model.attention}, and the objective needs a {attention} one: change "
            "`objective` or `start`."
        )
    if (ids := count_ids(words)) > model.vocabulary:
        raise UserError(
            f"The tokenizer has {ids:,} tokens and the model in {folder} only {model.vocabulary:,}: adopt the model's "
            f"own (`tokenizer: {{path: {folder}}}`)."
        )
    own = folder / TOKENIZER_FILE
    if own.is_file() and (other := _other_id(Tokenizer.from_file(str(own)), words)):
        raise UserError(
            f"The tokenizer gives another id to {other!r} than the model in {folder} learnt: adopt the model's own "
            f"(`tokenizer: {{path: {folder}}}`)."
        )
    return model.model_copy(update={"context_length": context_length})


def _other_id(own: Tokenizer, used: Tokenizer) -> str | None:
    """The first token, by its id, that the tokenizer in use numbers differently."""
    numbers = used.get_vocab()
    by_id = sorted(own.get_vocab().items(), key=lambda item: item[1])
    return next((token for token, number in by_id if numbers.get(token) != number), None)


def partitions_of(training: Request) -> list[Reference]:
    """The partitions that a pre-training learnt from, in the order of the nights."""
    given = training.inputs.get("tokens")
    return given if isinstance(given, list) else []


def trunk_of(previous: Artifact) -> StartingPoint:
    """Where an earlier night's trunk stands."""
    return StartingPoint(folder=previous.path / TRUNK, digest=previous.digest, trunk=True)


def model_at(folder: Path, files: dict[str, str]) -> StartingPoint:
    """A model from elsewhere; its files' hashes are its name."""
    return StartingPoint(folder=folder, digest=digest(files))
