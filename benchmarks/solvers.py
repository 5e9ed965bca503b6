"""How fast do solvers of kernel machines come to the optimum of their centers, and do they always?

The same points, centers, kernel and ridge for all: patches of photographs and a synthetic problem. The optimum is the
direct solution in double precision; what is told is by how much the error on test points exceeds the error of the
optimum, against the kernel entries that were computed (one pass is n p of them; those of the preconditioner and of
projections count, and those of looking at the error do not) and against seconds on the clock. Solvers that know no
ridge may come below the optimum's error. Each contender runs in a process of its own and has its time.

The second part counts, over kernels, bandwidths, samples and levels, on how many problems a solver diverges: on how
many its error on the training points is larger than that of the constant nought, or no number.

Solvers of others are measured where they are installed or on the path (PYTHONPATH), and skipped elsewhere.

    python benchmarks/solvers.py [--quick] [--save] [--only race|grid ...] [--threads 2] [--seconds 900]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from solving.contenders import CONTENDERS, Skipped, eigenpro, eigenpro4, eigenpro4_with_room, ours
from solving.problems import RIDGE, Setting, made
from solving.tracks import Over, Track
from tangents.measuring import Memory

from kernelscope.data.points import as_points
from kernelscope.solvers import ConjugateGradient, Direct, Problem

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("race", "grid")

PROBLEMS = [Setting("patches", "Laplacian", 100_000, 5000), Setting("synthetic", "Laplacian", 20_000, 2000),
            Setting("patches", "Gaussian", 50_000, 2500, 1.0, 64, "float64")]
QUICK = [Setting("patches", "Laplacian", 8000, 1000), Setting("synthetic", "Gaussian", 8000, 500, 1.0, 64, "float64")]

#: By how much a track may exceed the optimum's error where its time is told.
LEVELS = (0.1, 0.01, 0.003)

#: Kernel, bandwidth, points of the preconditioner, its level, source, centers.
GRID = list(itertools.product(("Laplacian", "Gaussian"), (0.25, 1.0, 4.0), (100, 200, 400), (10, 20, 40),
                              ("patches", "synthetic"), (250, 500)))
QUICK_GRID = list(itertools.product(("Laplacian", "Gaussian"), (0.25, 1.0, 4.0), (250,), (50,), ("synthetic",), (500,)))

#: Points and epochs of the grid.
POINTS, EPOCHS = 3000, 2


def optimum(setting: Setting) -> float:
    """The error on test points of the direct solution in double precision."""
    task = made(setting)
    x, z, kernel = task.x.double(), task.z.double(), task.kernel()
    found = Direct().solve(Problem(kernel, as_points(x), task.y.double(), as_points(z), (RIDGE,), memory=4 * 10**9))
    error = kernel(task.x_test.double(), z) @ found.coefficients[0] - task.y_test.double()
    return float(error.square().mean())


def contend(work: dict[str, Any]) -> dict[str, Any]:
    """Runs one contender on one problem."""
    task = made(Setting(**work["setting"]))
    track = Track(task, work["seconds"])
    with Memory() as memory:
        try:
            CONTENDERS[work["contender"]](task, track)
        except Over:
            pass
        except Skipped as reason:
            return {"skipped": str(reason)}
    return {"marks": track.marks, "mib": memory.peak}


def diverges(work: dict[str, Any]) -> dict[str, Any]:
    """Whether each of some solvers diverges on one problem of the grid."""
    kernel, factor, sample, level, source, p = work["problem"]
    task = made(Setting(source, kernel, work["points"], p, factor), tests=16)
    # What is looked at is the error on the training points.
    task = type(task)(task.setting, task.x, task.y, task.z, task.x[:2000], task.y[:2000], task.bandwidth)
    nothing, found = float(task.y_test.double().square().mean()), {}
    for name, run in {
            "EigenPro 4": lambda task, track: eigenpro4(task, track, sample, level, EPOCHS),
            "EigenPro 4, with room": lambda task, track: eigenpro4_with_room(task, track, samples=sample, level=level,
                                                                             epochs=EPOCHS),
            "eigenpro": ours(eigenpro(sample=sample, level=level, epochs=EPOCHS)),
            "cg, full": ours(lambda task: ConjugateGradient(passes=10)),
            "cg, two-level": ours(lambda task: ConjugateGradient("two-level", rank=level, passes=10))}.items():
        track = Track(task, 300.0)
        try:
            run(task, track)
        except (Over, Skipped):
            pass
        except (ArithmeticError, RuntimeError, ValueError) as error:  # the code of others may end in any way
            found[name] = f"{type(error).__name__}: {error}"[:80]
            continue
        if track.marks:
            found[name] = bool(track.marks[-1]["error"] <= nothing)
    return found


PARTS = {"contend": contend, "diverges": diverges}


def run(part: str, threads: int, work: dict[str, Any]) -> dict[str, Any]:
    """Hands some work to a process of its own."""
    with tempfile.NamedTemporaryFile("w+") as answer:
        call = [sys.executable, "-W", "ignore", __file__, "--part", part, json.dumps(work), answer.name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        done = subprocess.run(call, capture_output=True, text=True, env=environment)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][:160]}
        return json.loads(Path(answer.name).read_text())


def race(setting: Setting, contenders: Iterable[str], threads: int, seconds: float) -> dict[str, Any]:
    """Contenders on one problem."""
    best = optimum(setting)
    found = {name: run("contend", threads, {"setting": asdict(setting), "contender": name, "seconds": seconds})
             for name in contenders}
    return {"setting": asdict(setting), "threads": threads, "optimum": best, "contenders": found}


def grid(problems: list[tuple[Any, ...]], points: int, threads: int) -> dict[str, Any]:
    """How many problems each solver diverges on."""
    rows = []
    for problem in problems:
        rows.append({"problem": problem, "found": run("diverges", threads, {"problem": problem, "points": points})})
        print(f"{len(rows)} of {len(problems)}: {rows[-1]}", file=sys.stderr, flush=True)
    return {"points": points, "rows": rows}


def race_table(row: dict[str, Any]) -> str:
    """Passes and seconds to each level as a table."""
    setting, best = Setting(**row["setting"]), row["optimum"]
    heads = " | ".join(f"{100 * level:g} % at passes / s" for level in LEVELS)
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    lines = [f"**{setting.title}, {threads}; the optimum's error on test points is {best:.4f}**\n",
             f"| | {heads} | lowest excess | at the end | s | MiB |", "|---" * (len(LEVELS) + 5) + "|"]
    for name, cell in row["contenders"].items():
        if not cell.get("marks"):
            why = cell.get("skipped") or f"fails: {cell.get('failed', 'it gave nothing')}"
            lines.append(f"| {name} | {why} |" + " |" * (len(LEVELS) + 3))
            continue
        marks = [(mark["error"] / best - 1, mark["passes"], mark["seconds"]) for mark in cell["marks"]]
        reached = [next((f"{passes:.1f} / {seconds:.1f}" for excess, passes, seconds in marks if excess <= level), "-")
                   for level in LEVELS]
        lines.append(f"| {name} | {' | '.join(reached)} | {share(min(e for e, *_ in marks))} | {share(marks[-1][0])} "
                     f"| {marks[-1][2]:.1f} | {cell['mib']:.0f} |")
    return "\n".join(lines) + "\n"


def share(excess: float) -> str:
    """An excess in per cent; what is beyond a hundredfold in powers of ten."""
    return f"{100 * excess:+.2f} %" if excess < 100 else f"{excess:.0e}-fold"


def grid_table(found: dict[str, Any]) -> str:
    """The counts as a table."""
    names = sorted({name for row in found["rows"] for name in row["found"] if name != "failed"})
    count = len(found["rows"])
    lines = [f"**n = {found['points']}, {count} problems, {EPOCHS} epochs of EigenPro, 10 passes of cg**\n",
             "| | problems | diverged | ended in an error |", "|---|---|---|---|"]
    for name in names:
        ends = [row["found"][name] for row in found["rows"] if name in row["found"]]
        lines.append(f"| {name} | {len(ends)} | {sum(end is False for end in ends)} "
                     f"| {sum(isinstance(end, str) for end in ends)} |")
    failed = sum("failed" in row["found"] for row in found["rows"])
    return "\n".join([*lines, *([f"\nOn {failed} problems the process ended."] if failed else [])]) + "\n"


def main() -> None:
    """Measures what is asked for, prints the tables and keeps them if told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small problems, a short time")
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--threads", type=int, default=None, help="how many threads: 1 with --quick, else 2")
    parser.add_argument("--seconds", type=float, default=None, help="of a contender: 30 with --quick, else 900")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        part, work, answer = options.part
        Path(answer).write_text(json.dumps(PARTS[part](json.loads(work))))
        return
    threads = options.threads or (1 if options.quick else 2)
    seconds = options.seconds or (30.0 if options.quick else 900.0)
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    if "race" in options.only:
        found["race"] = []
        for setting in QUICK if options.quick else PROBLEMS:
            found["race"].append(race(setting, options.contenders, threads, seconds))
            print(race_table(found["race"][-1]), flush=True)
            save(found, options.save)
    if "grid" in options.only:
        found["grid"] = grid(QUICK_GRID, 3000, threads) if options.quick else grid(GRID, POINTS, threads)
        print(grid_table(found["grid"]), flush=True)
        save(found, options.save)


def save(found: dict[str, Any], wanted: bool) -> None:
    """Keeps the figures as data and as a page, if that is wanted; a section that was not measured stays as it was."""
    if not wanted:
        return
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), "an unknown processor")
    machine = {"processor": f"{os.cpu_count()} cores, {processor}", "torch": f"torch {torch.__version__}"}
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "solvers.json"
    found = {**(json.loads(kept.read_text()) if kept.exists() else {}), "machine": machine, **found}
    kept.write_text(json.dumps(found, indent=1) + "\n")
    parts = [f"Measured on {', '.join(machine.values())}.\n", *map(race_table, found.get("race", []))]
    parts += [grid_table(found["grid"])] if "grid" in found else []
    (RESULTS / "solvers.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
