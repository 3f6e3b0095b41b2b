"""The recipe: the YAML that a person writes, one pipeline; strict, so that a misspelt key cannot silently do nothing.

A recipe is of text, of images or of interactions, and takes the keys of its kind alone. Each stage owns its settings
beside its code; the recipe only names them. What a recipe leaves out has the stage's default.
"""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from flows.engine import Engine
from flows.recipe_file import find_recipe, read_recipe_file
from flows.terminal.printable import sentence
from models.settings import PATTERNS, NotInKey, Settings
from tasks.core.errors import UserError
from tasks.corpus.decontaminate import DecontaminateSettings
from tasks.corpus.deduplicate import DeduplicateSettings
from tasks.corpus.examples import ExamplesSettings
from tasks.corpus.filter import FilterSettings
from tasks.corpus.images import ImagesSettings
from tasks.corpus.ingest import IngestSettings
from tasks.corpus.interactions import InteractionsSettings
from tasks.corpus.tokenize import TokenizeSettings
from tasks.corpus.tokenizer import TokenizerSettings
from tasks.judging.baseline import BaselineSettings
from tasks.judging.evaluate import EvaluateSettings
from tasks.training.finetune import FinetuneSettings
from tasks.training.settings import PretrainSettings

SHOWN_INPUT = 60


class Finetuning(Settings):
    """Adapting the pre-trained model to a labelled task, beside a twin that starts from scratch and a classic
    baseline."""

    examples: ExamplesSettings = ExamplesSettings()
    """Where the labelled examples come from."""
    training: FinetuneSettings = FinetuneSettings()
    """How both the pre-trained model and its twin are trained."""

    def baseline(self) -> BaselineSettings:
        """The baseline sees the same labels as the models."""
        return BaselineSettings(labels=self.training.labels, seed=self.training.seed)


class AnyRecipe(Settings):
    """What a recipe of any kind of data says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Names the MLflow experiment, the registered model and the Prefect deployment."""
    engine: NotInKey[Engine] = Engine()
    """Who does the work of the data stages; a kind's name alone is short for `{kind: NAME}`."""


class TextRecipe(AnyRecipe):
    """From text to a registered model."""

    ingest: IngestSettings
    """Where text comes from; the keys below say what becomes of it."""
    filter: FilterSettings = FilterSettings()
    deduplicate: DeduplicateSettings = DeduplicateSettings()
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    tokenize: TokenizeSettings = TokenizeSettings()
    pretrain: PretrainSettings = PretrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    finetune: Finetuning | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_continued_model_brings_its_tokenizer(cls, content: Any) -> Any:
        pretrain = content.get("pretrain") if isinstance(content, dict) else None
        start = pretrain.get("start") if isinstance(pretrain, dict) else None
        tokenizer = content.get("tokenizer") if isinstance(content, dict) else None
        if start is None or not isinstance(tokenizer, dict | None):
            return content
        return {**content, "tokenizer": {"path": start, **(tokenizer or {})}}


class ImagesRecipe(AnyRecipe):
    """From pictures to their shards."""

    images: ImagesSettings


class InteractionsRecipe(AnyRecipe):
    """From logs to the shards of users' histories."""

    interactions: InteractionsSettings


