"""Small training loops that are recorded, and keep a diary of their own beside the recording."""

import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from tests.oracles import Diary, explicit_shares

N = 8


def points(n=N, features=3, outputs=2, dtype=torch.float64, seed=7):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=dtype)
    y = torch.stack([torch.sin(x.sum(1)), x.prod(1)], 1)[:, :outputs]
    return x, y


def queries(features=3, dtype=torch.float64):
    return torch.randn(2, features, generator=torch.Generator().manual_seed(11), dtype=dtype)


def network(features=3, hidden=4, outputs=2, dtype=torch.float64):
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).to(dtype)


def batches(steps, size, n=N, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(n, generator=generator)[:size] for _ in range(steps)]


def train(model, x, y, optimizers, *, loss=F.mse_loss, steps=8, size=3, norm=None, value=None, scheduler=None,
          together=False, before_step=None, after_step=None, diary=True, **options):
    """The plainest loop, recorded: mean loss of a batch, backward, clip, step. Returns the run and the diary."""
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    notes = Diary(model, x, y, loss)
    with ks.record(model, (x, y), loss=loss, **options) as recording:
        for k, ids in enumerate(batches(steps, size, len(y))):
            if diary:
                notes.forward(ids, 1 / len(ids), together)
            recording.batch(ids)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            if norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), norm)
            if value is not None:
                nn.utils.clip_grad_value_(model.parameters(), value)
            if before_step is not None:
                before_step(k)
            for optimizer in optimizers:
                notes.step(optimizer, norm, value, keep_passes=optimizer is not optimizers[-1])
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if after_step is not None:
                after_step(k)
    notes.close()
    return recording.run, notes


def relative(found, truth):
    """The largest difference, relative to the largest entry of the truth."""
    scale = float(truth.abs().max())
    error = float((found - truth).abs().max())
    return error / scale if scale else error


def complete(d):
    """The largest residual relative to the sum of the absolute terms, computed from the fields alone."""
    terms = sum(d.channels.values())
    scale = d.initial.abs() + d.contributions.abs().sum(-1) + sum(c.abs() for n, c in d.channels.items() if n != "data")
    return float(((d.final - d.initial - terms).abs() / scale).max())


def share_of(d, channel):
    """The largest amount of a channel, relative to the sum of the absolute terms."""
    scale = d.initial.abs() + d.contributions.abs().sum(-1)
    return float((d.channels[channel].abs() / scale).max())


def assert_the_explicit_shares(d, notes, x, tolerance=1e-10, output=None, momentum=None):
    """Every share, step and channel of the ledger is that of explicit unrolling; returns the oracle's numbers."""
    truth = explicit_shares(notes, x, output, momentum)
    assert float(truth.contributions.abs().max()) > 0
    assert relative(d.contributions, truth.contributions) <= tolerance
    assert relative(d.steps, truth.steps) <= tolerance
    scale = float(truth.contributions.abs().max())
    for channel in ("decay", "momentum"):
        assert float((d.channels[channel] - getattr(truth, channel)).abs().max()) <= tolerance * scale
    return truth
