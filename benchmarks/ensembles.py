"""How much faster do many small networks train together than one after another?

A recorded run is trained again on other batches, 200 times. Together: ``ks.ensemble`` without terms, all of it, from
the run to the final outputs, with the check that its own batches lead where they led. One after another: the plain loop
on tensors in memory (torch.optim.SGD, zero_grad, forward, backward, step), with the better of 1 and 2 threads; 20 full
runs are measured and scaled to 200. The two take turns; what is told is the median of the turns, with the least and the
largest ratio. Extra memory is the highest resident size during an ensemble above that before it, in a process of its
own.

    python benchmarks/ensembles.py [--quick] [--save]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from recording import processor
from torch import Tensor, nn

import kernelscope as ks
from kernelscope.run.run import Run

RESULTS = Path(__file__).parent / "results"
SEEDS, ALONE, BATCH, STEPS = 200, 20, 16, 400


def problem(name: str) -> tuple[nn.Module, Tensor, Tensor, object, float]:
    """A network, its samples, its loss, and a learning rate."""
    torch.manual_seed(0)
    if name == "digits 64-16-10":
        data = ks.data.digits("train")
        return _mlp(64, 16, 10), data.x, data.y, F.cross_entropy, 0.1
    if name == "moons 2-16-1":
        angle, side = 3.1416 * torch.rand(500), torch.arange(500) % 2
        x = torch.stack([angle.cos() + side, angle.sin() * (1 - 2 * side) + 0.5 * side], 1) + 0.1 * torch.randn(500, 2)
        return _mlp(2, 16, 1), x, side[:, None].float(), F.binary_cross_entropy_with_logits, 0.2
    x = 2 * torch.rand(200, 1) - 1
    return _mlp(1, 16, 1), x, (4 * x).sin() + 0.1 * torch.randn(200, 1), F.mse_loss, 0.1


def _mlp(*sizes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(*sizes[:2]), nn.Tanh(), nn.Linear(*sizes[1:]))


NAMES = ("digits 64-16-10", "moons 2-16-1", "regression 1-16-1")


def record(name: str, steps: int) -> tuple[Run, nn.Module]:
    """A run, and its network as it began."""
    model, x, y, loss, lr = problem(name)
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with ks.record(model, (x, y), loss=loss) as taken:
        for _ in range(steps):
            rows = torch.randint(len(x), (BATCH,))
            taken.batch(rows)
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return taken.run, start


def alone(name: str, start: nn.Module, runs: int, steps: int) -> float:
    """Seconds of 200 plain loops, from as many as are measured."""
    _, x, y, loss, lr = problem(name)
    draws = [[torch.randint(len(x), (BATCH,)) for _ in range(steps)] for _ in range(runs)]
    begun = time.perf_counter()
    for batches in draws:
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for rows in batches:
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return (time.perf_counter() - begun) * SEEDS / runs


def together(name: str, run: Run) -> float:
    """Seconds of an ensemble of 200."""
    _, x, y, *_ = problem(name)
    begun = time.perf_counter()
    ks.ensemble(run, x[:8], seeds=SEEDS, data=(x, y), progress=False)
    return time.perf_counter() - begun


def measure(name: str, threads: int, steps: int, turns: int) -> dict[str, object]:
    """Medians over the turns."""
    run, start = record(name, steps)
    torch.set_num_threads(threads)
    together(name, run)
    alone(name, start, 1, steps)
    pairs = []
    for _ in range(turns):
        torch.set_num_threads(threads)
        taken = together(name, run)
        plain = []
        for count in (1, 2):
            torch.set_num_threads(count)
            plain.append(alone(name, start, -(-ALONE // turns), steps))
        pairs.append((taken, min(plain)))
    ratios = [plain / taken for taken, plain in pairs]
    return {
        "network": name, "threads": threads, "steps": steps, "seeds": SEEDS,
        "runs_measured_alone": turns * -(-ALONE // turns), "turns": turns,
        "together_s": round(statistics.median(t for t, _ in pairs), 3),
        "alone_s": round(statistics.median(p for _, p in pairs), 2), "ratio": round(statistics.median(ratios), 1),
        "least": round(min(ratios), 1), "largest": round(max(ratios), 1),
        "extra_MiB": extra_memory(name, steps),
    }


def extra_memory(name: str, steps: int) -> float:
    """The highest resident size during an ensemble above that before it, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, str(steps)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _tell_memory(name: str, steps: int) -> None:
    run, _ = record(name, steps)
    _, x, y, *_ = problem(name)
    # Two seeds bring in all the code that 200 need.
    ks.ensemble(run, x[:8], seeds=2, data=(x, y), progress=False)
    # The highest size so far is forgotten, and so begins anew at the present one.
    Path("/proc/self/clear_refs").write_text("5")
    before = highest()
    together(name, run)
    print(round((highest() - before) / 1024, 1))


def highest() -> int:
    """The highest resident size of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def table(rows: list[dict[str, object]]) -> str:
    """The figures in Markdown."""
    lines = ["| network | threads | steps | together, s | in turn, s | ratio | least … largest | extra, MiB |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row['network']} | {row['threads']} | {row['steps']} | {row['together_s']} | "
                     f"{row['alone_s']} | **{row['ratio']}** | {row['least']} … {row['largest']} | "
                     f"{row['extra_MiB']} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table, and keeps the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and turns, to see that it runs")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        _tell_memory(options.memory[0], int(options.memory[1]))
        return
    rows = []
    for threads in (1,) if options.quick else (1, 2):
        for name in NAMES:
            rows.append(measure(name, threads, 50 if options.quick else STEPS, 2 if options.quick else 5))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}\n")
    if options.save:
        machine = {"machine": processor(), "python": platform.python_version(), "torch": torch.__version__}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "ensembles.json").write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
        (RESULTS / "ensembles.md").write_text(
            f"# {SEEDS} networks together and one after another\n\nSGD on batches of {BATCH}, in float32, on "
            f"{machine['machine']}, torch {torch.__version__}. The threads are those of the ensemble; one after "
            f"another, in turn, has the better of 1 and 2, measured on "
            f"{rows[0]['runs_measured_alone']} full runs and scaled to {SEEDS}. "
            f"Measured by `benchmarks/ensembles.py --save`.\n\n{table(rows)}\n"
        )


if __name__ == "__main__":
    main()
