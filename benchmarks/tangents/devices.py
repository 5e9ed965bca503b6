"""The tangent kernel on a GPU: a ResNet-18 and a transformer of the size of GPT-2 small, in each precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import kernelscope as ks

from .limits import operations
from .measuring import product_rate
from .networks import Decoder, ResNet, next_token, points

#: How gradients are rounded, and in which type the rate of products is measured.
PRECISIONS = {"exact": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A network, its points, and what is differentiated."""

    name: str
    model: Callable[[], nn.Module]
    points: Callable[[int], Any]
    counts: tuple[int, ...]
    loss: Any = None
    parameters: tuple[str, ...] | None = None


def cases(small: bool = False) -> list[Case]:
    """What is measured; ``small`` for a look at whether it runs."""
    length, shape = (8, (97, 16, 24, 2, 2)) if small else (128, (50257, 1024, 768, 12, 12))

    def tokens(count: int) -> tuple[Tensor, Tensor]:
        text = torch.randint(shape[0], (count, length + 1), generator=torch.Generator().manual_seed(1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    counts = (4,) if small else (64, 256, 1024)
    return [
        Case("ResNet-18, 10 outputs", lambda: ResNet(10), lambda n: (points("resnet", n),), counts),
        Case("ResNet-18, 1 output", lambda: ResNet(1), lambda n: (points("resnet", n),), counts),
        Case(f"GPT-2 small, losses of {length} tokens, blocks", lambda: Decoder(*shape), tokens,
             counts if small else (32, 128, 512), next_token, ("blocks",)),
    ]


def measure(device: str, memory: str, small: bool = False) -> list[dict[str, Any]]:
    """Time, share of the peak, memory and error of each case in each precision."""
    rows = []
    for case in cases(small):
        torch.manual_seed(0)
        model = case.model().to(device)
        for precision, kind in PRECISIONS.items():
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            rate = product_rate(device, kind)
            torch.backends.cuda.matmul.allow_tf32 = False
            kernel = ks.kernels.Tangent(model, loss=case.loss, parameters=case.parameters, memory=memory,
                                        precision=precision)
            for count in case.counts:
                rows.append({"case": case.name, "precision": precision, "points": count, "rate": rate,
                             **_one(kernel, case, count, device)})
                print(line(rows[-1]), flush=True)
    return rows


def _one(kernel: ks.kernels.Tangent, case: Case, count: int, device: str) -> dict[str, Any]:
    x = tuple(t.to(device) for t in case.points(count))
    given: Any = x if len(x) > 1 else x[0]
    error = kernel.check(given).error  # a first call, too
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    walls = []
    try:
        for _ in range(3):
            begun = time.perf_counter()
            kernel(given)
            if device != "cpu":
                torch.cuda.synchronize()
            walls.append(time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    peak = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else None
    few = tuple(t[:8] for t in x)
    counted = operations(kernel.features, few if len(x) > 1 else few[0], count)
    return {"wall": min(walls), "operations": counted.figures(), "total": counted.total, "mib": peak, "error": error}


def line(row: dict[str, Any]) -> str:
    """One measurement as a row of a table."""
    if "failed" in row:
        return f"| {row['case']} | {row['precision']} | {row['points']} | {row['failed']} | | | | |"
    reached = row["total"] / row["wall"]
    mib = "" if row["mib"] is None else f"{row['mib']:.0f}"
    return (f"| {row['case']} | {row['precision']} | {row['points']} | {row['wall']:.3f} | {reached / 1e12:.1f} | "
            f"{100 * reached / row['rate']:.0f} % of {row['rate'] / 1e12:.0f} | {mib} | {row['error']:.0e} |")


HEAD = ("| network | precision | points | seconds | Tflop/s | share of products' rate | MiB | error |\n"
        "|---|---|---|---|---|---|---|---|")
