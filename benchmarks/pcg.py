"""What does exact kernel ridge regression cost, with all points as centers and the kernel matrix on a disk?

The first part counts products on the digits (1,797 points, 10 columns of -0.1 and 0.9, a network of three infinitely
wide hidden layers of rectifiers, pixels less their means) until the residual, measured in float64, is small enough: for
several preconditioners, and for tiles in single precision.

The second part fits patches of photographs by the tangent kernel of such a network, with less memory than the matrix
takes: tiles are built, kept on a disk in single precision, and read in every product. It tells the time of both, the
peak of the resident set of the process, the products, the residual and the error on test patches.

    python benchmarks/pcg.py [--quick] [--save] [--only digits|patches ...] [--points 20000] [--memory 400MB]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.kernels.infinite import fully_connected
from kernelscope.solvers import PCG, Problem

RESULTS = Path(__file__).parent / "results"

#: n ridge, relative to the mean of the diagonal; the residuals asked for; and the ranks.
LEVEL, RESIDUALS, RANKS = 1e-4, (1e-6, 1e-10), (64, 256)

#: The same of the patches, which are noisier.
NOISY = 1e-3


def on_digits() -> list[dict[str, Any]]:
    """Products and seconds of each way to the residual."""
    d, k = ks.data.digits("all"), fully_connected(3).nngp
    x, y = d.x.double() - d.x.double().mean(0), torch.nn.functional.one_hot(d.y, 10).double() - 0.1
    points, ridge = as_points(x), LEVEL * float(k.diagonal(x).mean()) / len(x)
    found = []
    ways = [(None, None), *(("nystrom", rank) for rank in RANKS), *(("rpcholesky", rank) for rank in RANKS)]
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float64, torch.float32):
            tiles = ks.Tiles(k, x, Path(folder) / str(dtype), side=256, dtype=dtype)
            tiles.build()
            for preconditioner, rank in ways:
                for residual in RESIDUALS:
                    start = time.perf_counter()
                    solution = PCG(preconditioner, rank=rank, tolerance=residual).solve(
                        Problem(k, points, y, points, (ridge,), tiles=tiles))
                    found.append({"tiles": str(dtype)[6:], "preconditioner": preconditioner or "none",
                                  "rank": rank or 0, "asked": residual, "products": int(solution.passes),
                                  "residual": solution.history[-1], "seconds": time.perf_counter() - start})
    return found


def on_patches(count: int, memory: str) -> dict[str, Any]:
    """A fit whose matrix does not fit into the memory it is given."""
    train, test = ks.data.patches("train", count=count, window=9), ks.data.patches("test", count=2000, window=9)
    x, y, k = train.x, train.y, fully_connected(3).ntk
    ridge = NOISY * float(k.diagonal(x[:1000]).mean()) / count
    with tempfile.TemporaryDirectory(dir=os.environ.get("TILES", None)) as folder:
        tiles = ks.Tiles(k, x, Path(folder) / "tiles", dtype=torch.float32, memory=memory)
        work, start = tiles.estimate(), time.perf_counter()
        tiles.build()
        built = time.perf_counter() - start
        size = sum(path.stat().st_size for path in tiles.folder.iterdir())
        start, core = time.perf_counter(), time.process_time()
        machine = ks.fit(k, x, y, ridge=ridge, intercept=True, tiles=tiles, memory=memory, progress=False)
        solved, core = time.perf_counter() - start, time.process_time() - core
    assert machine.fitting is not None
    error = float((machine(test.x) - test.y).square().mean())
    return {"points": count, "memory": memory, "matrix": 4 * count * count, "disk": size, "estimated": work.seconds,
            "built": built, "solved": solved, "core": core, "products": machine.fitting.passes,
            "residual": machine.fitting.history[-1]["residual"], "error": error,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "notes": machine.fitting.notes}


def digits_table(rows: list[dict[str, Any]]) -> str:
    """The first part as a table."""
    lines = ["### Products on the digits\n", "| tiles | preconditioner | rank | asked for | products | residual | "
             "seconds |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {one['tiles']} | {one['preconditioner']} | {one['rank']} | {one['asked']:.0e} | {one['products']} | "
              f"{one['residual']:.1e} | {one['seconds']:.2f} |" for one in rows]
    return "\n".join(lines) + "\n"


def patches_table(one: dict[str, Any]) -> str:
    """The second part in words."""
    spent = one.get("core")
    return (f"### {one['points']:,} patches out of core\n\n"
            f"The matrix takes {one['matrix'] / 1e9:.2f} GB in single precision, its lower triangle "
            f"{one['disk'] / 1e9:.2f} GB on the disk; the fit was given {one['memory']}, and the process had "
            f"{one['peak'] / 1e9:.2f} GB at its peak, with torch. Tiles were built in {one['built']:.1f} s (estimated "
            f"before: {one['estimated']:.1f} s); {one['products']:.0f} products, with the preconditioner, took "
            f"{one['solved']:.1f} s on the clock{f', {spent:.1f} s of the core' if spent else ''}, and came to a "
            f"residual of {one['residual']:.1e}. Mean squared error on 2,000 test patches: "
            f"{one['error']:.4f}, of variance 1.\n")


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--only", nargs="+", choices=("digits", "patches"), default=("digits", "patches"))
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--memory", default="400MB")
    options = parser.parse_args()
    kept = RESULTS / "pcg.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    # First, since what is measured there is the peak of the process.
    if "patches" in options.only:
        found["patches"] = on_patches(2000 if options.quick else options.points, options.memory)
        print(patches_table(found["patches"]), flush=True)
    if "digits" in options.only:
        found["digits"] = on_digits()
        print(digits_table(found["digits"]), flush=True)
    if not options.save:
        return
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), "an unknown processor")
    found["machine"] = f"{torch.get_num_threads()} thread of {processor}, torch {torch.__version__}"
    kept.write_text(json.dumps(found, indent=1) + "\n")
    tables = {"digits": digits_table, "patches": patches_table}
    (RESULTS / "pcg.md").write_text("\n".join([f"Measured on {found['machine']}.\n", *(
        table(found[name]) for name, table in tables.items() if name in found)]))


if __name__ == "__main__":
    main()
