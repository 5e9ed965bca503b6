"""Small trained networks on digits, and rows for what needs none."""

import functools

import torch
from torch import nn

import kernelscope as ks


@functools.cache
def digits(split):
    return ks.data.digits(split)


@functools.cache
def trained(act=nn.ReLU, hidden=(128, 128), epochs=40):
    """A network on digits, trained by a fixed small loop."""
    train = digits("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = (64, *hidden, 10)
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), act())]
        model = nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(train)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(train.x[rows]), train.y[rows]).backward()
                optimizer.step()
    return model


def points(n=80, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(d=5, hidden=24, c=3, act=nn.Tanh):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(d, hidden), act(), nn.Linear(hidden, c)).double()
