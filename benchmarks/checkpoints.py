"""How far can the ledger of checkpoints, or of a thinned recording, be trusted?

The network of the README is trained on the digits and recorded at every step. Then the margins of 32 test digits are
explained from some of its parameters alone, and what each training sample is given is held against the exact ledger:
by rank correlation and relative error over samples, by rank correlation over the ten classes, and by how many of the
ten strongest samples are the same (means over queries). Beside it stands what the ledger itself says is missing. All is
done for several seeds; told are the mean and the range.

    python benchmarks/checkpoints.py [--seeds 5] [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import kernelscope as ks

RESULTS = Path(__file__).parent / "results"
QUERIES, STRONGEST = 32, 10

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "SGD with momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=1e-3),
}

#: What is told, and with how many digits.
COLUMNS = {
    "of terms": ("unattributed, % of the terms", ".1f"), "of change": ("% of the change", ".0f"),
    "rank": ("rank correlation", ".4f"), "error": ("relative error", ".3f"), "groups": ("over classes", ".3f"),
    "strongest": (f"of the {STRONGEST} strongest", ".1f"),
}


def recorded(name: str, steps: int, seed: int) -> ks.Run:
    """A training of the README's network."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    loader = DataLoader(ks.data.digits("train"), batch_size=64, shuffle=True)
    optimizer = OPTIMIZERS[name](model)
    with ks.record(model, loader, loss=F.cross_entropy) as recording:
        done = 0
        while done < steps:
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                done += 1
                if done == steps:
                    break
    return recording.run


def checkpoints(run: ks.Run, name: str, every: int) -> ks.Run:
    """The run as its checkpoints know it: parameters, a rate, and the training set."""
    train = ks.data.digits("train")
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = OPTIMIZERS[name](model)
    told = {"lr": optimizer.param_groups[0]["lr"], "momentum": optimizer.param_groups[0].get("momentum")}
    return ks.from_checkpoints({k: run.parameters(k) for k in range(0, len(run) + 1, every)}, model=model, data=train,
                               loss=F.cross_entropy, **told)


def held_against(exact: ks.Decomposition, sketch: ks.Decomposition) -> dict[str, float]:
    """What a sketch gets right, and what it says of itself; means over queries."""
    # Both hold the margin alone. Of a recording the samples stand in the order in which they were seen.
    a, b = (in_order(d) for d in (exact, sketch))
    groups = [d.contributions.flatten(0, 1) @ F.one_hot(as_classes(d), 10).double() for d in (exact, sketch)]
    strongest = [set(row.tolist()) for rows in (a, b) for row in rows.abs().topk(STRONGEST).indices]
    same = [len(strongest[q] & strongest[q + len(a)]) for q in range(len(a))]
    return {
        "of terms": 100 * sketch.unattributed_share(),
        "of change": 100 * sketch.unattributed_of_change(),
        "rank": mean_rank(a, b), "error": float(((a - b).norm(dim=1) / a.norm(dim=1)).mean()),
        "groups": mean_rank(*groups), "strongest": statistics.mean(same),
    }


def in_order(d: ks.Decomposition) -> Tensor:
    """The contributions to the margin, in the order of the samples' ids."""
    return d.contributions.flatten(0, 1)[:, d.sample_ids.argsort()]


def as_classes(d: ks.Decomposition) -> Tensor:
    """The class of each sample."""
    return torch.tensor([int(word) for word in d.labels])


def mean_rank(a: Tensor, b: Tensor) -> float:
    """The mean over rows of the rank correlation."""
    ranks = [rows.argsort(1).argsort(1).double() for rows in (a, b)]
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)]).mean())


def main() -> None:
    """Trains, compares, prints the table and keeps it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the numbers beside this file")
    options = parser.parse_args()
    x = ks.data.digits("test").x[:QUERIES]
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        short = recorded("SGD with momentum", 115, seed)
        for count, every in ((6, 23), (3, 57)):
            run = short[:(count - 1) * every]
            exact = ks.decompose(run, x, "margin", progress=False)
            found = ks.decompose(checkpoints(run, "SGD with momentum", every), x, "margin", progress=False)
            rows.setdefault(f"{count} checkpoints, {every} steps apart, SGD with momentum", []).append(
                held_against(exact, found))
        for name in OPTIMIZERS:
            run = recorded(name, 500, seed)
            exact = ks.decompose(run, x, "margin", progress=False)
            thinned = ks.decompose(run.thinned(20), x, "margin", progress=False)
            rows.setdefault(f"500 steps thinned to chords of 20, {name}", []).append(held_against(exact, thinned))
            print(f"seed {seed}: {name} done", flush=True)
    text = table(rows)
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "checkpoints.json").write_text(json.dumps(
            {"torch": torch.__version__, "seeds": options.seeds, "rows": rows}, indent=1) + "\n")
        (RESULTS / "checkpoints.md").write_text(
            f"Measured with torch {torch.__version__} by `benchmarks/checkpoints.py --save`: digits, the margins of "
            f"{QUERIES} test images, the mean of {options.seeds} seeds and their range.\n\n{text}\n")


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """The figures in Markdown."""
    lines = ["| | " + " | ".join(words for words, _ in COLUMNS.values()) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, found in rows.items():
        cells = []
        for key, (_, digits) in COLUMNS.items():
            values = [one[key] for one in found]
            cells.append("{:{d}} ({:{d}}–{:{d}})".format(statistics.mean(values), min(values), max(values), d=digits))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
