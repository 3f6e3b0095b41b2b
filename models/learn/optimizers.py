"""How the weights move: AdamW, or Muon with AdamW, and a learning rate that is a pure function of the step.

Muon orthogonalises the update of each hidden matrix. torch's own does so matrix by matrix, which takes 50 ms a step of
4 layers of width 256 on 2 cores with bf16 units, well over a tenth of a step of 8 x 256 tokens; here matrices of one
shape go through one batched product: 17 ms, the same numbers but for bf16 rounding. AdamW takes 2 ms. Where there are
no bf16 units the products are float32: emulated, they made a step of .6 s one of 4.4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from models.machine.hardware import choose_precision
from models.named import load
from models.spec import ALGORITHMS, Optimisation

_MOMENTUM = 0.95  # as Jordan et al. and Moonlight; torch's default as well
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_STACKED = 1 << 24
"""Numbers that go through one batched product: 16 M are 32 MB of bf16, and larger matrices gain nothing."""


def learning_rate(step: int, steps: int, settings: Optimisation) -> float:
    """The rate of the step-th update (0 <= step < steps): linear warm-up, a stable stretch, cooldown as 1 - sqrt.

    Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", equation 1: a
    stable trunk with a short 1 - sqrt cooldown ends where a cosine of the same length does, and the trunk can be
    continued.
    """
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    into_cooldown = step - (steps - settings.cooldown_steps)
    cool = 1.0 - sqrt(into_cooldown / settings.cooldown_steps) if into_cooldown > 0 else 1.0
    return settings.learning_rate * min(warm, cool)


def optimizer_for(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """The optimizer of every weight of the model that requires a gradient; tied weights count once.

    Matrices decay, vectors do not. A weight without a gradient (`.grad is None`) is left as it is in every respect,
    so that a step after `zero_grad` moves nothing and forgets nothing.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return load(ALGORITHMS[settings.algorithm])(model, learning, settings)


def adamw(model: nn.Module, learning: Sequence[nn.Parameter], settings: Optimisation) -> torch.optim.Optimizer:
    """AdamW for all of them."""
    return _adamw(learning, settings)


def muon(model: nn.Module, learning: Sequence[nn.Parameter], settings: Optimisation) -> torch.optim.Optimizer:
    """Muon for the hidden matrices, where there are any, and AdamW for the rest."""
    hidden = hidden_matrices(model)
    by_muon = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in learning if id(parameter) not in by_muon]
    return MuonWithAdamW(hidden, rest, settings) if hidden else _adamw(rest, settings)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices that Muon is for: those that require a gradient and whose every use lies in a repeated layer.

    Repeated layers stand in an `nn.ModuleList`, in our transformer as in Hugging Face's; embeddings, output layers,
    poolers and classifiers stand outside of it, and a matrix that is tied to one of those is no hidden one. Matrices
    that a foreign model fuses (GPT-2's query, key and value) are orthogonalised as one.
    """
    layers = {id(part) for parts in model.modules() if isinstance(parts, nn.ModuleList) for part in parts.modules()}
    elsewhere = {
        id(parameter)
        for module in model.modules()
        if id(module) not in layers or isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    return [p for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in elsewhere]


def _adamw(parameters: Iterable[nn.Parameter], settings: Optimisation) -> torch.optim.AdamW:
    """Fused: 5 M weights in 2 ms on 2 cores."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-8,
        fused=True,
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices and AdamW for the rest behind one interface: groups, state by parameter, `step`.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the update of an A x B matrix is
    scaled by 0.2 sqrt(max(A, B)), which gives it the size of AdamW's, so that one learning rate and one weight decay
    serve both (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2). State of a hidden matrix:
    `momentum_buffer`, in its own shape and type.

    Of a matrix that is sharded (FSDP2) every process gathers the whole update and orthogonalises it: the same bits as
    unsharded, for the price of the whole work in each process.
    """

    def __init__(self, hidden: Sequence[nn.Parameter], rest: Sequence[nn.Parameter], settings: Optimisation) -> None:
        self._adamw = _adamw(rest, settings)
        self._products = torch.bfloat16 if choose_precision("auto")[0] == "bf16" else torch.float32
        muon: dict[str, Any] = {"params": list(hidden), "momentum": _MOMENTUM, "weight_decay": settings.weight_decay}
        super().__init__([muon, *self._adamw.param_groups], {"lr": settings.learning_rate})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """AdamW works on this object's groups and state: whoever sets a rate or restores a state sees one optimizer."""
        self._adamw.param_groups = [group for group in self.param_groups if "momentum" not in group]
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; `closure`, if given, computes loss and gradients first, and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "momentum" in group:
                self._muon_step(group)
        self._adamw.step()
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[tuple(parameter.shape)].append(parameter)
        for (rows, columns), alike in by_shape.items():
            together = max(1, _STACKED // (rows * columns))
            for first in range(0, len(alike), together):
                chosen = alike[first : first + together]
                directions = orthogonalise(torch.stack([self._moved(p, group["momentum"]) for p in chosen]))
                for parameter, direction in zip(chosen, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(_like(direction, parameter), alpha=-group["lr"] * 0.2 * sqrt(max(rows, columns)))

    def _moved(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum, whole, in the type of the products; moves the buffer."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum)
        return (update.full_tensor() if isinstance(update, DTensor) else update).to(self._products)


def orthogonalise(updates_NAB: Tensor) -> Tensor:
    """Each matrix with its singular values near one (0.7 to 1.2), shape (N, A, B), in the type of the updates.

    Five rounds of the quintic Newton-Schulz iteration of Jordan et al. 2024, whose coefficients trade exactness at one
    for a steep slope at zero. bf16 will do: the iteration forgives rounding.
    """
    tall = updates_NAB.shape[-2] > updates_NAB.shape[-1]
    x_NAB = updates_NAB.mT if tall else updates_NAB
    x_NAB = x_NAB / x_NAB.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7).to(x_NAB.dtype)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        gram_NAA = x_NAB @ x_NAB.mT
        polynomial_NAA = torch.baddbmm(gram_NAA, gram_NAA, gram_NAA, beta=b, alpha=c)
        x_NAB = torch.baddbmm(x_NAB, polynomial_NAA, x_NAB, beta=a)
    return x_NAB.mT if tall else x_NAB


def _like(direction: Tensor, parameter: Tensor) -> Tensor:
    """The whole direction in the parameter's layout: for a sharded one, this process's part of it."""
    direction = direction.to(parameter.dtype)
    if not isinstance(parameter, DTensor):
        return direction
    whole = [Replicate()] * parameter.device_mesh.ndim
    return DTensor.from_local(direction, parameter.device_mesh, whole).redistribute(placements=parameter.placements)
