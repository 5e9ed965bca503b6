"""What the rows about numbers try things on: small, made once, and the same each time."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks

SAMPLES, FEATURES, CLASSES = 12, 3, 3


def points(n: int = SAMPLES, d: int = FEATURES, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal points, with shape (n, d)."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two layers and three outputs, with the same weights each time; the global random state is left as it was."""
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    seeded(model)
    return model.to(dtype)


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with parameters that a seed alone decides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def classes(n: int = SAMPLES) -> Tensor:
    """Classes in turn, with shape (n,)."""
    return torch.arange(n) % CLASSES


def trained(x: Tensor, y: Tensor, model: nn.Module | None = None, *, steps: int = 6, batch: int = 4,
            spoiled: int | None = None, **options: object) -> ks.Run:
    """A recorded run of a few steps of momentum; ``spoiled`` names a step whose gradient is NaN."""
    model = network(x.dtype) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    with ks.record(model, (x, y), loss=F.cross_entropy, **options) as recording:  # type: ignore[arg-type]
        for step in range(steps):
            rows = [(step * batch + i) % len(x) for i in range(batch)]
            optimizer.zero_grad()
            recording.batch(rows)
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            if step == spoiled:
                first = next(p for p in model.parameters() if p.grad is not None)
                assert first.grad is not None
                first.grad.view(-1)[0] = float("nan")
            optimizer.step()
    return recording.run


@cache
def run(dtype: torch.dtype = torch.float64) -> ks.Run:
    """The run that is asked."""
    return trained(points(dtype=dtype), classes())


@cache
def texts() -> tuple[Tensor, Tensor]:
    """Eight texts of four tokens out of five, and the token that follows each, with shapes (8, 4)."""
    tokens = torch.randint(5, (8, 5), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


class Speaker(nn.Module):
    """The logits of the next token, which the token before it alone decides, with shape (n, 5, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        """A row of the table for each token."""
        return self.table(x).transpose(1, 2)


@cache
def spoken() -> ks.Run:
    """A run of a network that says tokens."""
    return trained(*texts(), seeded(Speaker()).double(), steps=4)


def saved(weight: Tensor | None = None, count: int = 3) -> list[dict[str, Tensor]]:
    """State dictionaries of a linear map from three numbers to two along its training; the last has this weight."""
    found = [{"weight": points(2, 3, seed) / 3, "bias": torch.zeros(2, dtype=torch.float64)} for seed in range(count)]
    if weight is not None:
        found[-1]["weight"] = weight
    return found


def chords(checkpoints: object = None, x: Tensor | None = None, y: Tensor | None = None, **options: object) -> ks.Run:
    """A run from the checkpoints of a linear map."""
    settings = {"model": nn.Linear(3, 2, dtype=torch.float64), "loss": F.mse_loss, "lr": 0.1, **options}
    if checkpoints is None or isinstance(checkpoints, list) and isinstance(checkpoints[0], dict):
        settings = {"steps": [0, 10, 20], **settings}
    return ks.from_checkpoints(saved() if checkpoints is None else checkpoints,
                               data=(points() if x is None else x, points(12, 2, 1) if y is None else y),
                               **settings)  # type: ignore[arg-type]


def symmetric(n: int = 8, seed: int = 0) -> Tensor:
    """A positive definite matrix, with shape (n, n)."""
    a = points(n, n, seed)
    return a @ a.T / n + torch.eye(n, dtype=torch.float64)
