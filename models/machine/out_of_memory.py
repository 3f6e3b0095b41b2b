"""What a person can change when a training did not fit into memory: which setting, and to which value.

Light: said by the training process where an allocation fails, by its parent where the kernel killed it.
"""

from __future__ import annotations

from models.spec import FitSpec


def how_to_fit(spec: FitSpec, processes: int, gpu: bool) -> str:
    """The advice, as the end of a sentence, what keeps the result first.

    More pieces change the result by rounding alone; a shorter context or a smaller batch is another training.
    """
    pieces, context = spec.accumulate, spec.model.context_length
    advice = []
    if spec.batch % (2 * pieces * processes) == 0:
        advice.append(f"set accumulate to {2 * pieces} (now {pieces}), which changes the result by rounding only")
    else:
        advice.append(f"lower batch (now {spec.batch})")
    if context >= 2:
        advice.append(f"lower context_length to {context // 2} (now {context})")
    if gpu and processes > 1 and spec.machine.strategy != "fsdp":
        advice.append("set strategy to fsdp, which divides weights and optimizer among the GPUs")
    return ", or ".join(advice)
