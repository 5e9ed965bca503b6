"""A drawing that was made without axes is a picture in a notebook."""

from functools import cache

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

import kernelscope as ks


@cache
def ledger():
    x, model = torch.linspace(-1, 1, 12).reshape(4, 3), torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, x[:, :2]), loss=F.mse_loss) as recording:
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), x[:, :2]).backward()
            optimizer.step()
    return ks.decompose(recording.run, x[:1])


def test_a_notebook_shows_what_was_drawn_and_pyplot_keeps_nothing():
    before = plt.get_fignums()
    drawn = ledger().plot()
    png = drawn._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 5000
    assert repr(drawn).startswith("<Axes")
    assert plt.get_fignums() == before
    figure, ax = plt.subplots()
    assert not hasattr(ledger().plot(ax), "_repr_png_")
    plt.close(figure)


def test_axes_that_were_taken_off_their_figure_show_nothing():
    drawn = ledger().plot()
    drawn.remove()
    assert drawn._repr_png_() is None
