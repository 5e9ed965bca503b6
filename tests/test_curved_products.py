"""Products with the root of a Gauss-Newton matrix, beside the root itself."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import kernelscope as ks
from kernelscope.decomposition.influence.curved import Curved, members_of
from kernelscope.decomposition.influence.curved_products import ByPasses, ByRows, products_of
from kernelscope.network import cast, undisturbed
from kernelscope.progress import Bar


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.attend(x, x, x, need_weights=False)[0].mean(1))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Own(nn.Module):
    def forward(self, x):
        return Doubled.apply(x).tanh()


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.out = nn.Embedding(3, 4, padding_idx=0), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.word(x).tanh().mean(1))


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.hidden(x)
        with torch.no_grad():
            gate = h.sigmoid()
        return self.out(torch.where(x[:, :1] > 0, h * gate, h))


NETWORKS = {
    "dense": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,), ByPasses),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)), (1, 4, 4),
                    ByPasses),
    "attention": (Attending, (3, 4), ByPasses),
    "that cannot be transformed": (lambda: nn.Sequential(nn.Linear(4, 5), Own(), nn.Linear(5, 3)), (4,), ByRows),
}


@contextmanager
def curved(name, memory):
    make, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    model, x, y = make().double(), torch.randn(7, *shape).double(), torch.arange(7) % 3
    with ks.record(model, (x, y), loss=F.cross_entropy) as recording:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    run = recording.run
    to = lambda value: cast(value, torch.float64, torch.device("cpu"))
    with undisturbed(torch.device("cpu")):
        yield Curved(run, members_of(run, to), to(run.parameters(1)), to(run.buffers(1)), list(run.names), memory,
                     Bar(disable=True))


@pytest.mark.parametrize("memory", [2**29, 4000])
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_root(name, memory):
    with curved(name, memory) as own:
        W = torch.cat([rows for _, rows in own.rows()])
        assert W.shape == (7 * own.width, own.size)
        v, u = torch.randn(own.size, 5).double(), torch.randn(len(W), 5).double()
        chosen = products_of(own)
        assert type(chosen) is NETWORKS[name][2]
        for products in (chosen, ByRows(own)):
            for found, true in ((products.out(v), W @ v), (products.back(u), W.T @ u),
                                (products.square(v), W.T @ (W @ v))):
                torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-13)


def test_the_root_is_that_of_the_curvature():
    with curved("dense", 2**29) as own:
        W = torch.cat([rows for _, rows in own.rows()])
        theta, model = {name: own.parameters[name] for name in own.names}, NETWORKS["dense"][0]().double()
        whole = torch.zeros(own.size, own.size).double()
        for i in range(7):
            of = lambda p, i=i: functional_call(model, p, (own.members.inputs[0][i:i + 1],))[0]
            J = torch.cat([part.flatten(1) for part in torch.func.jacrev(of)(theta).values()], 1)
            p = of(theta).softmax(0)
            whole += J.T @ (p.diag() - p[:, None] * p) @ J
        torch.testing.assert_close(W.T @ W, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["padding", "no_grad"])
def test_passes_that_part_on_few_samples_are_not_taken(name):
    torch.manual_seed(0)
    if name == "padding":
        # The first two samples, on which passes are compared with rows, have none.
        model, x = Padded().double(), torch.tensor([[1, 2], [2, 1], [1, 1], [2, 2], [1, 0]])
    else:
        model, x = Held().double(), torch.randn(5, 4).double()
        x[:, 0] = torch.tensor([-1.0, -1.0, -1.0, 1.0, -1.0])
    y = torch.arange(5) % 3
    with ks.record(model, (x, y), loss=F.cross_entropy) as recording:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    asked = {"method": "gauss-newton", "damping": 1e-2}
    dense = ks.influence(recording.run, x[:2], **asked)
    small = ks.influence(recording.run, x[:2], memory=2000, **asked)
    assert "products" in small.info["solver"]
    assert "Cholesky" in dense.info["solver"]
    torch.testing.assert_close(small.influences, dense.influences, rtol=1e-8, atol=1e-10)
