"""What does a complete decomposition cost beside the ways it replaces?

On the digits, for an MLP and a CNN trained for an epoch, with 32 and 256 queries, the loss of each query is explained
by

- ``kernelscope``: the backward adjoint sweep, complete to the last digit, ledger in float64 and in float32;
- ``buffers``: explicit per-sample gradients with a momentum buffer for every training sample, one midpoint gradient a
  step (the way of ExPLAIND, arXiv 2505.20076, whose own setting takes 10 to 100 gradients a step);
- ``tracin``: captum's TracInCP with one checkpoint for the epoch, by its sample-wise path at the batch size
  that ran fastest.

Each contender runs in a process of its own on the same recorded run, on one thread. Memory is the peak of its resident
set above what the process held before it began; time is that of the core, which other programs disturb least. Every
figure is the median over seven repetitions, or as many as begin within 15 s.

    python benchmarks/decomposition.py [--quick] [--save]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tangents.measuring import Memory
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks

BATCH, RATE, MOMENTUM = 32, 0.05, 0.9
CONTENDERS = ("kernelscope", "kernelscope float32", "buffers", "tracin")
RESULTS = Path(__file__).parent / "results"


def network(kind: str) -> nn.Module:
    """The MLP with 10 k parameters, or the CNN with 94 k."""
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10))
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )


def train(kind: str, out: Path) -> None:
    """Records the run that all contenders explain, and the checkpoint for TracIn."""
    torch.manual_seed(0)
    data = ks.data.digits("train", flat=kind == "mlp")
    model = network(kind)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    with ks.record(model, loader, loss=F.cross_entropy, out=out / "run"):
        torch.save(model.state_dict(), out / "checkpoint.pt")
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def by_kernelscope(run: ks.Run, kind: str, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The shares by the backward sweep."""
    return ks.decompose(run, x, output="loss", targets=y, dtype=dtype).contributions[:, 0]


