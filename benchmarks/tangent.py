"""What does a tangent kernel cost beside the ways it replaces, and beside the products it cannot do without?

The trace kernel of n points, of an MLP, a CNN, a transformer and a ResNet-18, by this package and by torch.func,
NNGeometry, BackPACK, Opacus and asdfghjkl; products of loss gradients, 128 by 512, by this package, captum and
kronfluence; the memory that a budget bounds; and, where there is a GPU, its share of the peak.

Each contender runs in a process of its own at the setting (a chunk or batch size, a mode) that was fastest on at most
256 points. A first run on 32 points is not counted. The time is the shortest of three runs or more; on two threads the
processor's time is that of both. Memory is the peak of the resident set above what the process held before. The error
is that of the kernel of the first 128 points (of a ResNet-18, 8) against Jacobians in float64, relative in the
Frobenius norm; a contender that is off by more than 1e-3, or by 1e-5 in scores, is called wrong. The limit is the time
that the counted operations would take at the rate of matrix products, measured just before; the share is how much of it
is reached.

    python benchmarks/tangent.py [--quick] [--save] [--only kernels|scores|memory|gpu ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tangents import devices, rivals, scores
from tangents.limits import operations
from tangents.measuring import Memory, Time, product_rate, timed
from tangents.networks import network, points

import kernelscope as ks

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("kernels", "scores", "memory", "gpu")

#: Network, points, outputs.
PROBLEMS = [(kind, n, 10) for kind in ("mlp", "cnn", "transformer") for n in (256, 1024)] + [("resnet", 8, 1)]
QUICK = [("mlp", 256, 10), ("cnn", 256, 10), ("transformer", 256, 10), ("resnet", 8, 1)]

#: Budgets and points of the memory section.
BUDGETS, MANY = ("1GB", "300MB"), 4096

#: From which error on a kernel is called wrong, and scores.
WRONG, WRONG_SCORES = 1e-3, 1e-5


def contend_kernels(task: dict[str, Any]) -> dict[str, Any]:
    """Runs one contender on one problem and measures it."""
    kind, n, c, own = task["kind"], task["n"], task["c"], task["contender"] == "kernelscope"
    make, settings = rivals.WAYS[task["contender"]]
    x = points(kind, n)
    ways = {setting: make(network(kind, c).eval(), c, setting) for setting in settings}
    for kernel in ways.values():
        kernel(x[:32])
    fastest = lambda setting: timed(lambda: ways[setting](x[:256]), 1, 0.0).core
    setting = min(settings, key=fastest) if len(settings) > 1 else settings[0]
    kernel = ways[setting]
    with Memory() as memory:
        block = kernel(x)
    corner = slice(0, task["corner"])
    truth = torch.load(task["truth"], weights_only=True)
    error = float((block[corner, corner].double() - truth).norm() / truth.norm())
    rate = product_rate() if own else 0.0
    found = {**_figures(timed(lambda: kernel(x))), "mib": memory.peak, "error": error, "setting": str(setting)}
    if own:
        counted = operations(kernel.features, x[:8], n)
        found |= {"rate": rate, "operations": counted.figures(), "limit": counted.total / rate}
    return found


def contend_scores(task: dict[str, Any]) -> dict[str, Any]:
    """Runs one contender on the products of loss gradients."""
    kind = task["kind"]
    given = scores.sides(kind)
    truth = scores.reference(kind, given)
    tried = []
    for setting, make in scores.WAYS[task["contender"]].items():
        work = make(kind, given)
        error = float((work().double() - truth).norm() / truth.norm())
        tried.append({**_figures(timed(work)), "error": error, "setting": setting})
    found = min(tried, key=lambda row: row["wall"])
    if task["contender"] == "kernelscope":
        kernel, rate = ks.kernels.Tangent(network(kind), loss=torch.nn.functional.cross_entropy), product_rate()
        counted = operations(kernel.features, tuple(t[:8] for t in given[0]), scores.TEST, scores.TRAIN)
        found |= {"rate": rate, "operations": counted.figures(), "limit": counted.total / rate}
    return found


def contend_memory(task: dict[str, Any]) -> dict[str, Any]:
    """Measures the memory that the kernel of many points takes under a budget."""
    model, x = network("cnn").eval(), points("cnn", MANY)
    kernel = ks.kernels.Tangent(model, memory=task["budget"])
    kernel(x[:8])
    with Memory() as memory:
        taken = timed(lambda: kernel(x), 1, 0.0)
    return {**_figures(taken), "mib": memory.peak, "budget": kernel.features.memory / 2**20}


CONTEND = {"kernels": contend_kernels, "scores": contend_scores, "memory": contend_memory}


def run(section: str, threads: int, task: dict[str, Any]) -> dict[str, Any]:
    """Hands a task to a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    call = [sys.executable, "-W", "ignore", __file__, "--contend", section, json.dumps({**task, "threads": threads})]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        return {"failed": words[0][:160]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def kernels(quick: bool, folder: Path) -> Iterator[dict[str, Any]]:
    """All contenders on all problems, with one thread and with two."""
    for kind, n, c in QUICK if quick else PROBLEMS:
        corner = min(n, 8 if kind == "resnet" else 128)
        truth = folder / f"{kind}-{n}-{c}.pt"
        torch.save(rivals.reference(network(kind, c).eval(), points(kind, n)[:corner], c), truth)
        for threads in (1,) if quick else (1, 2):
            task = {"kind": kind, "n": n, "c": c, "corner": corner, "truth": str(truth)}
            found = {name: run("kernels", threads, {**task, "contender": name}) for name in rivals.WAYS}
            size = sum(p.numel() for p in network(kind, c).parameters())
            row = {"kind": kind, "points": n, "outputs": c, "parameters": size, "threads": threads, "contenders": found}
            print(kernel_table(row), flush=True)
            yield row


def attributions(quick: bool) -> list[dict[str, Any]]:
    """All contenders on products of loss gradients."""
    rows = []
    for kind in ("mlp",) if quick else ("mlp", "cnn"):
        for threads in (1,) if quick else (1, 2):
            found = {name: run("scores", threads, {"kind": kind, "contender": name}) for name in scores.WAYS}
            rows.append({"kind": kind, "threads": threads, "contenders": found})
            print(score_table(rows[-1]), flush=True)
    return rows


def memory() -> list[dict[str, Any]]:
    """The memory taken under each budget."""
    rows = [run("memory", 1, {"budget": budget}) for budget in BUDGETS]
    print(memory_table(rows), flush=True)
    return rows


def main() -> None:
    """Measures what is asked for, prints the tables and keeps them if told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few problems, one thread")
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--memory", default="40GB", help="the budget on a GPU")
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        section, task = options.contend[0], json.loads(options.contend[1])
        torch.set_num_threads(task["threads"])
        print(json.dumps(CONTEND[section](task)))
        return
    found: dict[str, Any] = {}
    for section in options.only:
        if section == "kernels":
            with tempfile.TemporaryDirectory() as folder:
                found[section] = []
                for row in kernels(options.quick, Path(folder)):
                    found[section].append(row)
                    if options.save:
                        save(found)
        elif section == "scores":
            found[section] = attributions(options.quick)
        elif section == "memory":
            found[section] = memory()
        elif torch.cuda.is_available():
            print(devices.HEAD)
            found[section] = devices.measure("cuda", options.memory, options.quick)
        if options.save:
            save(found)


def save(found: dict[str, Any]) -> None:
    """Keeps the figures as data and as a page."""
    machine = {"processor": f"{os.cpu_count()} cores, {processor()}", "torch": f"torch {torch.__version__}"}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tangent.json").write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")
    parts = [f"Measured on {', '.join(machine.values())}.\n"]
    parts += [kernel_table(row) for row in found.get("kernels", [])]
    parts += [score_table(row) for row in found.get("scores", [])]
    parts += [memory_table(found["memory"])] if "memory" in found else []
    parts += ["\n".join([devices.HEAD, *map(devices.line, found["gpu"])])] if found.get("gpu") else []
    (RESULTS / "tangent.md").write_text("\n".join(parts))


def kernel_table(row: dict[str, Any]) -> str:
    """The figures of one problem as a table; ratios are of the time on the clock."""
    ours = row["contenders"]["kernelscope"]
    title = (f"**{row['kind']}, {row['parameters']} parameters, {row['points']} points, {row['outputs']} outputs, "
             f"{threads_of(row)}**\n")
    lines = [title, "| | processor s | clock s | clock / ours | MiB | error | setting |",
             "|---|---|---|---|---|---|---|"]
    for name, cell in row["contenders"].items():
        if "failed" in cell:
            lines.append(f"| {name} | fails: {cell['failed']} | | | | | |")
            continue
        wrong = " **wrong**" if not cell["error"] < WRONG else ""
        lines.append(f"| {name} | {cell['core']:.3f} | {cell['wall']:.3f} | {ratio(cell, ours)} | {cell['mib']:.0f} "
                     f"| {cell['error']:.0e}{wrong} | {cell['setting']} |")
    return "\n".join([*lines, "", limit(ours)])


def score_table(row: dict[str, Any]) -> str:
    """The figures of the scores as a table."""
    ours = row["contenders"]["kernelscope"]
    lines = [f"**loss gradients, {scores.TEST} by {scores.TRAIN}, {row['kind']}, {threads_of(row)}**\n",
             "| | processor ms | clock ms | clock / ours | error | batch |", "|---|---|---|---|---|---|"]
    for name, cell in row["contenders"].items():
        if "failed" in cell:
            lines.append(f"| {name} | fails: {cell['failed']} | | | | |")
            continue
        wrong = " **wrong**" if not cell["error"] < WRONG_SCORES else ""
        lines.append(f"| {name} | {1e3 * cell['core']:.1f} | {1e3 * cell['wall']:.1f} | {ratio(cell, ours)} "
                     f"| {cell['error']:.0e}{wrong} | {cell['setting']} |")
    return "\n".join([*lines, "", limit(ours)])


def memory_table(rows: list[dict[str, Any]]) -> str:
    """The memory taken under each budget as a table."""
    lines = [f"**cnn, {MANY} points, one thread**\n", "| budget, MiB | peak, MiB | clock s |", "|---|---|---|"]
    lines += [f"| fails: {row['failed']} | | |" if "failed" in row else
              f"| {row['budget']:.0f} | {row['mib']:.0f} | {row['wall']:.1f} |" for row in rows]
    return "\n".join(lines) + "\n"


def limit(ours: dict[str, Any]) -> str:
    """What the counted operations would take at least."""
    if "failed" in ours:
        return ""
    parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in ours["operations"].items())
    return (f"Operations, 1e9: {parts}; products run at {ours['rate'] / 1e9:.0f}e9 per second, so the limit is "
            f"{1e3 * ours['limit']:.1f} ms, of which {100 * ours['limit'] / ours['wall']:.0f} % is reached.\n")


def ratio(cell: dict[str, Any], ours: dict[str, Any]) -> str:
    """How many times longer than ours."""
    return "" if "failed" in ours else f"{cell['wall'] / ours['wall']:.2f}"


def threads_of(row: dict[str, Any]) -> str:
    """The number of threads in words."""
    return "one thread" if row["threads"] == 1 else f"{row['threads']} threads"


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def _figures(taken: Time) -> dict[str, float]:
    return {"core": taken.core, "wall": taken.wall}


if __name__ == "__main__":
    main()
