"""A loop may write other numbers over a gradient that is NaN; the ledger names the step and the samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import NonFiniteError
from tests.recordings import complete, points, queries

NAN = float("nan")


class Root(nn.Module):
    """Its gradient is infinite where the input is nought."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2, bias=False).double()

    def forward(self, x):
        return self.head(x).abs().sqrt()


def plain():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def normed():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


def recorded(model, x, y):
    """Two batches of four, twice; what is NaN in a gradient is set to nought."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for rows in [slice(0, 4), slice(4, 8)] * 2:
            optimizer.zero_grad()
            recording.batch(range(8)[rows])
            F.mse_loss(model(x[rows]), y[rows]).backward()
            for p in model.parameters():
                p.grad.nan_to_num_(0, 0, 0)
            optimizer.step()
    return recording.run


def data(what, *rows):
    x, y = points(8)
    for row in rows:
        if what == "target":
            y[row, 0] = NAN
        else:
            x[row] = NAN if what == "input" else 0.0
    return x, y


@pytest.mark.parametrize(("make", "what", "rows", "sentence"), [
    (plain, "input", [5], "At step 1 the input or the target of sample 5 is NaN or infinite"),
    (normed, "input", [5], "At step 1 the input or the target of sample 5 is NaN or infinite"),
    (plain, "target", [1, 2], "At step 0 the input or the target of samples 1, 2 is NaN or infinite"),
    (Root, "nought", [6], "At step 1 the gradient of the loss of sample 6 is NaN or infinite"),
])
def test_the_step_and_the_samples_are_named(make, what, rows, sentence):
    run = recorded(make(), *data(what, *rows))
    for ask in (ks.decompose, ks.explain):
        with pytest.raises(NonFiniteError, match=f"{sentence}.*nan_to_num_.*Mend these samples.*displacement"):
            ask(run, queries())
    if make is not normed:
        # What the sentence advises: steps are booked whole.
        d = ks.decompose(run, queries(), rule="displacement")
        assert complete(d) <= 1e-12
        assert d.channels["unattributed"].any()
        assert complete(ks.decompose(run[:rows[0] // 4], queries())) <= 1e-12
