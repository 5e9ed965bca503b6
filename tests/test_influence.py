"""The metagradient is the derivative of training itself, through everything that each optimizer does."""

import copy

import pytest
import torch
import torch.nn.functional as F

import kernelscope as ks
from tests.recordings import points, queries, relative, train
from tests.unrolled import adam, metagradient, sgd, tiny

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "dampened": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "maximize": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "maximize": True}),
    "adam": (torch.optim.Adam, {"lr": 0.05}),
    "adam decay": (torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.05, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.02}),
    "rmsprop centered": (torch.optim.RMSprop, {"lr": 0.02, "centered": True, "momentum": 0.8, "alpha": 0.9}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.05}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0, "eps": 1e-3}),
    "nadam": (torch.optim.NAdam, {"lr": 0.05, "weight_decay": 0.02}),
    "radam": (torch.optim.RAdam, {"lr": 0.05}),
    "adamax": (torch.optim.Adamax, {"lr": 0.05}),
}


def by_hand(kind, options):
    """The step written out, where torch has none that can be differentiated to the last digit."""
    if kind is torch.optim.SGD:
        return sgd(**options)
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        return adam(**options, decoupled=kind is torch.optim.AdamW)
    return None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_metagradient_is_that_of_automatic_differentiation_through_training(name):
    kind, options = OPTIMIZERS[name]
    (x, y), z, model = points(), queries(), tiny()
    truth, values = metagradient(copy.deepcopy(model), x, y, z, lambda p: kind(p, **options, differentiable=True),
                                 own=by_hand(kind, options), loss=F.mse_loss)
    run, _ = train(model, x, y, kind(model.parameters(), **options), diary=False)
    found = ks.influence(run, z)
    assert float(truth.abs().max()) > 1e-4
    # NAdam keeps the product of its momenta in float32.
    assert relative(found.influences, truth) <= (1e-6 if name == "nadam" else 1e-9)
    assert relative(found.values, values) <= 1e-6
    assert found.check().ok