Recipe = TextRecipe | ImagesRecipe | InteractionsRecipe
KINDS: dict[str, type[TextRecipe] | type[ImagesRecipe] | type[InteractionsRecipe]] = {
    "ingest": TextRecipe,
    "images": ImagesRecipe,
    "interactions": InteractionsRecipe,
}
"""The kinds of recipes by the key that only they have, and must have."""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe and check each of its blocks; a bare name such as `quickstart` means one that ships with
    Nightschool. Whether the blocks fit each other, their sources and this machine is asked by flows/checks.py.

    Raises:
        UserError: the file is missing, is not YAML, or says something that no recipe can say; one sentence names
        the first place.
    """
    content = read_recipe_file(path)
    try:
        return recipe_of(content)
    except UserError as error:
        raise UserError(sentence(f"{find_recipe(path)}: {error}")) from error


def recipe_of(content: dict[str, Any]) -> Recipe:
    """The recipe that the values of a file describe.

    Raises:
        UserError: there is none such; one sentence names the first place.
    """
    kind = _kind_of(content)
    try:
        recipe = KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(error, content, KINDS[kind])) from error
    if misread := _misread(content, recipe, ""):
        raise UserError(misread)
    return recipe


def _kind_of(content: dict[str, Any]) -> str:
    """The key that says of which kind a recipe is.

    Raises:
        UserError: none or several do, or a key belongs to another kind.
    """
    given = [key for key in KINDS if key in content]
    if not given:
        raise UserError("the key `ingest` (or `images`, or `interactions`) is missing; add it")
    if len(given) > 1:
        raise UserError(f"`{given[0]}` and `{given[1]}` are two pipelines; write a recipe for each")
    for key in content:
        if key not in KINDS[given[0]].model_fields and key in TextRecipe.model_fields:
            raise UserError(
                f"`{key}` is for recipes of text, and this one is of {given[0]}; remove it, or replace `{given[0]}` by "
                "`ingest`"
            )
    return given[0]


def _misread(content: Any, value: Any, place: str) -> str | None:
    """What pydantic would take for something else than was written: `true` for 1, or 1 for `true`."""
    if isinstance(content, dict) and isinstance(value, BaseModel | dict):
        for key, inner in content.items():
            read = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
            if misread := _misread(inner, read, f"{place}.{key}" if place else key):
                return misread
    elif isinstance(content, list) and isinstance(value, list | tuple):
        for number, (inner, read) in enumerate(zip(content, value, strict=False)):
            if misread := _misread(inner, read, f"{place}.{number}"):
                return misread
    elif {type(content), type(value)} in ({bool, int}, {bool, float}):
        wanted = "true or false" if isinstance(value, bool) else "a number"
        return f"`{place}`: input should be {wanted}, not {_quoted(content)}"
    return None


def _sentence(error: ValidationError, content: dict[str, Any], kind: type[BaseModel]) -> str:
    """The first fault of a recipe in one sentence, with the key that was probably meant."""
    fault = error.errors(include_url=False)[0]
    written = _keys_along(content)
    place = [part for part in fault["loc"] if isinstance(part, int) or part in written]
    dotted = ".".join(str(part) for part in place)
    more = f" ({error.error_count() - 1} more after it)" if error.error_count() > 1 else ""
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        key = str(place[-1])
        near = difflib.get_close_matches(key[:SHOWN_INPUT], sorted(_known_keys(kind) - {key}), n=1)
        hint = f"did you mean `{near[0]}`?" if near else "remove it or see the recipes in deployments/"
        return f"unknown key `{dotted}`; {hint}{more}"
    if fault["type"] == "missing":
        above = [str(part) for part in fault["loc"][:-1] if isinstance(part, int) or part in written]
        missing = ".".join([*above, str(fault["loc"][-1])])
        return f"the key `{missing}` is missing; add it{more}"
    if not place:
        return message
    if fault["type"] == "string_pattern_mismatch":
        wanted = PATTERNS[fault["ctx"]["pattern"]]
        return f"`{dotted}` is {_quoted(fault['input'])}; write it with {wanted} alone{more}"
    if fault["type"] == "value_error":
        return f"`{dotted}`: {message}{more}"
    return f"`{dotted}`: {message[0].lower()}{message[1:]}, not {_quoted(fault['input'])}{more}"


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_INPUT else f"{text[:SHOWN_INPUT]}…"


def _keys_along(content: Any) -> set[str]:
    """All keys a person wrote; pydantic's locations also hold the tags of unions, which nobody wrote."""
    if isinstance(content, dict):
        return {str(key) for key in content}.union(*(_keys_along(value) for value in content.values()))
    if isinstance(content, list):
        return set().union(*(_keys_along(value) for value in content))
    return set()


def _known_keys(kind: type[BaseModel]) -> set[str]:
    """Every key that some place of a recipe of this kind knows."""
    known: set[str] = set()
    schema = kind.model_json_schema()
    for definition in [schema, *schema.get("$defs", {}).values()]:
        known.update(definition.get("properties", {}))
    return known
