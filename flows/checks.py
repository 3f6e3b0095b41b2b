"""What can be known before a night starts: whether the blocks of a recipe fit each other, their sources, and this
machine.

`plan`, `run`, `rerun` and `deploy` all begin here, and so does a night itself; each fault is one sentence that names
the key, its value and what to do. Whether a block is right in itself is said by its settings class; what only the data
can say is left to the stages.
"""

from pathlib import Path

from flows.capacity import Capacity, in_words, least_bytes, this_machine
from flows.recipe import Finetuning, ImagesRecipe, InteractionsRecipe, Recipe, TextRecipe, load_recipe
from flows.terminal.printable import sentence
from models.spec import ForeignConfig, ModelConfig
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.corpus.decontaminate import DecontaminateSettings
from tasks.corpus.images import take_images_inventory
from tasks.corpus.ingest import IngestSettings, take_inventory
from tasks.corpus.interactions import take_interactions_inventory
from tasks.corpus.tokenizer import TokenizerSettings
from tasks.intake.evaluation_sets import files_of
from tasks.intake.events import EventTable
from tasks.intake.peek import columns_of, lacking
from tasks.intake.sources import PythonDocs, is_installed
from tasks.judging.evaluate import GAP
from tasks.tokens.adopt import adopt
from tasks.tokens.pieces import SPECIALS
from tasks.tokens.vocabulary import count_ids
from tasks.training.pretrain import fresh_shape
from tasks.training.schedule import Schedule, schedule
from tasks.training.settings import ATTENTION, PretrainSettings
from tasks.training.starting_model import model_files, starting_config

PYTHON_SOURCES = ("python", "topics", "licences")
"""What a python-docs source calls its documents that are of no package."""


