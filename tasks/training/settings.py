"""What may be asked of a pre-training: the model, what it learns, how long and how fast, and by what."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from models.named import ByName, one_of
from models.spec import ALGORITHMS
from models.text.identify import load_config
from models.text.scaling_rules import COOLDOWN, SIZES
from tasks.core.errors import UserError
from tasks.intake.places import LocalPath
from tasks.training.starting_model import StartingModel, fingerprints

TRUNK_SETTINGS = (
    *("layers", "width", "heads", "kv_heads", "context_length", "tied", "start_files"),
    *("objective", "algorithm"),
)
"""What a trunk cannot change on its way: shape, objective, and what the optimizer remembers."""
LEAST_SHARE = 1e-6
ATTENTION: ByName[Literal["causal", "bidirectional"]] = {"next_token": "causal", "masked_token": "bidirectional"}
"""What a token may see so that its objective is no copying."""


class MaskingSettings(BaseModel):
    """What a masked model has to guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of a window's tokens that are predicted. 0.15 is BERT's; larger models learn more from 0.3 to 0.4 (Wettig
    et al. 2022, "Should You Mask 15% in Masked Language Modeling?")."""
    corruption: Literal["bert", "mask"] = "bert"
    """What stands in their place. bert: the mask in 80 of 100, a random token in 10, itself in 10; mask: always the
    mask."""


class MachineSettings(BaseModel):
    """By what it is computed; what is `auto` is chosen by a short probe, which the log explains."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the arithmetic; weights are float32 always."""
    compile: bool | Literal["auto"] = "auto"
    """Whether the model is compiled; auto = where the run is long enough to pay for it."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work: each holds the model (ddp) or a part of it (fsdp)."""
    devices: int | None = Field(default=None, gt=0, le=1024, exclude=True)
    """None = all GPUs of the machine, or one process on the CPU. Not part of the key: the windows of a step are the
    same for any number."""


