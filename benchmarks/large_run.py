"""What does a large run cost to decompose, within how much memory?

An MLP with ten million parameters is trained on the digits by SGD with momentum for 2,000 steps and recorded on disk,
thinned to a size; then the margin of a few test digits is decomposed within a memory: exactly, where steps that were
not kept are computed again from those that were, and along chords between kept parameters, which leaves something
unattributed. Told are the peak of the resident set above what the process held before, disk,
seconds, the residual, what is unattributed, and the floor: the multiplications that have to be made, at the rate at
which this machine multiplies matrices. Recording and decomposing are processes of their own.

    python benchmarks/large_run.py [--parameters 1e7] [--steps 2000] [--keep 20] [--thin 20] [--memory 2GB] [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import kernelscope as ks

BATCH = 32
RESULTS = Path(__file__).parent / "results"


def network(parameters: float) -> nn.Module:
    """An MLP with three hidden layers and about so many parameters: 2 w^2 + 77 w + 10 for the width w."""
    width = round(((77**2 + 8 * (parameters - 10)) ** 0.5 - 77) / 4)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width),
                         nn.ReLU(), nn.Linear(width, 10))


def record(options: argparse.Namespace, out: Path) -> dict[str, float]:
    """Trains and records."""
    torch.manual_seed(0)
    model = network(options.parameters)
    loader = DataLoader(ks.data.digits("train"), batch_size=BATCH, shuffle=True)
    optimizer = {"momentum": lambda: torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
                 "adam": lambda: torch.optim.Adam(model.parameters(), lr=1e-4)}[options.optimizer]()
    keep = int(options.keep) if options.keep.isdigit() else options.keep
    begun, done = time.perf_counter(), 0
    with ks.record(model, loader, loss=F.cross_entropy, out=out, keep=keep):
        while done < options.steps:
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                done += 1
                if done == options.steps:
                    break
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak": peak(), "disk": sum(f.stat().st_size for f in out.rglob("*") if f.is_file())}


def decompose(options: argparse.Namespace, folder: Path, thin: int | None = None) -> dict[str, float | str]:
    """Decomposes and measures."""
    run = ks.load(folder)
    test = ks.data.digits("test")
    dtype = getattr(torch, options.dtype)
    rate = products_per_second(run, dtype)
    before, begun = peak(), time.perf_counter()
    d = ks.decompose(run, test.x[:options.queries], output="margin", dtype=dtype, memory=options.memory,
                     thin=thin, progress=True)
    seconds = time.perf_counter() - begun
    steps, size = len(run), run.parameter_count
    # A forward pass multiplies each parameter once by each point, and a backward pass twice: of the batch to replay the
    # step and to know its samples' gradients, and once more for each direction; of a query once at the middle of each
    # step, and forward at its end.
    batch = len(run[0].batches[0].columns)
    replayed = 3 * batch if len(run.info()["rules"]) and run.info()["keep"] != "all" else 0
    multiplied = steps * size * (replayed + 3 * batch + options.queries * (batch + 4))
    change = (d.final - d.initial).abs().max()
    left = d.channels["unattributed"].abs()
    # What chords leave, chord by chord, beside all absolute terms.
    gaps = left if d.unattributed is None else d.unattributed.abs().sum(-1)
    return {"seconds": seconds, "planned": d.info["bytes"], "before": before, "peak": peak() - before, "steps": steps,
            "parameters": size, "residual": float(d.residual.abs().max()), "change": float(change),
            "unattributed": float(left.max()), "of terms": float((gaps / d.magnitude).max()),
            "of change": float((left / (d.final - d.initial).abs()).max()),
            "thinned": thin is not None, "expected": d.info.get("expected seconds", 0.0), "chords": len(d.moments) - 1,
            "rounding": float(d.channels["rounding"].abs().max()), "multiplications": multiplied,
            "rate": rate, "floor": multiplied / rate, "rows": run.info()["rows"], "notes": "; ".join(d.info["notes"]),
            "engine": json.dumps(d.info["engine"])}


def products_per_second(run: ks.Run, dtype: torch.dtype) -> float:
    """Multiplications per second of a batch with the widest weight."""
    rows, columns = max(run.shapes, key=lambda shape: shape.numel())
    x, w = torch.randn(BATCH, columns, dtype=dtype), torch.randn(columns, rows, dtype=dtype)
    x @ w
    begun = time.perf_counter()
    for _ in range(5):
        x @ w
    return 5 * BATCH * rows * columns / (time.perf_counter() - begun)


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(found: dict[str, dict]) -> str:
    """The figures in Markdown."""
    r = found["recorded"]
    one = found["decomposed"] or found["thinned"]
    lines = ["| | |", "|---|---:|", f"| parameters | {one['parameters']:,} |", f"| steps | {one['steps']:,} |",
             f"| rows of parameters kept | {one['rows']:,} |", f"| run on disk | {r['disk'] / 1e9:.2f} GB |",
             f"| recording | {r['seconds']:.0f} s |", f"| queries | {found['queries']} |",
             f"| ledger | {found['dtype']} |", f"| memory allowed | {found['memory']} |"]
    for words, key in (("every step, by replay", "decomposed"), ("chords between kept parameters", "thinned")):
        lines += of_way(words, found[key]) if found[key] else []
    return "\n".join(lines)


def of_way(words: str, d: dict) -> list[str]:
    """The rows of the table for one of the two ways."""
    floor = [] if d["thinned"] else [
        f"| floor: {d['multiplications']:.2e} multiplications at {d['rate']:.1e} per second | {d['floor']:.0f} s |",
        f"| share of the floor | {100 * d['floor'] / d['seconds']:.0f} % |"]
    return [
        f"| **{words}** | {d['chords']:,} |", f"| told beforehand | {d['expected']:.0f} s |",
        f"| memory planned | {d['planned'] / 1e9:.2f} GB |", f"| peak of the resident set, above the start "
        f"| {d['peak'] / 1e9:.2f} GB |", f"| decomposing | {d['seconds']:.0f} s |",
        f"| of one step | {d['seconds'] / d['steps']:.3f} s |", *floor,
        f"| largest change of a margin | {d['change']:.3f} |", f"| residual | {d['residual']:.1e} |",
        f"| rounding | {d['rounding']:.1e} |", f"| unattributed | {d['unattributed']:.1e} |",
        f"| unattributed of the absolute terms | {100 * d['of terms']:.2g} % |",
        f"| unattributed of the change | {100 * d['of change']:.2g} % |"]


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def main() -> None:
    """Records, decomposes, prints the table and keeps the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e7)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--keep", default="20", help="every how many steps, or a size on disk")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--optimizer", choices=("momentum", "adam"), default="momentum")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--thin", type=int, default=20, help="chords over so many steps; kept ones need no replay")
    parser.add_argument("--way", choices=("both", "exact", "thinned"), default="both")
    parser.add_argument("--folder", help="where the run is kept; it is used again if it is there")
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    parser.add_argument("--part", choices=("record", "decompose", "thin"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part:
        place = Path(options.folder)
        print(json.dumps(record(options, place) if options.part == "record" else
                         decompose(options, place, options.thin if options.part == "thin" else None)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.folder or Path(name) / "run")
        told = folder.with_name(f"{folder.name}.json")
        if not told.exists():
            told.write_text(json.dumps(in_a_process("record", folder)))
        found = {"recorded": json.loads(told.read_text()),
                 "decomposed": None if options.way == "thinned" else in_a_process("decompose", folder),
                 "thinned": None if options.way == "exact" else in_a_process("thin", folder),
                 **{key: getattr(options, key) for key in ("queries", "memory", "dtype", "optimizer", "threads")}}
    text = table(found)
    print(text)
    if options.save:
        machine = {"processor": processor(), "threads": options.threads, "torch": torch.__version__}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "large_run.json").write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")
        (RESULTS / "large_run.md").write_text(
            f"Measured on {machine['processor']}, {options.threads} threads, torch {machine['torch']}, by "
            f"`benchmarks/large_run.py --save`.\n\n{text}\n")


def in_a_process(part: str, folder: Path) -> dict:
    """One part in a process of its own, with the options of this one."""
    rest = sys.argv[1:]
    if "--folder" in rest:
        place = rest.index("--folder")
        rest = rest[:place] + rest[place + 2:]
    call = [sys.executable, __file__, *rest, "--part", part, "--folder", str(folder)]
    return json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
