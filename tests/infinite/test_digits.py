"""Digits, told apart by networks of infinite width."""

import pytest
import torch

import kernelscope as ks
from kernelscope.kernels.infinite import named

#: The share of right answers that each network has, on any split.
SHARES = {"fc3": 0.985, "cnn3": 0.987}


@pytest.mark.parametrize(("name", "seed"), [("fc3", 0), ("fc3", 1), ("cnn3", 0),
                                            pytest.param("cnn3", 1, marks=pytest.mark.slow)])
def test_a_thousand_digits_are_enough_to_know_the_others(name, seed):
    data = ks.data.digits("all")
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))[:1697]
    x = data.x.double().view(-1, 1, 8, 8)[order]
    y = torch.nn.functional.one_hot(data.y[order], 10).double() - 0.1
    kernel = named(name).nngp
    size = float(kernel.diagonal(x[:1000]).mean())
    machine = ks.fit(kernel, x[:1000], y[:1000], ridge=1e-4 * size / 1000, solver="cg", progress=False)
    right = (machine(x[1000:]).argmax(1) == y[1000:].argmax(1)).double().mean()
    assert float(right) >= SHARES[name]
