"""The recipe: the YAML that a person writes, one pipeline; strict, so that a misspelt key cannot silently do nothing.

Each stage owns its settings beside its code; the recipe only names them. What a recipe leaves out has the stage's
default.
"""

import difflib
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.engine import Engine
from tasks.baseline import BaselineSettings
from tasks.core.errors import UserError
from tasks.decontaminate import DecontaminateSettings
from tasks.deduplicate import DeduplicateSettings
from tasks.evaluate import EvaluateSettings
from tasks.examples import ExamplesSettings
from tasks.filter import FilterSettings
from tasks.finetune import FinetuneSettings
from tasks.images import ImagesSettings
from tasks.ingest import IngestSettings
from tasks.interactions import InteractionsSettings
from tasks.tokenize import TokenizeSettings
from tasks.tokenizer import TokenizerSettings
from tasks.training.settings import PretrainSettings

SHIPPED = Path(__file__).resolve().parent.parent / "deployments"


class Finetuning(BaseModel):
    """Adapting the pre-trained model to a labelled task, beside a twin that starts from scratch and a classic
    baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    examples: ExamplesSettings = ExamplesSettings()
    """Where the labelled examples come from."""
    training: FinetuneSettings = FinetuneSettings()
    """How both the pre-trained model and its twin are trained."""

    def baseline(self) -> BaselineSettings:
        """The baseline sees the same labels as the models."""
        return BaselineSettings(labels=self.training.labels, seed=self.training.seed)


class Recipe(BaseModel):
    """One pipeline, from sources to a registered model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Names the MLflow experiment, the registered model and the Prefect deployment."""
    engine: Engine = Engine()
    """Who does the work of the data stages; changes no byte and enters no key."""
    ingest: IngestSettings | None = None
    """Text; the keys below it say what becomes of it. A recipe has this, or `images`, or `interactions`."""
    images: ImagesSettings | None = None
    """Pictures: the night ends with their shards."""
    interactions: InteractionsSettings | None = None
    """Users' histories: the night ends with their shards."""
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

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> Self:
        given = [name for name in ("ingest", "images", "interactions") if getattr(self, name) is not None]
        if not given:
            raise ValueError("the key `ingest` (or `images`, or `interactions`) is missing; add it")
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` are two pipelines; write a recipe for each")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; a bare name such as `quickstart` means one that ships with Nightschool.

    Raises:
        UserError: the file is missing, is not YAML, or says something that no recipe can say; one sentence names
        the first place.
    """
    file = find_recipe(path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {file} cannot be read ({error}); make it a readable UTF-8 file") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UserError(f"the recipe {file} is not valid YAML{line}; mend the indentation or quotes there") from error
    if not isinstance(content, dict):
        raise UserError(f"the recipe {file} must be a mapping such as `name: ...` and `ingest: ...`")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file}: {_sentence(error, content)}") from error


def find_recipe(path: Path) -> Path:
    """The recipe's file: as given, or the one that ships under that name.

    Raises:
        UserError: there is neither.
    """
    shipped = SHIPPED / f"{path.name}.yaml"
    if path.is_file():
        return path.resolve()
    if path.parent == Path(".") and not path.suffix and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml") if file.stem not in ("prefect", "compose")))
    raise UserError(f"there is no recipe {path}; give the path of a YAML file or one of the names that ship: {names}")


def _sentence(error: ValidationError, content: dict[str, Any]) -> str:
    """The first fault of a recipe in one sentence, with the key that was probably meant."""
    fault = error.errors(include_url=False)[0]
    place = [part for part in fault["loc"] if not (isinstance(part, str) and part not in _keys_along(content))]
    dotted = ".".join(str(part) for part in place)
    if not place:
        return fault["msg"].removeprefix("Value error, ")
    more = f" ({error.error_count() - 1} more after it)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        key = str(place[-1])
        near = difflib.get_close_matches(key, sorted(_known_keys(Recipe) - {key}), n=1)
        hint = f"did you mean `{near[0]}`?" if near else "remove it or see the recipes in deployments/"
        return f"unknown key `{dotted}`; {hint}{more}"
    if fault["type"] == "missing":
        return f"the key `{'.'.join(str(part) for part in fault['loc'])}` is missing; add it{more}"
    if fault["type"] == "value_error":
        return f"`{dotted}`: {fault['msg'].removeprefix('Value error, ')}{more}"
    return f"`{dotted}`: {fault['msg'][0].lower()}{fault['msg'][1:]}, not {fault['input']!r}{more}"


def _keys_along(content: Any) -> set[str]:
    """All keys a person wrote; pydantic's locations also hold the tags of unions, which nobody wrote."""
    if isinstance(content, dict):
        return {str(key) for key in content}.union(*(_keys_along(value) for value in content.values()))
    if isinstance(content, list):
        return set().union(*(_keys_along(value) for value in content))
    return set()


def _known_keys(model: type[BaseModel]) -> set[str]:
    """Every key that some place of a recipe knows."""
    known: set[str] = set()
    schema = model.model_json_schema()
    for definition in [schema, *schema.get("$defs", {}).values()]:
        known.update(definition.get("properties", {}))
    return known