def checked_recipe(path: Path) -> Recipe:
    """The recipe, of which all is right that can be known now.

    Raises:
        UserError: it cannot be read, or something in it cannot be; one sentence.
        StageError: a remote place that it names cannot be reached.
    """
    recipe = load_recipe(path)
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Raise UserError if the recipe asks for what cannot be, as far as that is known before anything runs."""
    try:
        recipe.engine.require_package()
        match recipe:
            case TextRecipe():
                _check_places(recipe.ingest, recipe.decontaminate)
                _check_corpus(recipe)
                _check_training(recipe)
            case ImagesRecipe():
                _check_images(recipe)
            case InteractionsRecipe():
                _check_interactions(recipe)
    except UserError as error:
        raise UserError(sentence(str(error))) from error


def _check_corpus(recipe: TextRecipe) -> None:
    """Sources, held-out documents and labelled examples."""
    if recipe.tokenizer.heldout == 0:
        raise UserError(
            "`tokenizer.heldout` is 0, and models are judged by held-out documents: set it to a share such as 0.1"
        )
    sources, any_package = _sources_of(recipe.ingest)
    named = set() if sources is None else set(recipe.pretrain.mixture) - sources
    unknown = sorted(name for name in named if not (any_package and is_installed(name)))
    if sources is not None and unknown:
        raise UserError(
            f"`pretrain.mixture` names {unknown[0]!r}, and no source is called so: remove it, or name one of "
            f"{_some(sources)}"
        )
    if recipe.finetune is not None:
        _check_finetuning(recipe.finetune, recipe.pretrain, None if any_package else sources)


def _sources_of(ingest: IngestSettings) -> tuple[set[str] | None, bool]:
    """What documents can say that they are from, and whether the name of any installed package is such a name as well;
    None where the documents themselves say it."""
    names: set[str] = set()
    any_package = False
    for source in ingest.sources:
        if isinstance(source, PythonDocs):
            any_package = any_package or source.packages is None
            names |= {*PYTHON_SOURCES, *(source.packages or ())}
        elif source.columns.source is not None:
            return None, False
        else:
            names.add(source.name)
    return names, any_package


def _check_finetuning(finetune: Finetuning, pretrain: PretrainSettings, sources: set[str] | None) -> None:
    examples, training = finetune.examples, finetune.training
    if sources is not None and (found := len(sources - {"topics", "licences"})) < examples.classes:
        raise UserError(
            f"`finetune.examples.classes` is {examples.classes}, each class is a source, and the recipe has {found} of "
            "them: lower it, add sources, or remove `finetune`"
        )
    pool = examples.pool // examples.classes * examples.classes
    if training.labels > pool:
        raise UserError(
            f"`finetune.training.labels` is {training.labels:,}, and a pool of {examples.pool:,} has {pool:,} examples "
            f"of {examples.classes} classes: lower it, or raise `finetune.examples.pool`"
        )
    if examples.context_length > pretrain.context_length:
        raise UserError(
            f"`finetune.examples.context_length` is {examples.context_length}, and the model reads "
            f"{pretrain.context_length} tokens (`pretrain.context_length`): lower it to that"
        )


def _check_training(recipe: TextRecipe) -> None:
    """The tokenizer, the model, and the machine that shall train it."""
    settings, machine = recipe.pretrain, this_machine()
    _check_devices(settings, machine)
    model = _model_of(recipe)
    if recipe.finetune is not None and not model.classifies:
        raise UserError(
            f"`pretrain.start` is a {model.architecture}, and classification is learnt by our own transformer only: "
            "remove `finetune`, and fine-tune the exported folder elsewhere"
        )
    if settings.objective == "masked_token":
        longest = max((len(gap.replace(GAP, " _ ").split()) for gap in recipe.evaluate.gaps), default=0)
        if longest + 2 > settings.context_length:
            raise UserError(
                f"`evaluate.gaps` has a sentence of {longest} words, and the model reads {settings.context_length} "
                "tokens (`pretrain.context_length`): shorten it, or raise context_length"
            )
    plan = schedule(settings, model, StageLog())
    processes = _processes(settings, plan, machine)
    if plan.batch % (settings.accumulate * processes):
        raise UserError(
            f"the batch that the rules derive ({plan.batch}) is no multiple of accumulate x devices "
            f"({settings.accumulate} x {processes}): set `pretrain.batch` to one that is"
        )
    _check_memory(settings, model, plan, processes, machine)


def _check_devices(settings: PretrainSettings, machine: Capacity) -> None:
    asked = settings.machine
    there = len(machine.gpus) or machine.processors
    kind = "GPUs" if machine.gpus else "processors and no GPU"
    if asked.devices is not None and asked.devices > there:
        raise UserError(
            f"`pretrain.machine.devices` is {asked.devices}, and this machine has {there} {kind}: lower it, or leave "
            "it out"
        )
    if asked.strategy == "fsdp" and not machine.gpus:
        raise UserError(
            "`pretrain.machine.strategy` is fsdp, which divides a model among GPUs, and this machine has none: set it "
            "to auto, or run on one that has"
        )
    if asked.compile is True and not machine.compiles:
        raise UserError(
            "`pretrain.machine.compile` is true, and this machine has no C++ compiler: install g++, or set it to auto"
        )


def _model_of(recipe: TextRecipe) -> ModelConfig | ForeignConfig:
    """The model that the training would begin with.

    Raises:
        UserError: there is none such, or its tokenizer does not serve it.
    """
    settings = recipe.pretrain
    if recipe.tokenizer.path is None:
        _require_mask(settings, recipe.tokenizer, "mask_token" in SPECIALS[recipe.tokenizer.kind])
        return fresh_shape(settings, recipe.tokenizer.vocabulary)
    if settings.start is not None:
        model_files(settings.start)
    words, config = adopt(recipe.tokenizer.path, recipe.tokenizer.end_of_text)
    _require_mask(settings, recipe.tokenizer, "mask_token" in config)
    if settings.start is None:
        return fresh_shape(settings, count_ids(words))
    return starting_config(settings.start, words, ATTENTION[settings.objective], settings.context_length)


def _require_mask(settings: PretrainSettings, tokenizer: TokenizerSettings, has_mask: bool) -> None:
    if settings.objective == "masked_token" and not has_mask:
        if tokenizer.path is None:
            which, advice = f"`tokenizer.kind` {tokenizer.kind}", "set it to wordpiece or unigram"
        else:
            which, advice = f"the tokenizer at {tokenizer.path}", "adopt one whose tokenizer_config.json names it"
        raise UserError(f"`pretrain.objective` is masked_token, and {which} has no mask token: {advice}")


def _processes(settings: PretrainSettings, plan: Schedule, machine: Capacity) -> int:
    """As tasks/training/torchrun.py chooses them."""
    if settings.machine.devices is not None:
        return settings.machine.devices
    count = max(1, len(machine.gpus))
    while plan.batch // settings.accumulate % count:
        count -= 1
    return count


def _check_memory(
    settings: PretrainSettings, model: ModelConfig | ForeignConfig, plan: Schedule, processes: int, machine: Capacity
) -> None:
    windows = plan.batch // (settings.accumulate * processes)
    needs = least_bytes(model, windows, processes if settings.machine.strategy == "fsdp" else 1)
    if needs is None:
        return
    weights, activations = needs
    if machine.gpus:
        there, where = max(machine.gpus), "a GPU here"
    else:
        there, where = machine.memory // processes, "this machine" if processes == 1 else "each process here"
    if weights > there:
        raise UserError(
            f"`pretrain` asks for a model (layers {settings.layers}, width {settings.width}, vocabulary "
            f"{model.vocabulary:,}) that needs at least {in_words(weights)}, and {where} has {in_words(there)}: lower "
            "one of them"
        )
    if weights + activations > there:
        raise UserError(
            f"`pretrain` asks for {windows} windows of {model.context_length} tokens at once, which needs at least "
            f"{in_words(weights + activations)}, and {where} has {in_words(there)}: lower batch or context_length, or "
            "raise accumulate"
        )


def _check_places(ingest: IngestSettings, decontaminate: DecontaminateSettings) -> None:
    """That the sources are there, with the columns that the recipe names, and the evaluation sets too."""
    stocks = take_inventory(ingest).stocks
    for source, stock in zip(ingest.sources, stocks, strict=True):
        if isinstance(source, PythonDocs):
            continue
        columns = source.columns
        paths = [unit.path for unit in stock.units]
        lines = [path for path in paths if ".jsonl" in path.lower()]
        # Lines may leave out the other two fields; in tables a column is there or not.
        wanted = [columns.text] if lines else columns.wanted()
        _require_columns(source.name, paths, wanted)
    for name, chosen in decontaminate.sets.items():
        for file in files_of(name, chosen):
            names = columns_of(str(file))
            if names is not None and (missing := [column for column in chosen.columns if column not in names]):
                raise UserError(
                    f"The evaluation set {name!r} has no column {missing[0]!r} in {file.name}, which has "
                    f"{_some(names)}: correct its `columns`."
                )


def _check_images(recipe: ImagesRecipe) -> None:
    inventory = take_images_inventory(recipe.images)
    for source, files in zip(recipe.images.sources, inventory.files, strict=True):
        wanted = [source.image_column, *([source.label_column] if source.label_column else [])]
        _require_columns(source.name, [file.path for file in files], wanted)


def _check_interactions(recipe: InteractionsRecipe) -> None:
    inventory = take_interactions_inventory(recipe.interactions)
    for source, files in zip(recipe.interactions.sources, inventory.files, strict=True):
        if isinstance(source, EventTable):
            wanted = [source.user, source.item, *([source.time] if source.time else [])]
            _require_columns(source.name, [file.path for file in files], wanted)


def _require_columns(source: str, paths: list[str], wanted: list[str]) -> None:
    if missing := lacking(paths, wanted):
        column, file, names = missing
        raise UserError(
            f"Source {source!r}: {file} has no column {column!r} but {_some(names)}; name the right one in the recipe."
        )


def _some(names: set[str], most: int = 8) -> str:
    """The first of some names, in their order."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
