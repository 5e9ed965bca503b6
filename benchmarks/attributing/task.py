"""The task: a recorded training on handwritten digits, held-out digits, and checkpoints from other starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kernelscope as ks
from kernelscope.run.run import Run

TRAIN, TEST, STEPS, RATE, MOMENTUM = 500, 100, 150, 0.1, 0.9
ACTIVATIONS = {"ReLU": nn.ReLU, "tanh": nn.Tanh}

#: How many checkpoints the methods with several of them get.
CHECKPOINTS = 10

#: The first seed of checkpoints from other starts, others than those that are judged by.
SEED = 50_000


@dataclass(frozen=True)
class Task:
    """All that a contender may know: the run, its samples, the queries, and networks trained from other starts.

    Attributes:
        run: The recorded run.
        x: The training inputs.
        y: Their targets.
        queries: The held-out inputs.
        aims: Their targets.
        others: The parameters of networks of the same training from other starts, each stacked in the first axis.
        activation: The word of the activation.
    """

    run: Run
    x: Tensor
    y: Tensor
    queries: Tensor
    aims: Tensor
    others: dict[str, Tensor]
    activation: str

    def model(self, state: dict[str, Tensor] | None = None) -> nn.Module:
        """The trained network in float32, or another one of its kind."""
        model = network(self.activation)
        model.load_state_dict(self.run.parameters() if state is None else state)
        return model.float().eval()

    def other(self, i: int) -> dict[str, Tensor]:
        """The parameters of one of the networks from other starts."""
        return {name: value[i] for name, value in self.others.items()}


def network(activation: str) -> nn.Module:
    """The network 64-32-10."""
    return nn.Sequential(nn.Linear(64, 32), ACTIVATIONS[activation](), nn.Linear(32, 10)).double()


def make(folder: Path, activation: str) -> None:
    """Trains and records the network, and trains the others."""
    data = ks.data.digits("all")
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
    x, y = data.x[order].double(), data.y[order]
    held = {"x": x[:TRAIN], "y": y[:TRAIN], "queries": x[TRAIN:TRAIN + TEST], "aims": y[TRAIN:TRAIN + TEST]}
    torch.manual_seed(0)
    model = network(activation)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    with ks.record(model, (held["x"], held["y"]), loss=F.cross_entropy, out=folder / "run") as recording:
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(model(held["x"]), held["y"]).backward()
            optimizer.step()
    others = ks.retrain(recording.run, [range(TRAIN)], seeds=range(SEED, SEED + CHECKPOINTS), start="anew")
    save_file({name: value.contiguous() for name, value in held.items()}, folder / "data.safetensors")
    save_file({name: value[:, 0].contiguous() for name, value in others.parameters.items()},
              folder / "others.safetensors")


def opened(folder: Path, activation: str) -> Task:
    """The task in a folder."""
    held = load_file(folder / "data.safetensors")
    return Task(ks.load(folder / "run"), *(held[name] for name in ("x", "y", "queries", "aims")),
                load_file(folder / "others.safetensors"), activation)
