"""What is trained, on what, and how: the words in which a stage asks the training process for a model.

Light on purpose (pydantic only): the stages that write a spec, and `plan`, must not pay 2 s for importing torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.named import ByName, chosen_by, one_of
from models.settings import NotInKey, Settings, flat


class ModelConfig(Settings):
    """The shape of the transformer; every field is one of Hugging Face's Qwen3Config or EuroBertConfig under a plainer
    name (see models/text/convert.py)."""

    family: ClassVar[str] = "transformer"
    classifies: ClassVar[bool] = True
    """Whether it can have a classification head here."""
    any_length: ClassVar[bool] = True
    """Whether it can be trained on longer windows than before: its positions are computed."""
    attention: Literal["causal", "bidirectional"] = "causal"
    """Whether a token sees only what precedes it (GPT; Qwen3) or all of its window (BERT; EuroBERT)."""
    tied: bool = True
    """Whether the embedding is also the output layer."""
    vocabulary: int = Field(gt=0)
    """Rows of the embedding and of the output layer."""
    context_length: int = Field(gt=0)
    """Tokens that one window holds, and the longest sequence that the model was trained on."""
    layers: int = Field(gt=0)
    """Blocks of attention and MLP."""
    width: int = Field(gt=0)
    """Features of the residual stream."""
    heads: int = Field(gt=0)
    """Query heads."""
    kv_heads: int = Field(gt=0)
    """Key and value heads; each serves heads / kv_heads query heads."""
    head_width: int = Field(gt=0)
    """Features a head; even, since rotary embedding turns pairs."""
    mlp_width: int = Field(gt=0)
    """Hidden features of the SwiGLU MLP."""
    rope_base: float = Field(default=10_000.0, gt=0)
    """Base of the rotary wavelengths (Su et al. 2021, section 3.4.3: 10,000)."""
    norm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square in every RMSNorm."""
    classes: int | None = Field(default=None, gt=0)
    """Outputs of a classification head on the mean of the last hidden states; None = a language model."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_width % 2:
            raise ValueError(f"head_width ({self.head_width}) must be even: rotary embedding turns pairs")
        return self

    @property
    def architecture(self) -> str:
        """What it is called in sentences."""
        return self.family

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised: Qwen3 does, EuroBERT, to which the bidirectional model maps, does
        not."""
        return self.attention == "causal"

    @classmethod
    def sized(
        cls,
        *,
        vocabulary: int,
        context_length: int,
        layers: int,
        width: int,
        heads: int,
        kv_heads: int,
        attention: Literal["causal", "bidirectional"] = "causal",
        tied: bool = True,
    ) -> ModelConfig:
        """A model from the few numbers that matter; the rest by the usual ratios.

        The MLP is 8/3 as wide as the stream, which gives SwiGLU's three matrices the parameters of the classic two at
        4 times (Shazeer 2020, "GLU Variants Improve Transformer"), rounded up to a multiple of 64 for the matrix units.
        """
        if width % heads:
            raise ValueError(f"width ({width}) must be a multiple of heads ({heads})")
        return cls(
            attention=attention,
            tied=tied,
            vocabulary=vocabulary,
            context_length=context_length,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_width=width // heads,
            mlp_width=-(-width * 8 // 3 // 64) * 64,
        )


class ForeignConfig(Settings):
    """A model of Hugging Face's that our transformer cannot be: it is trained as `transformers` computes it.

    Found by models/text/identify.py from the folder it starts from, which a FitSpec must then name.
    """

    family: Literal["foreign"] = "foreign"
    classifies: ClassVar[bool] = False
    any_length: ClassVar[bool] = False
    architecture: str
    """What config.json calls model_type, such as gpt2."""
    attention: Literal["causal", "bidirectional"]
    """Whether it serves the next token (AutoModelForCausalLM) or masked ones (AutoModelForMaskedLM)."""
    vocabulary: int = Field(gt=0)
    """Rows of the embedding."""
    context_length: int = Field(gt=0)
    """Tokens that one window holds; at most what the model has positions for."""
    classes: None = None
    """It has no classification head."""


SHAPES: ByName[type[Settings]] = {"transformer": ModelConfig, "foreign": ForeignConfig}
"""What describes a model, by family."""


class NextToken(Settings):
    """Every token is predicted from those before it."""

    attention: ClassVar[str] = "causal"
    """What a token may see so that this is no copying."""
    kind: Literal["next_token"] = "next_token"

    def check(self, vocabulary: int) -> None:
        """Raise ValueError if a model of so many tokens cannot learn this."""


class Masking(Settings):
    """What a masked model has to guess."""

    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of a window's tokens that are predicted: round(rate x T) of every window, at least one. 0.15 is BERT's;
    larger models learn more from 0.3 to 0.4 (Wettig et al. 2022, "Should You Mask 15% in Masked Language
    Modeling?")."""
    corruption: Literal["bert", "mask"] = "bert"
    """What stands in the place of a predicted token. bert: the mask in 80 of 100, a random token in 10, itself in 10
    (Devlin et al. 2018, section 3.1); mask: always the mask."""


class MaskedToken(Masking):
    """Hidden tokens are predicted from all the others (Devlin et al. 2018, BERT)."""

    attention: ClassVar[str] = "bidirectional"
    kind: Literal["masked_token"] = "masked_token"
    mask_token: int = Field(ge=0)
    """The id that hides a token."""

    def check(self, vocabulary: int) -> None:
        """Raise ValueError if a model of so many tokens cannot learn this."""
        if self.mask_token >= vocabulary:
            raise ValueError(f"mask_token ({self.mask_token}) is no token of a vocabulary of {vocabulary}.")


OBJECTIVES: ByName[type[Settings]] = {"next_token": NextToken, "masked_token": MaskedToken}
"""What describes an objective of language modelling, by name."""

ALGORITHMS: ByName[str] = {"adamw": "models.learn.optimizers:adamw", "muon": "models.learn.optimizers:muon"}
"""What makes an optimizer, by name."""

if TYPE_CHECKING:
    Shape = ModelConfig | ForeignConfig
    Objective = NextToken | MaskedToken
else:  # at run time the tables say what there is, so that another entry concerns nobody else
    Shape = Objective = Any


class Source(Settings):
    """One part of the mixture."""

    name: str
    """For logs and for `identity`."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the windows, after division by the sum of all weights."""
    shards: NotInKey[tuple[Path, ...]]
    """Arrow IPC files with a column `tokens`, in the order of the snapshot."""
    only: str | None = None
    """Take only documents whose column `source` says this; None = all."""


class TokenStream(Settings):
    """Unlabelled documents as streams of tokens, one a source: language modelling."""

    kind: Literal["stream"] = "stream"
    sources: tuple[Source, ...] = Field(min_length=1)
    """What is mixed; one source is simply read."""
    digest: str
    """The snapshot's digest; a checkpoint of another one is refused."""
    objective: Annotated[Objective, chosen_by("kind", OBJECTIVES, "next_token")] = NextToken()
    """What is predicted."""
    document_mask: bool = False
    """Whether a token sees only tokens of its own document; positions then count from the document's beginning."""


class LabelledExamples(Settings):
    """Labelled documents: classification."""

    kind: Literal["examples"] = "examples"
    task: ClassVar[str] = "classification"
    train: NotInKey[Path]
    """Arrow IPC file with columns `tokens` and `label`."""
    rows: tuple[int, ...]
    """The rows of `train` to learn from: the label budget."""
    test: NotInKey[Path]
    """Arrow IPC file of the same columns and `doc_id`; predicted once at the end."""
    digest: str
    """The examples' digest; a checkpoint of others is refused."""


class Optimisation(Settings):
    """How the weights move; the schedule's shape is in models/learn/optimizers.py."""

    algorithm: Annotated[str, one_of(ALGORITHMS)] = "adamw"
    """muon: the hidden matrices by Muon, all else by AdamW."""
    learning_rate: float = Field(gt=0)
    """The peak."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear rise to the peak."""
    cooldown_steps: int = Field(ge=0)
    """Last steps, in which the rate falls to zero as 1 - sqrt."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's memory of the gradient."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's memory of its square; 0.95 as GPT-3 (Brown et al. 2020, appendix B)."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all weights."""
    spike_deviations: float | None = Field(default=6.0, gt=0)
    """A step whose loss, or whose gradient norm's logarithm, is so many deviations over the median of the last 128
    moves nothing and is recorded; the warm-up is not judged. None = every step moves the weights."""


class StartingPoint(Settings):
    """A model that was trained before."""

    folder: NotInKey[Path]
    """With config.json and model.safetensors (ours, or any of Hugging Face's); for a trunk, a checkpoint folder."""
    digest: str
    """The digest of its artifact or files; the folder may move."""
    trunk: bool = False
    """Whether the optimizer goes on as well: the folder is the trunk's last checkpoint."""


class Machine(Settings):
    """By what the training is computed; what is `auto` is chosen once, at its first start, and kept by every resume."""

    precision: Literal["auto", "bf16", "float32"] = "auto"
    """The type of the arithmetic; weights and optimizer are float32 always. auto = by a short probe."""
    compile: bool | Literal["auto"] = "auto"
    """Whether the model is compiled; auto = where the run is long enough to pay for it."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work: each holds the model (ddp), or a part of it (fsdp). auto = ddp where there is
    more than one device."""
    devices: NotInKey[int | None] = Field(default=None, gt=0, le=1024)
    """Processes, each with a device of its own; None = all GPUs of this machine, or one process on the CPU. The windows
    of a step are the same for any number."""


class FitSpec(Settings):
    """One training, complete: what `python -m models.fit spec.json` reads."""

    model: Annotated[Shape, chosen_by("family", SHAPES, "transformer")]
    data: Annotated[TokenStream | LabelledExamples, Field(discriminator="kind")]
    optimisation: Optimisation
    steps: int = Field(gt=0)
    """Updates of the weights in the whole training."""
    batch: int = Field(gt=0)
    """Windows or examples in one update, over all devices."""
    accumulate: int = Field(default=1, gt=0)
    """Pieces of the batch that are computed one after the other before the weights move: less memory, same update but
    for rounding."""
    seed: int = Field(ge=0, lt=1 << 63)
    """The number from which initial weights and the order of samples follow."""
    start: StartingPoint | None = None
    """The model to start from; None = fresh weights. A head that it lacks is fresh."""
    weights: Literal["all", "head"] = "all"
    """Which weights learn."""
    keep_trunk: bool = False
    """Whether `out` also receives `trunk/`, the checkpoint before the cooldown, from which another night can go on."""
    machine: Machine = Machine()
    work: NotInKey[Path]
    """Survives a kill: checkpoints, progress, heartbeat."""
    out: NotInKey[Path]
    """Receives config.json, model.safetensors, losses.parquet (and predictions.parquet, trunk/)."""
    checkpoint_every: NotInKey[int | None] = Field(default=None, gt=0)
    """Steps between two checkpoints: what a kill can cost; None = two minutes. Changes no bit of the result."""
    milestone_every: NotInKey[int | None] = Field(default=None, gt=0)
    """Checkpoints at multiples of so many steps are kept for good; None = only the newest two stay."""
    workers: NotInKey[int] = Field(default=0, ge=0)
    """Processes that read batches ahead. Changes no bit of the result."""
    cache: NotInKey[Path | None] = None
    """Outlives the training: compiled code, and what the probe found, for the next one on this machine; None =
    they last as long as `work`."""

    @model_validator(mode="after")
    def _model_can_learn_it(self) -> Self:
        if isinstance(self.data, TokenStream):
            self.data.objective.check(self.model.vocabulary)
        return self

    @property
    def trunk_step(self) -> int:
        """The last step before the cooldown, at least the first: where the trunk ends."""
        return max(1, self.steps - self.optimisation.cooldown_steps)

    def identity(self) -> dict[str, object]:
        """All that decides the result, as plain JSON values by dotted name: what a resume must find unchanged."""
        return flat(self.for_key(), lists="of objects")
