"""How long does the evolution of a kernel take, and how much memory?

All 1,797 digits (1,437 samples to train on, 360 other points), a convolutional network of 9,802 parameters in float32,
100 times of its run: kernels among all points, their eigenpairs, all the numbers of a time, and kernel regression with
each kernel at five ridges. Told are the seconds of ``ks.evolution`` from the run to the result, the parts of them, and
the highest resident size above that before it, in a process of its own.

    python benchmarks/evolution.py [--quick] [--save]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from ensembles import highest
from recording import processor
from torch import nn

import kernelscope as ks

RESULTS = Path(__file__).parent / "results"
TIMES = 100


def network() -> nn.Module:
    """Two convolutions and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))


def record(steps: int) -> ks.Run:
    """A run of this network."""
    data, model = ks.data.digits("train"), network()
    x, y = data.x.float().view(-1, 1, 8, 8), data.y
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with ks.record(model, (x, y), loss=F.cross_entropy) as taken:
        for _ in range(steps):
            rows = torch.randint(len(x), (64,))
            taken.batch(rows)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return taken.run


def measure(times: int, threads: int, memory: str) -> dict[str, object]:
    """Seconds, their parts, and memory, in this process."""
    torch.set_num_threads(1)
    run, test = record(600), ks.data.digits("test")
    torch.set_num_threads(threads)
    x = test.x.float().view(-1, 1, 8, 8)
    # Two times bring in all the code that many need.
    ks.evolution(run, x, test.y, times=2, samples=50, progress=False)
    Path("/proc/self/clear_refs").write_text("5")
    before, used, begun = highest(), time.process_time(), time.perf_counter()
    found = ks.evolution(run, x, test.y, times=times, memory=memory, progress=False)
    seconds, spent = time.perf_counter() - begun, time.process_time() - used
    parts = found.info["seconds_of"]
    shares = {name: round(value / seconds, 2) for name, value in parts.items()}
    return {"threads": threads, "times": len(found), "samples": found.info["samples"], "points": found.info["points"],
            "memory": memory, "seconds": round(seconds, 1), "processor_s": round(spent, 1), **shares,
            "pair_samples": found.info["pair_samples"], "extra_MiB": round((highest() - before) / 1024)}


def alone(*given: object) -> dict[str, object]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, given)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def table(rows: list[dict[str, object]]) -> str:
    """The figures in Markdown."""
    lines = ["| threads | times | memory= | seconds | of processors | kernels | eigenpairs | measures | regression | "
             "extra, MiB |", "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        parts = " | ".join(f"{row[name]:.0%}" for name in ("kernels", "eigenpairs", "measures", "regression"))
        lines.append(f"| {row['threads']} | {row['times']} | {row['memory']} | **{row['seconds']}** | "
                     f"{row['processor_s']} | {parts} | {row['extra_MiB']} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table, and keeps the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few times, to see that it runs")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), int(options.one[1]), options.one[2])))
        return
    cases = [(5, 2, "1GB")] if options.quick else [(TIMES, 2, "1GB"), (TIMES, 1, "1GB")]
    rows = []
    for case in cases:
        rows.append(alone(*case))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}\n")
    if options.save:
        machine = {"machine": processor(), "python": platform.python_version(), "torch": torch.__version__}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "evolution.json").write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
        (RESULTS / "evolution.md").write_text(
            f"# The kernel of a network along its training\n\n{rows[0]['samples']:,} digits to train on, "
            f"{rows[0]['points']} others, 9,802 parameters, float32, on {machine['machine']}, torch "
            f"{torch.__version__}: kernels among all points, eigenpairs, measures, and regression at five ridges. "
            "Parts are shares of the seconds; extra memory is the highest resident size above that before. Measured by "
            f"`benchmarks/evolution.py --save`.\n\n{table(rows)}\n"
        )


if __name__ == "__main__":
    main()
