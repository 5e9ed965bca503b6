"""How near do products with kernels come to what the machine can do?

On a processor: k(x, z) @ w of every kernel in closed form, in 256 dimensions, with one thread and with two, as a share
of the rate of matrix products, measured just before. Counted are the operations of two products, 2 n m (d + c); the
kernel's own function is what keeps the share below 1.

On a GPU: the products that one program computes, in each precision, beside torch's way, which writes the matrix in
blocks. The bound is the lower one of two rates of entries: that of the products (three for tf32x3) at the rate of
matrix products, and that of the powers and roots of an entry in the units for special functions, of which each
processor has 16. The error is that of 64 rows against float64, over the length of w.

Each measurement on a processor is a process of its own. A first run on few points is not counted; the time is the
shortest of three runs or more.

    python benchmarks/products.py [--quick] [--save] [--only cpu|gpu ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tangents.measuring import Memory, product_rate, timed

from kernelscope import kernels
from kernelscope.kernels import Gaussian, Kernel, Laplacian, Matern
from kernelscope.kernels.fused.product import PRECISIONS

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("cpu", "gpu")

#: All kernels in closed form, for points of d numbers whose variance is 1.
KERNELS: dict[str, Callable[[int], Kernel]] = {
    "Gaussian": lambda d: Gaussian(d**0.5),
    "Laplacian": lambda d: Laplacian(d**0.5),
    "Matern 3/2": lambda d: Matern(1.5, d**0.5),
    "Matern 5/2": lambda d: Matern(2.5, d**0.5),
    "Cauchy": lambda d: kernels.Cauchy(d**0.5),
    "rational quadratic": lambda d: kernels.RationalQuadratic(1.5, d**0.5),
    "dispersal 1.3": lambda d: kernels.Dispersal(1.3, d**0.5),
    "polynomial 3": lambda d: kernels.Polynomial(3, bandwidth=d**0.5),
    "cosine": lambda d: kernels.Cosine(),
    "arc-cosine 0": lambda d: kernels.ArcCosine(0),
    "arc-cosine 1": lambda d: kernels.ArcCosine(1),
    "arc-cosine 2": lambda d: kernels.ArcCosine(2),
    "ReLU NTK, 1 layer": lambda d: kernels.ReLUNTK(1),
    "ReLU NTK, 3 layers": lambda d: kernels.ReLUNTK(3),
}
QUICK = ("Gaussian", "Laplacian", "Matern 3/2", "arc-cosine 1")

#: Those that a program multiplies by, and how many powers and roots an entry takes.
PROGRAMS: dict[str, tuple[Callable[..., Kernel], int]] = {
    "Gaussian": (Gaussian, 1),
    "Laplacian": (Laplacian, 2),
    "Matern 3/2": (lambda b, **how: Matern(1.5, b, **how), 2),
    "Matern 5/2": (lambda b, **how: Matern(2.5, b, **how), 2),
}

#: Rows, columns, dimensions and outputs on a processor, and on a GPU.
ON_CPU = (8192, 4096, 256, 10)
ON_GPU = [(262_144, 131_072, 64, 10), (262_144, 131_072, 64, 1), (262_144, 131_072, 256, 10), (131_072, 65_536, 8, 10)]

#: Which matrix products those of a precision are made of: their type, how many, and whether in TF32.
MADE_OF = {"exact": (torch.float32, 1, False), "tf32x3": (torch.float32, 3, True), "bf16": (torch.bfloat16, 1, False)}

#: Special functions that a processor of a GPU computes in a cycle, and a cycle in seconds where it is not told.
UNITS, CLOCK = 16, 1.98e9


def contend(task: dict[str, Any]) -> dict[str, Any]:
    """Measures one kernel on this machine's processor."""
    n, m, d, c = task["sizes"]
    kernel = KERNELS[task["kernel"]](d)
    x, z, w = torch.randn(n, d), torch.randn(m, d), torch.randn(m, c)
    kernel.matmul(x[:512], z, w)
    with Memory() as memory:
        kernel.matmul(x, z, w)
    rate = product_rate()
    taken = timed(lambda: kernel.matmul(x, z, w))
    truth = kernel(x[:64].double(), z.double()) @ w.double()
    error = float((kernel.matmul(x[:64], z, w) - truth).norm() / truth.norm())
    return {"wall": taken.wall, "core": taken.core, "mib": memory.peak, "rate": rate, "error": error,
            "share": 2.0 * n * m * (d + c) / taken.wall / rate}