def by_buffers(run: ks.Run, kind: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The shares by per-sample gradients and a momentum buffer for each training sample."""
    model = network(kind)
    names = run.names

    def loss(parameters: dict[str, torch.Tensor], one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, parameters, (one[None],)), target[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    rows = lambda theta, a, b: torch.cat([g.flatten(1) for g in gradients(theta, a, b).values()], 1)
    buffers = torch.zeros(run.size, run.parameter_count)
    shares = torch.zeros(len(x), run.size)
    trajectory = run.trajectory(0, len(run))
    for k in range(len(run)):
        columns = run[k].batches[0].columns
        (inputs,), targets = run.samples.batch(columns)
        own = rows(run.named(trajectory[k]), inputs, targets)
        buffers.mul_(MOMENTUM).index_add_(0, columns, own, alpha=1 / len(columns))
        middle = run.named((trajectory[k] + trajectory[k + 1]) / 2)
        assert list(middle) == names
        shares.addmm_(rows(middle, x, y), buffers.T, alpha=-RATE)
    return shares


def by_tracin(run: ks.Run, kind: str, x: torch.Tensor, y: torch.Tensor, folder: Path, batch: int) -> torch.Tensor:
    """The scores of captum's TracInCP, scaled to the steps they stand for."""
    from captum.influence import TracInCP

    model = network(kind)
    (inputs,), targets = run.samples.batch(torch.arange(run.size))
    data = TensorDataset(inputs, targets)
    scale = RATE / (1 - MOMENTUM) / BATCH

    def load(module: nn.Module, path: str) -> float:
        module.load_state_dict(torch.load(path, weights_only=True))
        return scale

    tracin = TracInCP(model, data, [str(folder / "checkpoint.pt")], checkpoints_load_func=load, batch_size=batch,
                      loss_fn=nn.CrossEntropyLoss(reduction="sum"), sample_wise_grads_per_batch=True)
    return -tracin.influence((x, y))


def contend(contender: str, kind: str, queries: int, folder: Path, repeat: int) -> dict[str, float]:
    """Runs one contender and measures it."""
    torch.set_num_threads(1)
    run = ks.load(folder / "run")
    test = ks.data.digits("test", flat=kind == "mlp")
    x, y = test.x[:queries], test.y[:queries]
    # The rival's best setting: the batch size that is fastest here.
    batches = (64, 256, run.size) if contender == "tracin" else (0,)
    work = {
        "kernelscope": lambda part, count, _: by_kernelscope(part, kind, x[:count], y[:count], torch.float64),
        "kernelscope float32": lambda part, count, _: by_kernelscope(part, kind, x[:count], y[:count], torch.float32),
        "buffers": lambda part, count, _: by_buffers(part, kind, x[:count], y[:count]),
        "tracin": lambda part, count, batch: by_tracin(part, kind, x[:count], y[:count], folder, batch),
    }[contender]
    # A first small call loads code and fills the allocator's pools; it is not counted.
    work(run[:2], 4, 64) if contender != "tracin" else work(run, 4, 64)
    settings = []
    for batch in batches:
        seconds, peaks = [], []
        for _ in range(repeat):
            with Memory() as memory:
                begun = time.process_time()
                shares = work(run, queries, batch)
                seconds.append(time.process_time() - begun)
            peaks.append(memory.peak)
            if sum(seconds) > 15:
                break  # what takes this long is measured well enough
        settings.append((statistics.median(seconds), statistics.median(peaks)))
    taken, peak = min(settings)
    model = network(kind)
    with torch.no_grad():
        outputs = [F.cross_entropy(functional_call(model, run.parameters(k), (x,)), y, reduction="none")
                   for k in (0, len(run))]
    change = (outputs[1] - outputs[0]).double()
    gap = float((shares.sum(1).double() - change).abs().sum() / change.abs().sum())
    torch.save(shares.double(), folder / f"{contender}-{queries}.pt")
    return {"seconds": taken, "mib": peak, "gap": gap}


def agreement(folder: Path, queries: int) -> float:
    """How far the shares by buffers are from ours, relative in the Euclidean norm."""
    ours, theirs = (torch.load(folder / f"{name}-{queries}.pt", weights_only=True) for name in CONTENDERS[::2])
    return float((ours - theirs).norm() / ours.norm())


def main() -> None:
    """Measures all contenders on all problems and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32 queries, no repetition")
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    parser.add_argument("--contend", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    repeat = 1 if options.quick else 7
    if options.contend:
        contender, kind, queries, folder = options.contend
        print(json.dumps(contend(contender, kind, int(queries), Path(folder), repeat)))
        return
    rows = []
    for kind in ("mlp", "cnn"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            train(kind, folder)
            for queries in (32,) if options.quick else (32, 256):
                found = {}
                for contender in CONTENDERS:
                    call = [sys.executable, __file__, *(["--quick"] if options.quick else []), "--contend", contender,
                            kind, str(queries), str(folder)]
                    output = subprocess.run(call, check=True, capture_output=True, text=True).stdout
                    found[contender] = json.loads(output.strip().splitlines()[-1])
                rows.append({"network": kind, "queries": queries, "steps": len(ks.load(folder / "run")),
                             "agreement": agreement(folder, queries), "contenders": found})
                print(table(rows[-1]), flush=True)
                if options.save:
                    save(rows)


def save(rows: list[dict]) -> None:
    """Keeps the figures as data and as a page."""
    machine = {"processor": processor(), "threads": 1, "torch": torch.__version__}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decomposition.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    text = "\n".join(table(row) for row in rows)
    (RESULTS / "decomposition.md").write_text(
        f"Measured on {machine['processor']}, one thread, processor time, torch {machine['torch']}.\n\n{text}")


def table(row: dict) -> str:
    """The figures of one problem as a table; ratios are against the default, kernelscope in float64."""
    ours = row["contenders"]["kernelscope"]
    lines = [f"**{row['network']}, {row['queries']} queries, {row['steps']} steps** (shares by buffers differ from "
             f"ours by {row['agreement']:.1e})\n", "| | seconds | time / ours | MiB | memory / ours | incomplete by |",
             "|---|---|---|---|---|---|"]
    for name, cell in row["contenders"].items():
        lines.append(f"| {name} | {cell['seconds']:.2f} | {cell['seconds'] / ours['seconds']:.2f} | {cell['mib']:.0f} "
                     f"| {cell['mib'] / ours['mib']:.2f} | {cell['gap']:.1e} |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


if __name__ == "__main__":
    main()
