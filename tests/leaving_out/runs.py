"""Small recorded runs, and a plain loop that trains them again on some of their samples."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed=0, width=6, layers=nn.Tanh):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), layers(), nn.Linear(width, 3)).double()


def samples(n=20, seed=1):
    x = normal(n, 3, seed=seed)
    return x, (x @ normal(3, 3, seed=9)).argmax(1)


def recorded(optimizer="momentum", steps=12, n=20, batch=None, model=None, schedule=False, shuffle=True, drop=False,
             **options):
    """A run over all samples at each step, or over batches of a loader."""
    x, y = samples(n)
    model = network() if model is None else model
    opt = OPTIMIZERS[optimizer](model.parameters())
    course = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9) if schedule else None
    loader = None if batch is None else DataLoader(TensorDataset(x, y), batch, shuffle=shuffle, drop_last=drop,
                                                   generator=torch.Generator().manual_seed(0))
    with ks.record(model, (x, y) if loader is None else loader, loss=F.cross_entropy, **options) as recording:
        made = 0
        while made < steps:
            for xb, yb in [(x, y)] if loader is None else loader:
                if made == steps:
                    break
                opt.zero_grad()
                F.cross_entropy(model(xb), yb).backward()
                opt.step()
                if course is not None:
                    course.step()
                made += 1
    return recording.run


def plain_loop(start, optimizer, batches, n=20, schedule=False, layers=nn.Tanh):
    """The final parameters of an ordinary loop of torch over these batches."""
    x, y = samples(n)
    model = network(layers=layers)
    model.load_state_dict(start)
    opt = OPTIMIZERS[optimizer](model.parameters())
    course = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9) if schedule else None
    for rows in batches:
        opt.zero_grad()
        F.cross_entropy(functional_call(model, dict(model.named_parameters()), (x[rows],)), y[rows]).backward()
        opt.step()
        if course is not None:
            course.step()
    return dict(model.named_parameters())
