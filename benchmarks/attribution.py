"""Which scores of training samples foretell what leaving samples out does, ours and those of others?

Handwritten digits: 500 to train on, 100 held out; a network 64-32-10, 150 steps of all samples with momentum 0.9 and
the rate 0.1. It is trained again on 80 random halves of the samples, from its own start and from three others. The
linear datamodelling score (LDS) of a method is the mean over the held-out digits of the rank correlation, over the 80
subsets, of its summed scores with the loss of the network that was trained on the subset. Every method is called from
its own package, in a process of its own. Those that have settings (damping, ridge, projection) give scores by several,
and for each half of the queries the one is taken that does best on the other half.

Packages of others are measured where they are installed, and named as left out elsewhere.

    python benchmarks/attribution.py [--save] [--activations ReLU tanh] [--contenders "TRAK-10" ...] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from attributing.contenders import CONTENDERS, Skipped, scored
from attributing.task import ACTIVATIONS, CHECKPOINTS, STEPS, TEST, TRAIN, make, opened
from safetensors.torch import load_file, save_file
from tangents.measuring import Memory
from torch import Tensor

import kernelscope as ks
from kernelscope.diagnostics.leaving_out.choosing import chosen_elsewhere
from kernelscope.diagnostics.leaving_out.evaluation import WHAT
from kernelscope.diagnostics.leaving_out.subsets import drawn_members
from kernelscope.diagnostics.leaving_out.trial import subset_trial

RESULTS = Path(__file__).parent / "results"
SUBSETS, SEEDS = 80, 3
STARTS = ("same start", "mean of 3 starts")


def contend(name: str, folder: Path, activation: str, threads: int) -> dict[str, Any]:
    """Hands a contender to a process of its own."""
    out = folder / "scores.safetensors"
    call = [sys.executable, "-W", "ignore", __file__, "--part", name, str(folder), activation]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][:200]}
    facts = json.loads((folder / "facts.json").read_text())
    return facts if "skipped" in facts else facts | {"scores": load_file(out)}


def part(name: str, folder: Path, activation: str) -> None:
    """Measures one contender; what others print and import is not part of what is measured beside the scores."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    facts: dict[str, Any] = {}
    try:
        with Memory() as memory:
            wall, core = time.perf_counter(), time.process_time()
            scores, version = scored(name, folder, activation)
            facts = {"seconds": time.perf_counter() - wall, "cpu seconds": time.process_time() - core,
                     "version": version}
        facts["mib"] = memory.peak
        save_file(scores, folder / "scores.safetensors")
    except Skipped as reason:
        facts = {"skipped": str(reason)}
    (folder / "facts.json").write_text(json.dumps(facts))


