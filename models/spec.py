"""What is trained, on what, and how: the words in which a stage asks the training process for a model.

Light on purpose (pydantic only): the stages that write a spec, and `plan`, must not pay 2 s for importing torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Values, not state: equal fields are equal specs."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Frozen):
    """The shape of the transformer; every field is one of Hugging Face's Qwen3Config under a plainer name."""

    vocabulary: int = Field(gt=0)
    """Rows of the embedding, which is also the output layer (tied)."""
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

    @classmethod
    def sized(
        cls, *, vocabulary: int, context_length: int, layers: int, width: int, heads: int, kv_heads: int
    ) -> ModelConfig:
        """A model from the few numbers that matter; the rest by the usual ratios.

        The MLP is 8/3 as wide as the stream, which gives SwiGLU's three matrices the parameters of the classic two at
        4 times (Shazeer 2020, "GLU Variants Improve Transformer"), rounded up to a multiple of 64 for the matrix units.
        """
        if width % heads:
            raise ValueError(f"width ({width}) must be a multiple of heads ({heads})")
        return cls(
            vocabulary=vocabulary,
            context_length=context_length,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_width=width // heads,
            mlp_width=-(-width * 8 // 3 // 64) * 64,
        )


class TokenStream(Frozen):
    """Unlabelled documents as one stream of tokens: next-token prediction."""

    kind: Literal["stream"] = "stream"
    shards: tuple[Path, ...]
    """Arrow IPC files with a column `tokens`, in the order of the snapshot."""
    digest: str
    """Of the snapshot; a checkpoint of another one is refused."""


class LabelledExamples(Frozen):
    """Labelled documents: classification."""

    kind: Literal["examples"] = "examples"
    train: Path
    """Arrow IPC file with columns `tokens` and `label`."""
    rows: tuple[int, ...]
    """The rows of `train` to learn from: the label budget."""
    test: Path
    """Arrow IPC file of the same columns and `doc_id`; predicted once at the end."""
    digest: str
    """Of the examples; a checkpoint of others is refused."""


class Optimisation(Frozen):
    """How the weights move; the schedule's shape is in models/optim.py."""

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


class StartingPoint(Frozen):
    """A model that was trained before."""

    folder: Path
    """With config.json and model.safetensors."""
    digest: str
    """Of its artifact; the folder may move."""


class FitSpec(Frozen):
    """One training, complete: what `python -m models.fit spec.json` reads."""

    model: ModelConfig
    data: Annotated[TokenStream | LabelledExamples, Field(discriminator="kind")]
    optimisation: Optimisation
    steps: int = Field(gt=0)
    """Updates of the weights in the whole training."""
    batch: int = Field(gt=0)
    """Windows or examples in one update."""
    seed: int = Field(ge=0, lt=1 << 63)
    """Of the initial weights and of the order of samples."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the arithmetic; weights and optimizer are float32 always. auto = bf16 where the hardware has units for it."""
    start: StartingPoint | None = None
    """The model to start from; None = fresh weights. A head that it lacks is fresh."""
    trained: Literal["all", "head"] = "all"
    """Which weights learn."""
    work: Path
    """Survives a kill: checkpoints, progress, heartbeat."""
    out: Path
    """Receives config.json, model.safetensors, losses.parquet (and predictions.parquet)."""
    checkpoint_every: int = Field(default=50, gt=0)
    """Steps between two checkpoints: what a kill can cost. Changes no bit of the result."""
    workers: int = Field(default=0, ge=0)
    """Processes that read batches ahead. Changes no bit of the result."""

    def identity(self) -> dict[str, object]:
        """All that decides the result, as plain JSON values by dotted name: what a resume must find unchanged."""
        flat: dict[str, object] = {}

        def walk(prefix: str, value: object) -> None:
            if isinstance(value, dict):
                for name, inner in value.items():
                    walk(f"{prefix}.{name}" if prefix else name, inner)
            elif prefix not in _EXECUTION:
                flat[prefix] = value

        walk("", self.model_dump(mode="json"))
        return flat


_EXECUTION = frozenset(
    ("work", "out", "checkpoint_every", "workers", "data.shards", "data.train", "data.test", "start.folder")
)
"""Where and how often, not what: the digests beside the paths say what is read."""
