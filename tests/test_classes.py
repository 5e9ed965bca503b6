"""What targets say about classes, and whether the names of classes fit them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.run.classes import class_indices, thirds


def record(y, loss, width, steps=2, drawn=None, out=None, **options):
    torch.manual_seed(0)
    x, model = torch.randn(len(y), 3), nn.Linear(3, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=loss, out=out, **options) as recording:
        for _ in range(steps):
            rows = range(len(y)) if drawn is None else drawn
            recording.batch(rows)
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return recording.run


ONES = torch.tensor([0, 1, 1, 0, 1])
MIXED = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
BCE, SMOOTH = F.binary_cross_entropy_with_logits, torch.tensor([0.05, 0.95, 0.95, 0.05, 0.95])


@pytest.mark.parametrize(("targets", "loss", "expected"), [
    (torch.tensor([2, 0, 1]), None, [2, 0, 1]),
    (torch.tensor([2, -100]), None, [2, -100]),
    (ONES.bool(), None, [0, 1, 1, 0, 1]),
    (ONES.float(), None, [0, 1, 1, 0, 1]),
    (ONES.float()[:, None], "mse_loss", [0, 1, 1, 0, 1]),
    (ONES[:, None], None, [0, 1, 1, 0, 1]),
    (SMOOTH, "binary_cross_entropy", [0, 1, 1, 0, 1]),
    (SMOOTH, None, None),
    (SMOOTH * 2, "binary_cross_entropy", None),
    (MIXED, "cross_entropy", [0, 1, 2, 2, 0]),
    (MIXED.half(), None, [0, 1, 2, 2, 0]),
    (MIXED, "mse_loss", None),
    (F.one_hot(ONES, 3).float(), "mse_loss", [0, 1, 1, 0, 1]),
    (MIXED * 2, "cross_entropy", None),
    (MIXED - 1, None, None),
    (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), None, None),
    (torch.randn(4), None, None),
    (torch.randn(4, 2), None, None),
    (torch.zeros(4, 2, 2), None, None),
    (torch.zeros(0), None, None),
])
def test_a_target_is_a_class_if_it_is_an_index_a_mark_or_a_row_of_probabilities(targets, loss, expected):
    found = class_indices(targets, loss)
    assert (found if found is None else found.tolist()) == expected


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("names", [None, ["no", "yes"]])
def test_two_classes_told_apart_by_one_output_have_names(tmp_path, shape, names):
    loss = lambda out, y, **k: BCE(out.reshape(y.shape), y, **k)
    for given in (BCE, nn.BCEWithLogitsLoss()) if shape == (5, 1) else (loss,):
        run = record(ONES.float().reshape(shape), given, 1, class_names=names)
        no, yes = names or ["0", "1"]
        assert run.class_names == [no, yes]
        assert run.labels == [no, yes, yes, no, yes]
        assert run.is_classification


def test_rows_of_probabilities_name_the_largest():
    run = record(MIXED, F.cross_entropy, 3, class_names=["a", "b", "c"])
    assert (run.labels, run.is_classification) == (["a", "b", "c", "c", "a"], True)
    part = record(MIXED, F.cross_entropy, 3, drawn=[3, 1, 0])
    assert part.labels == ["0", "1", "never drawn", "2", "never drawn"]
    assert part.class_names == ["0", "1", "2"]


def test_quantities_are_low_middle_or_high():
    y = torch.tensor([0.5, -3.0, 2.0, 0.1, 7.0, -0.123456])
    for shape in ((6,), (6, 1)):
        loss = lambda out, t, **k: F.mse_loss(out.reshape(t.shape), t, **k)
        run = record(y.reshape(shape), loss, 1)
        assert run.labels == ["middle", "low (≤ −0.123)", "high (> 0.5)", "middle", "high (> 0.5)", "low (≤ −0.123)"]
        assert (run.class_names, run.is_classification) == (None, False)
    assert record(torch.randn(6, 2), F.mse_loss, 2).labels is None
    assert thirds(torch.ones(9)) is None
    assert thirds(torch.tensor([1.0, 2.0])) is None
    assert sorted(map(thirds(torch.arange(300.0)).count, {"middle", "low (≤ 99)", "high (> 199)"})) == [100] * 3


@pytest.mark.parametrize(("names", "sentence"), [
    ("ab", "a word for each class; 'ab' came"),
    (3, "a word for each class; 3 came"),
    ([], "none came"),
    ([0, 1, 2], r"words, one for each class; 0 is among them.*\[str\(name\) for name in names\]"),
    (["a", "b", "a"], "'a' comes twice"),
    (["a", "b"], "each of the 3 classes that the network tells apart; 2 came"),
    (list("abcd"), "each of the 3 classes that the network tells apart; 4 came"),
])
def test_names_that_do_not_fit_are_refused_before_the_first_step(tmp_path, names, sentence):
    for y in (torch.arange(6) % 3, F.one_hot(torch.arange(6) % 3).float()):
        with pytest.raises(DataError, match=sentence):
            record(y, F.cross_entropy, 3, class_names=names, out=tmp_path / "run")


def test_two_classes_need_two_names():
    with pytest.raises(DataError, match="each of the 2 classes that the network tells apart; 3 came"):
        record(ONES.float()[:, None], BCE, 1, class_names=["a", "b", "c"])


def test_names_come_in_any_kind_of_list():
    for names in (("a", "b", "c"), np.array(["a", "b", "c"])):
        assert record(torch.arange(6) % 3, F.cross_entropy, 3, class_names=names).class_names == ["a", "b", "c"]
