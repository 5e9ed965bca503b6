"""A small run that is treated as a large one: recorded thinned, and decomposed within too little memory."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks

QUERIES = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def trained(keep, optimizer="momentum", dtype=torch.float64, steps=33, out=None, disturb=None):
    """An MLP for three classes, the same for any ``keep``."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 4, generator=generator).to(dtype)
    y = torch.randint(0, 3, (24,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    made = {"momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
            "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
            "plain": lambda p: torch.optim.SGD(p, lr=0.1), "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
            "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2), "rmsprop": lambda p: torch.optim.RMSprop(
                p, lr=1e-3, momentum=0.5)}[optimizer](model.parameters())
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    done = 0
    with ks.record(model, loader, loss=F.cross_entropy, keep=keep, out=out) as recording:
        while done < steps:
            for inputs, targets in loader:
                made.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                made.step()
                done += 1
                if disturb is not None:
                    disturb(done, made)
    return recording.run


def arrays(d):
    """The arrays of a decomposition."""
    return {"contributions": d.contributions, "steps": d.steps, "path": d.path, "missed": d.quadrature_error,
            "magnitude": d.magnitude, "residual": d.residual, **{f"channel {k}": v for k, v in d.channels.items()},
            **({} if d.group_steps is None else {"groups": d.group_steps}),
            **({} if d.outputs is None else {"outputs": d.outputs})}
