r"""How fast are the kernels of infinitely wide networks, beside neural-tangents on the same cores?

Both kernels, NNGP and NTK, of the same networks at the same points: rows of photographs and patches of them, two
different sets, so that every entry is one pair. Each contender runs in a process of its own with as many threads, one
after the other; the shortest of its runs counts, without the first one, which compiles. The rival takes the block size
at which it makes most entries a second, of some that are tried. Errors are the largest relative ones of entries,
against double precision; in double precision both have to agree.

neural-tangents needs an old JAX, so it has an environment of its own, whose interpreter is handed over:

    python -m venv rival && rival/bin/pip install "neural-tangents==0.6.5" "jax==0.4.30" "jaxlib==0.4.30" \
        "numpy<2" "scipy<1.14"
    python benchmarks/infinite.py --rival rival/bin/python [--quick] [--save] [--threads 2] [--only myrtle:5 ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
WORKERS = Path(__file__).parent / "infinite_width"


@dataclass(frozen=True)
class Case:
    """What is computed.

    Attributes:
        name: The network, as workers know it.
        title: The network in words.
        shape: The shape of a point, with channels last.
        own: How many points our block has on each side.
        rival: The block sizes that the rival is tried with.
        exact: How many points the comparison in double precision has.
        aim: How many times as fast as the rival we mean to be.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    own: int
    rival: tuple[int, ...]
    exact: int
    aim: float


CASES = [
    Case("myrtle:5", "Myrtle-5, 32 x 32 x 3", (32, 32, 3), 80, (8,), 3, 40),
    Case("myrtle:10", "Myrtle-10, 32 x 32 x 3", (32, 32, 3), 56, (8,), 3, 40),
    Case("fc:3", "three hidden layers, 3,072 numbers", (3072,), 4000, (1000, 2000, 4000), 200, 2),
    Case("flat:5", "five convolutions, flattened, 32 x 32 x 3", (32, 32, 3), 200, (50, 100), 20, 2),
    Case("gap:3", "three convolutions, mean of pixels, 8 x 8 x 3", (8, 8, 3), 200, (10, 20, 40), 10, 1),
]
QUICK = [Case("myrtle:5", "Myrtle-5, 8 x 8 x 3", (8, 8, 3), 24, (6,), 3, 1), Case("fc:3", "three hidden layers",
                                                                                (192,), 200, (200,), 50, 1)]


def points(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """Windows of the two photographs, or as many numbers of them, with the mean color taken off."""
    from sklearn.datasets import load_sample_images

    photographs = np.stack(load_sample_images().images) / 255.0
    photographs -= photographs.mean((0, 1, 2))
    side = shape[0] if len(shape) == 3 else int(np.ceil((shape[0] / 3) ** 0.5))
    draw = np.random.default_rng(seed)
    found = [photographs[i, r:r + side, c:c + side] for i, r, c in
             zip(draw.integers(0, 2, count), draw.integers(0, 427 - side, count), draw.integers(0, 640 - side, count),
                 strict=True)]
    return np.stack(found).reshape(count, *((side, side, 3) if len(shape) == 3 else (-1,)))[..., :shape[-1]]


def run(worker: list[str], case: Case, size: int, dtype: str, threads: int, folder: str) -> dict[str, Any]:
    """Hands a block of so many points on each side to a process of its own."""
    for name, seed in (("x", 0), ("z", 1)):
        np.save(Path(folder) / f"{name}.npy", points(case.shape, size, seed))
    cores = ",".join(map(str, range(threads)))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads),
                   "PYTHONPATH": str(WORKERS.parent.parent)}
    done = subprocess.run(["taskset", "-c", cores, *worker, case.name, folder, dtype], capture_output=True, text=True,
                          env=environment)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][:160]}
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return said | {"size": size, "rate": size**2 / min(said["walls"])}


def measured(case: Case, rival: str | None, threads: int) -> dict[str, Any]:
    """One case: both contenders, and their errors."""
    own, other = [sys.executable, str(WORKERS / "own.py")], [rival or "", str(WORKERS / "rival.py")]
    row: dict[str, Any] = {"case": case.name, "title": case.title, "aim": case.aim, "threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        load = lambda name: np.load(Path(folder) / f"{name}.npy")
        row["own"] = run(own, case, case.own, "float32", threads, folder)
        if rival:
            tried = [run(other, case, size, "float32", threads, folder) for size in case.rival]
            row["rival"] = max(tried, key=lambda one: one.get("rate", 0.0))
            row["tried"] = tried
        # Errors are those of fewer points, on which double precision does not take long.
        exact = run(own, case, case.exact, "float64", threads, folder)
        truth = load("own")
        run(own, case, case.exact, "float32", threads, folder)
        row["error"] = largest(load("own"), truth)
        row["exact"] = exact
        if rival:
            run(other, case, case.exact, "float32", threads, folder)
            row["rival_error"] = largest(load("rival"), truth)
            run(other, case, case.exact, "float64", threads, folder)
            row["agreement"] = largest(load("rival"), truth)
    return row


def largest(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """The largest error of each kernel, relative to its largest entry."""
    return [float(np.abs(one - two).max() / np.abs(two).max()) for one, two in zip(found, truth, strict=True)]


def table(rows: list[dict[str, Any]]) -> str:
    """All cases in words."""
    lines = ["| network | | block | entries/s | against the rival | s, first call | MiB | error NNGP | NTK |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        for name, who in (("own", "kernelscope"), ("rival", "neural-tangents")):
            cell = row.get(name)
            if cell is None:
                continue
            if "failed" in cell:
                lines.append(f"| {row['title']} | {who} | fails: {cell['failed']} | | | | | | |")
                continue
            errors = row.get("error" if name == "own" else "rival_error", [float("nan")] * 2)
            against = row.get("rival", {}).get("rate") if name == "own" else None
            ratio = f"{cell['rate'] / against:.1f} x" if against else ""
            lines.append(f"| {row['title']} | {who} | {cell['size']} x {cell['size']} | {cell['rate']:,.4g} | {ratio} "
                         f"| {cell['first']:.2g} | {cell['mib']:.0f} | {errors[0]:.1e} | {errors[1]:.1e} |")
        if "agreement" in row:
            lines.append(f"| | both in double precision | | | | | | {row['agreement'][0]:.1e} | "
                         f"{row['agreement'][1]:.1e} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", help="the interpreter of an environment that has neural-tangents")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="some of the networks, as myrtle:5")
    parser.add_argument("--quick", action="store_true", help="small images, to see that it runs")
    parser.add_argument("--save", action="store_true", help="keep the numbers in benchmarks/results")
    options = parser.parse_args()
    rows = []
    for case in QUICK if options.quick else CASES:
        if not options.only or case.name in options.only:
            rows.append(measured(case, options.rival, options.threads))
            print(table(rows[-1:]), flush=True)
    title = (f"Both kernels of infinitely wide networks, {options.threads} threads of {platform.machine()}, "
             f"torch {torch.__version__}, float32; errors against double precision, relative to the largest entry.")
    print(f"\n{title}\n\n{table(rows)}")
    if options.save:
        (RESULTS / "infinite.json").write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
        (RESULTS / "infinite.md").write_text(f"{title}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
