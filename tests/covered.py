"""Small networks of three classes, recorded, whose coverage is asked for."""

import torch
import torch.nn.functional as F

import kernelscope as ks

N, Q, C = 12, 5, 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def recorded(model, x, y, loss=F.cross_entropy, steps=6, momentum=0.5, lr=0.1, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    with ks.record(model, (x, y), loss=loss, **options) as recording:
        for k in range(steps):
            ids = torch.randperm(len(x), generator=generator(k))[:4] if k else torch.arange(len(x))
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run
