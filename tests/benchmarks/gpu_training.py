"""A GPT of 124 M weights on one GPU, bf16, compiled: tokens/s and share of the GPU's peak, beside plain loops.

    python -m tests.benchmarks.gpu_training             # four minutes on an H100; needs a GPU
    python -m tests.benchmarks.gpu_training --tiny      # a toy, not compiled, also on a CPU: only to see that it runs

Needs models/ and its packages (torch, numpy, pyarrow, pydantic, safetensors, pytorch_lightning, psutil), no data and no
network: tokens are random, which changes no arithmetic. The sides run one after the other, each a process of its own
that compiles, warms up, and is timed over steady steps:

| side | what it is |
|---|---|
| fit | `python -m models.fit`, the real training process; speed from its progress file |
| fit, muon | the same with Muon for the hidden matrices |
| bare | a minimal loop over the same model, loss and optimizer (peers/training_bare.py): what the process costs |
| bare, deterministic | the same with `torch.use_deterministic_algorithms` |
| gpt2 | GPT-2 of the same size with nanoGPT's settings (peers/training_gpt2.py): stands in where litgpt is missing |
| litgpt | its own `pretrain` (peers/training_litgpt.py), where it is installed |

modded-nanogpt's track 3 is never run: its script and data are fetched from the network. What else was not run is named
with its reason. MFU counts 6 N + 12 L D T operations a token (Chowdhery et al. 2022, "PaLM", appendix B: attention as
if it were not causal) against the dense bf16 peak of the data sheet.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.machine.flops import flops_per_token, peak_flops
from models.spec import FitSpec, Machine, ModelConfig, Optimisation, Source, TokenStream
from models.text.scaling_rules import all_weights

PROJECT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).parent / "peers"

MFU_GOAL, LITGPT_GOAL = 0.45, 1.15
NEEDED_S = 20.0
"""With less time left no further side is begun."""

BASE: dict[str, Any] = {
    "layers": 12,
    "width": 768,
    "heads": 12,
    "kv_heads": 12,
    "context_length": 1024,
    "vocabulary": 50_304,
}
TINY: dict[str, Any] = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context_length": 64, "vocabulary": 512}


@dataclass(frozen=True)
class Work:
    """What every side computes."""

    model: ModelConfig
    micro: int
    """Windows that are computed at once."""
    accumulate: int
    """Pieces in a step."""
    warm: int
    """Steps before the clock starts."""
    steps: int
    """Steps under the clock."""
    compiled: bool
    folder: Path

    @property
    def step_tokens(self) -> int:
        return self.micro * self.accumulate * self.model.context_length

    def spec(self, algorithm: str) -> FitSpec:
        """The whole as a training of this project."""
        steps = self.warm + self.steps
        return FitSpec(
            model=self.model,
            data=TokenStream(sources=(Source(name="random", shards=(self.folder / "random.arrow",)),), digest="random"),
            optimisation=Optimisation(
                algorithm="muon" if algorithm == "muon" else "adamw",
                learning_rate=6e-4,
                warmup_steps=steps,
                cooldown_steps=0,
            ),
            steps=steps,
            batch=self.micro * self.accumulate,
            accumulate=self.accumulate,
            seed=0,
            machine=Machine(precision="bf16", compile=self.compiled, devices=1),
            work=self.folder / f"work-{algorithm}",
            out=self.folder / f"out-{algorithm}",
            checkpoint_every=steps,
        )


def write_tokens(work: Work) -> None:
    """random.arrow for our process, windows.npy and shape.json for the others."""
    windows = (work.warm + work.steps) * work.micro * work.accumulate
    T = work.model.context_length
    tokens = np.random.default_rng(0).integers(0, work.model.vocabulary, windows * T + 1, dtype=np.uint16)
    column = pa.array([tokens], type=pa.list_(pa.uint16()))
    with pa.OSFile(str(work.folder / "random.arrow"), "wb") as file:
        table = pa.table({"tokens": column})
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    rows = np.lib.stride_tricks.sliding_window_view(tokens, T + 1)[::T]
    np.save(work.folder / "windows.npy", rows)
    shape = work.model.model_dump(include={*BASE, "head_width", "mlp_width", "rope_base", "norm_epsilon"}) | {
        "windows": str(work.folder / "windows.npy"),
        "out": str(work.folder / "peer"),
        "batch": work.micro,
        "accumulate": work.accumulate,
        "warm": work.warm,
        "steps": work.steps,
        "threads": 2,
        "compile": work.compiled,
        "precision": "bf16-mixed",
        "spec": work.spec("adamw").model_dump(mode="json"),
    }
    (work.folder / "shape.json").write_text(json.dumps(shape))


def real(spec: FitSpec, work: Work, seconds: float) -> dict[str, Any]:
    """The training process itself; its speed is that between two lines of its progress file."""
    spec.work.mkdir()
    (spec.work / "spec.json").write_text(spec.model_dump_json())
    run([sys.executable, "-m", "models.fit", str(spec.work / "spec.json")], seconds)
    reports = [json.loads(line) for line in (spec.work / "progress.jsonl").read_text().splitlines()]
    took_s = (reports[-1]["time"] - reports[work.warm - 1]["time"]) / 1e3
    return {
        "tokens_per_second": round(work.steps * work.step_tokens / took_s, 1),
        "losses": [round(reports[0]["loss"], 3), round(reports[-1]["loss"], 3)],
    }


class NotRun(Exception):
    """A side that gave no figure, and why."""


def run(command: list[str], seconds: float) -> str:
    """The command's output; NotRun with its last line when it fails or takes longer."""
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": path, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    try:
        done = subprocess.run(command, env=variables, timeout=seconds, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise NotRun(f"was ended after {seconds:.0f} s") from None
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-6000:], sep="\n", file=sys.stderr)
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise NotRun(f"failed: {lines[-1][:300]}")
    return done.stdout


