"""Small networks that are trained on handwritten digits, in one way that is never changed."""

from functools import cache

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import kernelscope as ks

ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}


@cache
def trained(activation: str, width: int, split: int = 0, hidden: int = 2, epochs: int = 30) -> nn.Sequential:
    """A network of two or more hidden layers of so many neurons, trained on one split by Adam."""
    data = ks.data.digits("train", seed=split)
    draw = torch.Generator().manual_seed(split)
    with torch.random.fork_rng():
        torch.manual_seed(split)
        act = ACTIVATIONS[activation]
        between = [part for _ in range(hidden - 1) for part in (nn.Linear(width, width), act())]
        model = nn.Sequential(nn.Linear(64, width), act(), *between, nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for some in torch.randperm(len(data), generator=draw).split(64):
            optimizer.zero_grad()
            cross_entropy(model(data.x[some]), data.y[some]).backward()
            optimizer.step()
    return model.requires_grad_(False)


def accuracy(model: nn.Module, split: int) -> float:
    """The share of test digits of a split that a network finds."""
    test = ks.data.digits("test", seed=split)
    return float((model(test.x).argmax(1) == test.y).double().mean())


def parameters(model: nn.Module) -> int:
    """How many numbers a network has."""
    return sum(p.numel() for p in model.parameters())