class PretrainSettings(BaseModel):
    """The model, what it learns, and how long and how fast. What is None is derived from size and budget by published
    rules (models/text/scaling_rules.py), and the log says so."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size: Annotated[str, one_of(SIZES)] | None = Field(default=None, exclude=True)
    """A standard name (models/text/scaling_rules.py) for the five numbers below, each of which may still be given; what
    enters the key are they."""
    layers: int = Field(default=4, gt=0, le=1024)
    """Blocks of attention and MLP."""
    width: int = Field(default=256, gt=0, le=1 << 16)
    """Features of the residual stream; a multiple of heads."""
    heads: int = Field(default=4, gt=0, le=1024)
    """Query heads."""
    kv_heads: int = Field(default=2, gt=0, le=1024)
    """Key and value heads; divides heads."""
    context_length: int = Field(default=256, gt=0, le=1 << 20)
    """Tokens a window."""
    tied: bool = True
    """Whether the embedding is also the output layer."""
    start: LocalPath | None = Field(default=None, exclude=True)
    """Folder of a model of Hugging Face's (for causal or masked language modelling) to go on from instead of fresh
    weights; it brings its shape and its tokenizer. What enters the key are its files' hashes."""

    objective: Annotated[str, one_of(ATTENTION)] = "next_token"
    """What is predicted: every token from those before it (GPT), or hidden tokens from all others (BERT)."""
    masking: MaskingSettings = MaskingSettings()
    """For the masked objective."""
    document_mask: bool = False
    """Whether a token sees only its own document, where a window holds several."""
    mixture: dict[str, float] = {}
    """Share of each source that is named here, and of no other; empty = all documents alike."""

    continues: bool = True
    """Whether a later night goes on with the trunk of the night before instead of starting anew."""
    replay: float = Field(default=0.25, ge=0, lt=1)
    """Share of documents of earlier nights in such a night. 5 % kept a model from forgetting after a weak shift, 25 %
    after a strong one (Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language
    Models")."""

    tokens: int | None = Field(default=None, gt=0, le=10**15)
    """Tokens to learn from tonight, repetitions counted. None = 20 a weight."""
    batch: int | None = Field(default=None, gt=0, le=1 << 20)
    """Windows in one update."""
    accumulate: int = Field(default=1, gt=0, le=1 << 20)
    """Pieces of the batch that are computed one after the other: less memory, same update but for rounding."""
    algorithm: Annotated[str, one_of(ALGORITHMS)] = "adamw"
    """muon: the hidden matrices by Muon, all else by AdamW."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """The peak of the rate."""
    warmup: float | None = Field(default=None, ge=0, le=1)
    """Share of the steps in which the rate rises; a night that continues has none."""
    cooldown: float | None = Field(default=None, ge=0, le=1)
    """Share of the steps, the last ones, in which the rate falls to zero as 1 - sqrt: the branch off the trunk."""
    weight_decay: float | None = Field(default=None, ge=0, le=10)
    """Decoupled decay of matrices."""
    spike_deviations: float | None = Field(default=6.0, gt=0, le=1000)
    """A step after the warm-up whose loss or gradient is so many deviations over the last 128 is skipped; None = none
    is."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of initial weights and order."""

    machine: MachineSettings = MachineSettings()
    """By what it is computed."""
    checkpoint_every: int | None = Field(default=None, gt=0, le=10**9, exclude=True)
    """Steps between checkpoints, that is, what a kill can cost; None = two minutes. Changes no bit, so it is not part
    of the key."""
    milestone_every: int | None = Field(default=None, gt=0, le=10**9, exclude=True)
    """Checkpoints at multiples of so many steps are kept until the training ends; None = only the newest two."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        """The numbers behind a size's name."""
        name = values.get("size") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in SIZES:
            return values
        attention = ATTENTION.get(str(values.get("objective", "next_token")), "causal")
        return {**SIZES[name].shape(attention), **values}

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        given = self.model_fields_set
        if self.start and (shape := sorted(given & {"size", "layers", "width", "heads", "kv_heads", "tied"})):
            raise ValueError(f"the model in `start` brings its own shape: remove {' and '.join(shape)}, or start")
        if "masking" in given and self.objective != "masked_token":
            raise ValueError("masking is for `objective: masked_token`: set that, or remove masking")
        if any(share <= 0 for share in self.mixture.values()):
            raise ValueError("every share of the mixture must be over 0: leave out the sources that are not wanted")
        if any(not LEAST_SHARE <= share <= 1 / LEAST_SHARE for share in self.mixture.values()):
            raise ValueError("the shares of the mixture must be from 0.000001 to 1,000,000: write them as percentages")
        if not self.start:
            self._check_shape()
        warmup, cooldown = self.warmup or 0, COOLDOWN if self.cooldown is None else self.cooldown
        if warmup + cooldown > 1:
            raise ValueError(
                f"warmup ({warmup:g}) and cooldown ({cooldown:g}) are shares of the same steps and add up to more than "
                "1: lower one of them"
            )
        if self.batch is not None and self.batch % self.accumulate:
            raise ValueError(f"batch ({self.batch}) must be a multiple of accumulate ({self.accumulate})")
        pieces = self.accumulate * (self.machine.devices or 1)
        if self.batch is not None and self.batch % pieces:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of accumulate x devices ({pieces}): every device computes "
                "equal pieces, so change one of the three"
            )
        return self

    def _check_shape(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}): change one of them")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads}): change one")
        if self.width // self.heads % 2:
            raise ValueError(
                f"width / heads ({self.width} / {self.heads}) must be even, since rotary embedding turns pairs: change "
                "one of them"
            )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def start_files(self) -> dict[str, str]:
        """BLAKE3 of each file of the model to start from, so that a changed model under the same path is another
        request.

        Raises UserError if there is no model at the path.
        """
        return {} if self.start is None else fingerprints(self.start)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def family(self) -> str:
        """What kind of model it is: ours, or one that is computed as `transformers` does.

        Raises UserError if there is no model at `start` that can be trained.
        """
        if self.start is None:
            return "transformer"
        try:
            return load_config(self.start, ATTENTION[self.objective]).family
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def starting_model(self) -> StartingModel:
        """What the model knows before its first night. Raises UserError if there is no model at `start`."""
        return StartingModel(folder=self.start, files=self.start_files, family=self.family)
