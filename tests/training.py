"""A data set that knows its indices, and a diary of what each optimizer step really used."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from kernelscope.run.replay import mean_loss


class Points(Dataset):
    """Points with targets and their own index; ``noise`` draws another input every time."""

    def __init__(self, n=24, noise=0.0, broken=(), dtype=torch.float64):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype)
        self.y = torch.randn(n, 2, generator=generator, dtype=torch.float64).to(dtype)
        self.noise, self.broken = noise, set(broken)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i in self.broken:
            raise OSError(f"sample {i} cannot be read")
        return self.x[i] + self.noise * torch.randn(3, dtype=self.x.dtype), int(i), self.y[i]


def split(batch):
    return batch[0], batch[2]


def network(dropout=0.0, norm=False):
    middle = [nn.BatchNorm1d(5)] if norm else []
    return nn.Sequential(nn.Linear(3, 5), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 2)).double()


class Truth:
    """The gradients that an optimizer used, and the ids that its loop says were behind them."""

    def __init__(self, *optimizers):
        self.gradients, self.ids = [], []
        self.now = []
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self.note)

    def note(self, optimizer, args, kwargs):
        self.gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])
        self.ids.append(list(self.now))
        self.now = []

    def hold(self, run, names=None):
        """The run names the same samples, and its recorded passes give the same gradients."""
        assert len(run) == len(self.gradients) == len(self.ids) > 0
        for k, (gradients, ids) in enumerate(zip(self.gradients, self.ids, strict=True)):
            step = run.step(k)
            found = [[run.samples.ids[c] for c in batch.columns.tolist()] for batch in step.batches]
            assert found == [torch.as_tensor(part).tolist() for part in ids], k
            parts = []
            for batch in step.batches:
                theta = {n: p.requires_grad_() for n, p in run.named(run.trajectory(batch.at, batch.at)[0]).items()}
                moved = [n for group in step.groups for n in group["names"]]
                parts.append(torch.autograd.grad(mean_loss(run, batch, k, theta), [theta[n] for n in moved]))
            for given, *means in zip(gradients, *parts, strict=True):
                torch.testing.assert_close(sum(means) / len(means), given, rtol=1e-9, atol=1e-12)


def step(model, optimizer, x, y, truth, ids, loss=F.mse_loss):
    truth.now.append(ids)
    optimizer.zero_grad()
    loss(model(x), y).backward()
    optimizer.step()
