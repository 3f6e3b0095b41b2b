"""What may be asked of a pre-training: the model, what it learns, how long and how fast, and by what."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, computed_field, model_validator

from models.named import ByName, one_of
from models.settings import NotInKey, Settings
from models.spec import ALGORITHMS, Machine, Masking
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


class PretrainSettings(Settings):
    """The model, what it learns, and how long and how fast. What is None is derived from size and budget by published
    rules (models/text/scaling_rules.py), and the log says so."""

    size: NotInKey[Annotated[str, one_of(SIZES)] | None] = None
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
    start: NotInKey[LocalPath | None] = None
    """Folder of a model of Hugging Face's (for causal or masked language modelling) to go on from instead of fresh
    weights; it brings its shape and its tokenizer. What enters the key are its files' hashes."""

    objective: Annotated[str, one_of(ATTENTION)] = "next_token"
    """What is predicted: every token from those before it (GPT), or hidden tokens from all others (BERT)."""
    masking: Masking = Masking()
    """For the masked objective."""
    document_mask: bool = False
    """Whether a token sees only its own document, where a window holds several."""
    mixture: dict[str, float] = Field(default={})
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
    """The number from which initial weights and order follow."""

    machine: Machine = Machine()
    """By what it is computed."""
    checkpoint_every: NotInKey[int | None] = Field(default=None, gt=0, le=10**9)
    """Steps between checkpoints, that is, what a kill can cost; None = two minutes. Changes no bit, so it is not part
    of the key."""
    milestone_every: NotInKey[int | None] = Field(default=None, gt=0, le=10**9)
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