def judge(activation: str, contenders: list[str], threads: int) -> dict[str, Any]:
    """All contenders on the network with one activation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        make(folder, activation)
        prepared = time.perf_counter() - begun
        task = opened(folder, activation)
        members = drawn_members(SUBSETS, TRAIN, 0.5, 0)
        begun = time.perf_counter()
        answers: dict[str, Tensor] = {
            start: ks.retrain(task.run, members, **options).outputs(task.queries, "loss", task.aims)[..., 0]
            for start, options in zip(STARTS, ({}, {"seeds": range(1, 1 + SEEDS), "start": "anew"}), strict=True)}
        trained = time.perf_counter() - begun
        found = {one: contend(one, folder, activation, threads) for one in contenders}
    together = torch.cat(list(answers.values())).mean(0)
    scores: dict[str, tuple[str, Tensor]] = {}
    for one, cell in found.items():
        if "scores" not in cell:
            continue
        by_setting = cell.pop("scores")
        finite = {word: table for word, table in by_setting.items() if bool(table.isfinite().all())}
        picked, cell["setting"] = chosen_elsewhere(finite, members, together)
        cell["settings"] = len(by_setting)
        scores[one] = CONTENDERS[one][0], picked
    scores["random scores"] = "null", torch.randn(TEST, TRAIN, generator=torch.Generator().manual_seed(1))
    found["random scores"] = {}
    ceilings = {}
    for start in STARTS:
        trial = subset_trial(scores, members, answers[start], exact=start == STARTS[0])
        ceilings[start] = {"ceiling": trial.ceiling, "as many seeds again": trial.reliability}
        for one in scores:
            interval = trial.interval(one)
            found[one][start] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {"activation": activation, "preparing": prepared, "retraining": trained, "networks": SUBSETS * (1 + SEEDS),
            "ceilings": ceilings, "contenders": found, "threads": threads}


def table(row: dict[str, Any]) -> str:
    """The scores as a table."""
    heads = [f"{start}, of at most {row['ceilings'][start]['ceiling']:.3f}" for start in STARTS]
    again = row["ceilings"][STARTS[1]]["as many seeds again"]
    lines = [f"**{row['activation']}: {row['networks']} networks trained again in {row['retraining']:.1f} s; three "
             f"other starts would foretell those three by {again:.3f}**\n",
             f"| | package | what it is | {heads[0]} | {heads[1]} | setting | CPU s | s | MiB |", "|---" * 9 + "|"]
    for name, cell in sorted(row["contenders"].items(), key=lambda item: -item[1].get(STARTS[0], {"mean": -9})["mean"]):
        role, package = CONTENDERS[name][:2] if name in CONTENDERS else ("null", "")
        if STARTS[0] not in cell:
            lines.append(f"| {name} | {package} | | left out: {cell.get('skipped') or cell.get('failed')} | | | | | |")
            continue
        scores = ["{mean:.3f} ({low:.3f} to {high:.3f})".format(**cell[start]).replace("-", "−") for start in STARTS]
        costs = [f"{cell[key]:.{digits}f}" if key in cell else ""
                 for key, digits in (("cpu seconds", 1), ("seconds", 1), ("mib", 0))]
        setting = f"{cell['setting']}, of {cell['settings']}" if cell.get("setting") else ""
        lines.append(f"| {name} | {package} {cell.get('version', '')} | {WHAT[role].partition(':')[0]} | "
                     f"{' | '.join(scores)} | {setting} | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def save(rows: list[dict[str, Any]], seconds: float) -> None:
    """Keeps the figures as data and as a page, beside the commit, the versions and the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), "an unknown processor")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    machine = {"processor": f"{os.cpu_count()} cores, {processor}", "torch": f"torch {torch.__version__}",
               "commit": f"commit {commit or 'unknown'}"}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "attribution.json").write_text(json.dumps(
        {"machine": machine, "seconds": seconds, "rows": rows}, indent=1) + "\n")
    about = (f"Digits: {TRAIN} samples, {TEST} queries, {STEPS} steps of all samples, {SUBSETS} halves. LDS with 95 % "
             "intervals by resampled subsets. Seconds of the processor and on the clock, and peak memory above the "
             "start of the process, are of all settings together, without the training of the networks that "
             f"TRAK-{CHECKPOINTS} reads. The setting of each half of the queries is the one that does best on the "
             "other half. TRAK scores margins, whose order is that of losses turned round.\n")
    (RESULTS / "attribution.md").write_text("\n".join(
        [f"Measured on {', '.join(machine.values())}, in {seconds:.0f} s.\n", about, *map(table, rows)]))


def main() -> None:
    """Measures what is asked for, prints the tables and keeps them if told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=["ReLU"])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, default=1, help="of each process; matrices are small here")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.part[0], Path(options.part[1]), options.part[2])
        return
    torch.set_num_threads(options.threads)
    begun, rows = time.perf_counter(), []
    for activation in options.activations:
        rows.append(judge(activation, options.contenders, options.threads))
        print(table(rows[-1]), flush=True)
    seconds = time.perf_counter() - begun
    print(f"{seconds:.0f} s")
    if options.save:
        save(rows, seconds)


if __name__ == "__main__":
    main()
