"""A small ledger that closes, made of random numbers: the shape of a recorded run without the run."""

import torch

from kernelscope.decomposition.explaining import from_decomposition
from kernelscope.decomposition.result import Decomposition


def ledger(q=3, n=40, steps=30, classes=4, *, names=None, drift=0.05, seed=0, **changes):
    """A ledger of margins: each step books the shares of five samples, ``drift`` on average, and a little decay."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    names = [f"class {i}" for i in range(classes)] if names is None else names
    member = torch.arange(n) % classes
    booked = torch.zeros(q, n, steps, dtype=torch.float64)
    for k in range(steps):
        rows = torch.randperm(n, generator=generator)[:5]
        shares = 0.1 * draw(q, 5)
        booked[:, rows, k] = shares - shares.mean(1, keepdim=True) + drift
    decay = -0.001 * torch.ones(q, steps, dtype=torch.float64)
    group_steps = torch.stack([booked[:, member == g].sum(1) for g in range(classes)], 1)
    initial = 0.1 * draw(q)
    path = torch.cat([initial[:, None], initial[:, None] + (booked.sum(1) + decay).cumsum(1)], 1)
    # Class 1 stays above all others, and class 0 leads it by the explained margin.
    outputs = 0.1 * draw(q, classes, steps + 1) - 2.0
    outputs[:, 1] += 2.5
    outputs[:, 0] = outputs[:, 1] + path
    zero = torch.zeros(q, 1, dtype=torch.float64)
    fields = {
        "initial": path[:, :1], "final": path[:, -1:], "contributions": booked.sum(2)[:, None],
        "channels": {"data": booked.sum((1, 2))[:, None], "decay": decay.sum(1)[:, None],
                     **{name: zero.clone() for name in ("momentum", "buffers", "rounding", "unattributed")}},
        "steps": booked.sum(1)[:, None], "path": path[:, None], "quadrature_error": torch.zeros(q, 1, steps).double(),
        "magnitude": booked.abs().sum((1, 2))[:, None] + 1, "group_steps": group_steps[:, None], "groups": names,
        "outputs": outputs, "sample_ids": torch.arange(n), "labels": [names[g] for g in member.tolist()],
        "output_names": ["margin"],
        "info": {"run": "synthetic", "rule": "SGD", "quadrature": "gonzalez", "dtype": "float64", "seconds": 1.5},
    }
    return Decomposition(**(fields | changes))


def images(count, side=8, seed=1):
    return torch.rand(count, side * side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explanation(q=3, n=40, k=3, *, classes=4, x=None, samples=None, targets=None, kind="margin", **options):
    made = ledger(q, n, classes=classes, **options)
    x, samples = images(q) if x is None else x, images(n, seed=2) if samples is None else samples
    return from_decomposition(made, x, lambda i: (samples[i], torch.tensor(0)), classes=made.groups, targets=targets,
                              k=k, kind=kind)
