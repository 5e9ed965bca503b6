r"""From how many features on is a layer of features slower than the layer it stands for?

A layer of a transformer, linear with GELU after it, and its block of two linear layers with GELU between them, stand
beside layers of m features: a tower and one matrix, with and without a linear skip. Both are run one after the other on
the same tokens, many times; of the ratios of their times the median counts, and the middle half of them is told. The
crossover is the m at which a layer takes as long as what it stands for, by a line in logarithms between two sizes.

    python benchmarks/snnk.py [--quick] [--save] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernelscope.nn import SNNKLinear

RESULTS = Path(__file__).parent / "results"

#: The widths of a layer and of a block, tokens in a batch, and features.
WIDTH, INNER, TOKENS, FEATURES = 768, 3072, 512, (16, 32, 64, 128, 256, 512, 1024)

#: How many times each pair is run.
RUNS = 25


def pairs(width: int, inner: int, m: int) -> dict[str, tuple[nn.Module, nn.Module]]:
    """What stands beside what, by name."""
    layer = nn.Sequential(nn.Linear(width, inner), nn.GELU())
    block = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
    own = lambda tower, outputs, skip: SNNKLinear(width, outputs, m, tower=tower, skip=skip)
    return {
        "layer, own neurons": (layer, own("neurons", inner, False)),
        "layer, rectified": (layer, own("rectified", inner, False)),
        "layer, Fourier": (layer, own("fourier", inner, False)),
        "layer, own neurons and a linear skip": (layer, own("neurons", inner, True)),
        "block, rectified": (block, own("rectified", width, False)),
        "block, Fourier": (block, own("fourier", width, False)),
        "block, rectified and a linear skip": (block, own("rectified", width, True)),
    }


@torch.inference_mode()
def ratios(one: nn.Module, other: nn.Module, x: torch.Tensor, runs: int) -> list[float]:
    """How many times as fast the other is, run by run."""
    found = []
    for run in range(runs + 2):
        walls = []
        for layer in (one, other):
            begun = time.perf_counter()
            layer(x)
            walls.append(time.perf_counter() - begun)
        # The first two make memory and threads ready.
        if run > 1:
            found.append(walls[0] / walls[1])
    return found


def crossover(sizes: list[int], speeds: list[float]) -> float | None:
    """The number of features at which both take as long; ``None`` where it is beyond what was measured."""
    for (m, fast), (n, slow) in zip(zip(sizes, speeds, strict=True), zip(sizes[1:], speeds[1:], strict=True),
                                    strict=False):
        if fast >= 1 > slow:
            share = math.log(fast) / math.log(fast / slow)
            return m * (n / m)**share
    return None


def table(rows: list[dict[str, Any]], sizes: list[int]) -> str:
    """All pairs in words."""
    lines = ["| stands for | " + " | ".join(f"m = {m}" for m in sizes) + " | as fast at m |",
             "|---|" + "---|" * (len(sizes) + 1)]
    for row in rows:
        cells = [f"{one['median']:.2f} x ({one['low']:.2f} to {one['high']:.2f})" for one in row["sizes"]]
        cross = (f"{row['crossover']:.0f}" if row["crossover"] is not None
                 else "none, slower at all" if row["sizes"][0]["median"] < 1 else f"beyond {sizes[-1]:,}")
        lines.append(f"| {row['name']} | " + " | ".join(cells) + f" | {cross} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small layers, to see that it runs")
    parser.add_argument("--save", action="store_true", help="keep the numbers in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width, inner, tokens, runs = (64, 256, 64, 5) if options.quick else (WIDTH, INNER, TOKENS, RUNS)
    sizes = [m for m in FEATURES if m <= inner]
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0))
    found: dict[str, list[dict[str, float]]] = {}
    for m in sizes:
        for name, (one, other) in pairs(width, inner, m).items():
            quarters = statistics.quantiles(ratios(one, other, x, runs), n=4)
            found.setdefault(name, []).append(dict(zip(("low", "median", "high"), quarters, strict=True)))
    rows = [{"name": name, "sizes": speeds, "crossover": crossover(sizes, [one["median"] for one in speeds])}
            for name, speeds in found.items()]
    title = (f"How many times as fast as what it stands for: median of {runs} runs (middle half), {tokens} tokens, "
             f"{width} to {inner}, float32, {options.threads} thread{'s' * (options.threads > 1)} of "
             f"{platform.machine()}, torch {torch.__version__}.")
    print(f"{title}\n\n{table(rows, sizes)}")
    if options.save:
        (RESULTS / "snnk.json").write_text(json.dumps({"title": title, "sizes": sizes, "rows": rows}, indent=1) + "\n")
        (RESULTS / "snnk.md").write_text(f"{title}\n\n{table(rows, sizes)}\n")


if __name__ == "__main__":
    main()
