"""Layers of small networks that were trained on handwritten digits, and inputs that they have not seen."""

from functools import cache

import torch
from torch import nn

import kernelscope as ks

ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}


@cache
def trained(activation, width, epochs=30):
    """The network Linear-act-Linear-act-Linear, trained in a fixed way."""
    data = ks.data.digits("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        act = ACTIVATIONS[activation]
        model = nn.Sequential(nn.Linear(64, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(epochs):
            order = torch.randperm(len(data))
            for i in range(0, len(data), 64):
                some = order[i:i + 64]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(data.x[some]), data.y[some]).backward()
                optimizer.step()
    return model.requires_grad_(False)


def accuracy(model):
    test = ks.data.digits("test")
    return float((model(test.x).argmax(1) == test.y).double().mean())
