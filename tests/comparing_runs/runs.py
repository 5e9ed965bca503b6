"""Small runs to be compared: the same data and network, by another seed, optimizer, data or architecture."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks


def data(n=40, seed=0, dtype=torch.float64):
    """Points of three classes, around three centers."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centers = torch.tensor([[2.0, 0.0, 0.0, 1.0], [-1.0, 1.5, 0.0, 0.0], [-1.0, -1.5, 1.0, 0.0]], dtype=dtype)
    return centers[y] + torch.randn(n, 4, generator=g, dtype=dtype), y


def probes(n=24):
    return data(n, seed=99)


def record(x, y, seed=0, width=8, steps=30, loss=F.cross_entropy, make=None, outputs=3, out=None, batch=8):
    """A recorded run of a small network."""
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(x.shape[1], width), nn.Tanh(), nn.Linear(width, outputs)).to(x.dtype)
        optimizer = (make or (lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5)))(model.parameters())
        with ks.record(model, (x, y), loss=loss, out=out, overwrite=out is not None) as recording:
            for _ in range(steps):
                ids = torch.randperm(len(x), generator=g)[:batch]
                recording.batch(ids)
                optimizer.zero_grad()
                loss(model(x[ids]), y[ids]).backward()
                optimizer.step()
    return recording.run


@functools.cache
def trained(seed=0, adam=False, width=8):
    """A run on the common data; the same one at each call."""
    make = (lambda p: torch.optim.Adam(p, lr=0.02)) if adam else None
    return record(*data(), seed=seed, make=make, width=width)
