"""What does recording cost per step of training?

An MLP with a million parameters (784-800-400-10) is trained by SGD with momentum on random images from a shuffling
loader, once recorded and once not, in turns: a recording of some steps, then as many steps of a twin that nobody
watches. The first pass over the data is left out, since it also copies every sample. What is told is the median of the
turns' ratios, and their quartiles. A disk that is slower than the loop slows it down within the measured steps; what
the last commit still writes when they end (a second of work at most) is left out.

    python benchmarks/recording.py [--quick] [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks

RESULTS = Path(__file__).parent / "results"
SAMPLES = 2048


class Loop:
    """A training loop over a loader."""

    def __init__(self, batch: int):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 400), nn.ReLU(), nn.Linear(400, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        data = TensorDataset(torch.randn(SAMPLES, 784), torch.randint(0, 10, (SAMPLES,)))
        self.loader = DataLoader(data, batch_size=batch, shuffle=True)

    def run(self, steps: int) -> None:
        """Some steps of training."""
        while steps > 0:
            for x, y in self.loader:
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(x), y).backward()
                self.optimizer.step()
                steps -= 1
                if steps == 0:
                    return


def turn(batch: int, keep: int | str, disk: bool, steps: int) -> tuple[float, float]:
    """Seconds per step, recorded and not."""
    watched, free = Loop(batch), Loop(batch)
    free.run(len(free.loader))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run" if disk else None
        with ks.record(watched.model, watched.loader, loss=F.cross_entropy, keep=keep, out=out):
            watched.run(len(watched.loader))
            begun = time.perf_counter()
            watched.run(steps)
            recorded = time.perf_counter() - begun
    begun = time.perf_counter()
    free.run(steps)
    return recorded / steps, (time.perf_counter() - begun) / steps


def measure(batch: int, keep: int | str, disk: bool, threads: int, steps: int, turns: int) -> dict[str, object]:
    """Medians over the turns."""
    torch.set_num_threads(threads)
    turn(batch, keep, disk, 5)
    pairs = [turn(batch, keep, disk, steps) for _ in range(turns)]
    ratios = [100 * (recorded / plain - 1) for recorded, plain in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "batch": batch, "keep": keep, "where": "disk" if disk else "memory", "threads": threads, "steps": steps,
        "turns": turns, "plain_ms": round(1e3 * statistics.median(plain for _, plain in pairs), 3),
        "recorded_ms": round(1e3 * statistics.median(recorded for recorded, _ in pairs), 3),
        "overhead_percent": round(middle, 1), "quartiles": [round(low, 1), round(high, 1)],
    }


def table(rows: list[dict[str, object]]) -> str:
    """The figures in Markdown."""
    lines = ["| batch | keep | where | threads | plain, ms | recorded, ms | overhead | quartiles |",
             "|---:|---:|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        low, high = row["quartiles"]  # type: ignore[misc]
        lines.append(f"| {row['batch']} | {row['keep']} | {row['where']} | {row['threads']} | {row['plain_ms']} | "
                     f"{row['recorded_ms']} | **{row['overhead_percent']} %** | {low} … {high} % |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"{os.cpu_count()} cores, {', '.join(sorted(names)) or platform.processor() or platform.machine()}"


def main() -> None:
    """Measures, prints a table, and keeps the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and turns, to see that it runs")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    options = parser.parse_args()
    turns = 3 if options.quick else 5
    rows = []
    for threads in (1,) if options.quick else (1, 2):
        for batch in (64, 256):
            for keep in (20, "all"):
                for disk in (False, True):
                    steps = 20 if options.quick else (9600 if keep == 20 else 6400) // batch
                    rows.append(measure(batch, keep, disk, threads, steps, turns))
                    print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}\n")
    if options.save:
        machine = {"machine": processor(), "python": platform.python_version(), "torch": torch.__version__}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "recording.json").write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
        (RESULTS / "recording.md").write_text(
            "# Recording overhead per step\n\nAn MLP with a million parameters (784-800-400-10), SGD with momentum, on "
            f"{machine['machine']}, torch {torch.__version__}. Measured by `benchmarks/recording.py --save`.\n\n"
            f"{table(rows)}\n"
        )


if __name__ == "__main__":
    main()