def on_cpu(quick: bool) -> Iterator[dict[str, Any]]:
    """All kernels, with one thread and with two."""
    n, m, d, c = ON_CPU
    sizes = (n // 4, m // 2, d, c) if quick else ON_CPU
    for threads in (1, 2):
        for name in QUICK if quick else KERNELS:
            found = _apart({"kernel": name, "sizes": sizes, "threads": threads})
            yield {"kernel": name, "sizes": sizes, "threads": threads, **found}


def on_gpu(quick: bool) -> Iterator[dict[str, Any]]:
    """The kernels with a program, in each precision."""
    rates = {precision: _rate(precision) for precision in PRECISIONS}
    for sizes in ON_GPU[:1] if quick else ON_GPU:
        n, m, d, c = sizes
        x, z, w = (torch.randn(*shape, device="cuda") for shape in ((n, d), (m, d), (m, c)))
        for name, (make, powers) in PROGRAMS.items():
            by_torch = _walls(make(d**0.5, memory="8GB", fused=False), x, z, w)
            for precision in PRECISIONS:
                kernel = make(d**0.5, memory="8GB", precision=precision).fitted(z)
                wall = _walls(kernel, x, z, w)
                truth = make(d**0.5)(x[:64].double(), z.double()) @ w.double()
                error = float((kernel.matmul(x[:64], z, w) - truth).norm() / truth.norm())
                bound = min(rates[precision] / (2 * (d + c)), _special() / powers)
                yield {"kernel": name, "sizes": sizes, "precision": precision, "wall": wall, "torch": by_torch,
                       "entries": n * m / wall, "bound": bound, "share": n * m / wall / bound, "error": error}


def _rate(precision: str) -> float:
    """Operations of products of vectors a second, at the rate of the matrix products that they are made of."""
    dtype, times, tf32 = MADE_OF[precision]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    found = product_rate("cuda", dtype) / times
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def _special() -> float:
    """Powers and roots a second."""
    told = torch.cuda.get_device_properties(0)
    cycles = 1e3 * getattr(told, "clock_rate", 0) or CLOCK
    return UNITS * told.multi_processor_count * cycles


def _walls(kernel: Kernel, x: torch.Tensor, z: torch.Tensor, w: torch.Tensor) -> float:
    def work() -> None:
        kernel.matmul(x, z, w)
        torch.cuda.synchronize()

    work()
    return timed(work).wall


def _apart(task: dict[str, Any]) -> dict[str, Any]:
    """Measures in a process of its own."""
    threads = str(task["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    call = [sys.executable, "-W", "ignore", __file__, "--contend", json.dumps(task)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        return {"failed": words[0][:160]}
    return json.loads(done.stdout.strip().splitlines()[-1])


HEADS = {
    "cpu": ("| kernel | points | threads | clock s | processor s | share of products' rate | MiB | error |\n"
            "|---|---|---|---|---|---|---|---|"),
    "gpu": ("| kernel | points, dimensions, outputs | precision | seconds | 1e12 entries/s | share of the bound "
            "| torch / ours | error |\n|---|---|---|---|---|---|---|---|"),
}


def line(section: str, row: dict[str, Any]) -> str:
    """One measurement as a row of a table."""
    n, m, d, c = row["sizes"]
    if section == "gpu":
        return (f"| {row['kernel']} | {n} by {m}, {d}, {c} | {row['precision']} | {row['wall']:.3f} "
                f"| {row['entries'] / 1e12:.2f} | {100 * row['share']:.0f} % of {row['bound'] / 1e12:.2f} "
                f"| {row['torch'] / row['wall']:.1f} | {row['error']:.0e} |")
    start = f"| {row['kernel']} | {n} by {m} | {row['threads']} "
    if "failed" in row:
        return start + f"| fails: {row['failed']} | | | | |"
    share = f"{100 * row['share']:.0f} % of {row['rate'] / 1e9:.0f}e9"
    return start + f"| {row['wall']:.3f} | {row['core']:.3f} | {share} | {row['mib']:.0f} | {row['error']:.0e} |"


def main() -> None:
    """Measures what is asked for, prints the tables and keeps them if told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few kernels, few points")
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        task = json.loads(options.contend)
        torch.set_num_threads(task["threads"])
        print(json.dumps(contend(task)))
        return
    found: dict[str, Any] = {}
    for section in options.only:
        if section == "gpu" and not torch.cuda.is_available():
            print("There is no GPU here, so its section is left out.")
            continue
        print(HEADS[section])
        found[section] = []
        for row in on_cpu(options.quick) if section == "cpu" else on_gpu(options.quick):
            found[section].append(row)
            print(line(section, row), flush=True)
            if options.save:
                save(found)


def save(found: dict[str, Any]) -> None:
    """Keeps the figures as data and as a page; a section that was not measured stays as it was."""
    machine = {"processor": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
               "torch": f"torch {torch.__version__}"}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "products.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    known |= {section: {"machine": machine, "rows": rows} for section, rows in found.items()}
    kept.write_text(json.dumps(known, indent=1) + "\n")
    parts = []
    for section in SECTIONS:
        if section in known:
            told, rows = known[section]["machine"], known[section]["rows"]
            parts.append("\n".join([f"Measured on {', '.join(told.values())}.\n", HEADS[section],
                                    *(line(section, row) for row in rows)]) + "\n")
    (RESULTS / "products.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
