"""Other ways to fine-tune a network of which nearly everything stays frozen."""

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Bottleneck(nn.Module):
    """The adapter of Pfeiffer et al. (2021): x + U relu(D x + c) + b, with r hidden neurons and U nought at first."""

    def __init__(self, d: int, r: int):
        super().__init__()
        self.down, self.up = nn.Linear(d, r), nn.Linear(r, d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.relu(self.down(x)))


class Shift(nn.Module):
    """A trained constant, x + b: an adapter with no features."""

    def __init__(self, d: int):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b


class LowRank(nn.Module):
    """A change of a weight matrix of low rank, W + U V (Hu et al., 2022), with U nought at first."""

    def __init__(self, outputs: int, inputs: int, r: int):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.zeros(outputs, r)), nn.Parameter(torch.empty(r, inputs))
        nn.init.kaiming_uniform_(self.v, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.u @ self.v


def frozen(model: nn.Module, *trained: str) -> nn.Module:
    """A copy of which only the parameters of some children are trained."""
    model = copy.deepcopy(model)
    for name, p in model.named_parameters():
        p.requires_grad_(name.split(".")[0] in trained)
    return model


def appended(model: nn.Module, layers: Iterable[str], adapter: type[nn.Module], *sizes: int) -> nn.Module:
    """A copy with an adapter of its own at the end of each of some chains of layers, and a head to be trained."""
    model = frozen(model, "head")
    for name in layers:
        chain = model.get_submodule(name)
        assert isinstance(chain, nn.Sequential)
        chain.append(adapter(*sizes))
    return model


def low_rank(model: nn.Module, layers: Iterable[str], r: int) -> nn.Module:
    """A copy with changes of low rank in some linear layers, and a head to be trained."""
    model = frozen(model, "head")
    for name in layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        parametrize.register_parametrization(layer, "weight", LowRank(layer.out_features, layer.in_features, r))
    return model