def measure(name: str, work: Work, seconds: float) -> dict[str, Any]:
    """One side, to its facts; raises NotRun."""
    if name.startswith("fit"):
        return real(work.spec("muon" if "muon" in name else "adamw"), work, seconds)
    if name == "litgpt" and importlib.util.find_spec("litgpt") is None:
        raise NotRun("litgpt is not installed here; gpt2 stands in for it")
    script, _, choice = name.partition(", ")
    shape = json.loads((work.folder / "shape.json").read_text()) | ({choice: True} if choice else {})
    file = work.folder / f"{script}.json"
    file.write_text(json.dumps(shape))
    command = [sys.executable, str(PEERS / f"training_{script}.py"), str(file)]
    facts: dict[str, Any] = json.loads(run(command, seconds).strip().splitlines()[-1])
    return facts


SIDES = ("fit", "gpt2", "bare", "litgpt", "fit, muon", "bare, deterministic")
"""In the order of their weight: the last ones go without where time runs out."""


def main(arguments: argparse.Namespace) -> int:
    if not torch.cuda.is_available() and not arguments.tiny:
        print("not run: there is no GPU here (--tiny tries the script on a CPU)")
        return 0
    ends = time.monotonic() + 60 * arguments.minutes
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = arguments.peak * 1e12 if arguments.peak else peak_flops(gpu)
    found: dict[str, dict[str, Any]] = {}
    missing = {"modded-nanogpt, track 3": "its script and data come from the network; never run here"}
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{place}/inductor")
        work = chosen_work(arguments, Path(place))
        write_tokens(work)
        count = flops_per_token(work.model)
        assert count
        for name in SIDES:
            left = ends - time.monotonic()
            if arguments.only and name not in arguments.only:
                missing[name] = "not asked for"
                continue
            if left < NEEDED_S:
                missing[name] = f"no time left of {arguments.minutes:g} minutes"
                continue
            began = time.monotonic()
            try:
                facts = measure(name, work, left)
            except NotRun as reason:
                missing[name] = str(reason)
                continue
            if peak:
                facts["mfu"] = round(facts["tokens_per_second"] * count / peak, 4)
            facts["process_s"] = round(time.monotonic() - began, 1)
            found[name] = facts
            print(f"{name:<22} {facts}", file=sys.stderr, flush=True)
    print_table(found, missing, work, gpu, count, peak)
    return verdict(found)


def print_table(
    found: dict[str, dict[str, Any]], missing: dict[str, str], work: Work, gpu: str, count: int, peak: float | None
) -> None:
    """What was run and what was not, for a person and as JSON on the last line."""
    counted_G, known = count / 1e9, f"{peak / 1e12:g} TFLOP/s" if peak else "not known"
    print(f"\n{gpu or 'CPU'}, torch {torch.__version__}, {all_weights(work.model) / 1e6:.1f} M weights")
    print(f"{work.model.context_length} tokens a window, {work.micro} windows at once, {work.accumulate} times a step,")
    print(f"{counted_G:.3f} GFLOP a token, peak {known}{'' if peak else ': give --peak'}\n")
    print(f"{'side':<24}{'tokens/s':>12}{'MFU':>9}{'fit against it':>16}  losses")
    for name, facts in found.items():
        mfu = f"{facts['mfu']:.1%}" if "mfu" in facts else "-"
        ratio = f"{found['fit']['tokens_per_second'] / facts['tokens_per_second']:.3f}" if "fit" in found else "-"
        print(f"{name:<24}{facts['tokens_per_second']:>12,.0f}{mfu:>9}{ratio:>16}  {facts.get('losses', '')}")
    for name, reason in missing.items():
        print(f"{name:<24}not run: {reason}")
    print(json.dumps({"gpu": gpu, "torch": torch.__version__, "run": found, "not_run": missing}))


def verdict(found: dict[str, dict[str, Any]]) -> int:
    """1 where a goal that could be judged was missed."""
    missed = 0
    if "mfu" in found.get("fit", {}):
        missed += found["fit"]["mfu"] < MFU_GOAL
    if {"fit", "litgpt"} <= found.keys():
        missed += found["fit"]["tokens_per_second"] < LITGPT_GOAL * found["litgpt"]["tokens_per_second"]
    return int(missed > 0)


def chosen_work(arguments: argparse.Namespace, folder: Path) -> Work:
    """The shape and the steps that the options ask for."""
    model = ModelConfig.sized(**(TINY if arguments.tiny else BASE))
    return Work(
        model, arguments.micro, arguments.accumulate, arguments.warm, arguments.steps, not arguments.tiny, folder
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a toy, not compiled, to see that the script runs")
    parser.add_argument("--micro", type=int, default=32, help="windows computed at once")
    parser.add_argument("--accumulate", type=int, default=4, help="pieces in a step")
    parser.add_argument("--warm", type=int, default=8, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=40, help="steps under the clock")
    parser.add_argument("--minutes", type=float, default=4, help="after which no side is begun and the last one ended")
    parser.add_argument("--peak", type=float, help="the GPU's dense bf16 TFLOP/s, where the script does not know it")
    parser.add_argument("--only", nargs="*", choices=SIDES, help="sides to run; default all")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(options()))
