"""Samples are the same where their content is, wherever they stand and in whatever form they came."""

import pytest
import torch
import torch.nn.functional as F

from kernelscope.diagnostics.comparing.matching import matched
from tests.comparing_runs.runs import data, record

X, Y = data(20)


def run(x, y, **options):
    return record(x, y, steps=8, batch=len(x), **options)


BASE = run(X, Y)


def pairs(found):
    """The ids that are the same sample in both."""
    return {(found.a.ids[i], found.b.ids[j]) for i, j in found.pairs.tolist()}


def test_the_same_data_in_another_order_are_the_same():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    found = matched(BASE, run(X[order], Y[order]), "content")
    assert pairs(found) == {(int(order[j]), j) for j in range(20)}
    assert found.said() == "20 and 20 samples, the same"


def test_it_counts_samples_that_differ_and_names_those_with_other_targets():
    x, y = X.clone(), Y.clone()
    x[:3] += 1
    y[5] = (y[5] + 1) % 3
    found = matched(BASE, run(x, y), "content")
    assert found.only == (4, 4)
    assert found.said() == "20 and 20 samples, 4 differ, 1 of them with the same input and another target"
    assert matched(BASE, run(x, y), "input").only == (3, 3)
    assert matched(BASE, run(x, y), "id").only == (0, 0)


def test_a_part_of_the_data_leaves_samples_to_the_first_alone():
    found = matched(BASE, run(X[:14], Y[:14]), "content")
    assert found.said() == "20 and 14 samples, 6 only in the first and 0 only in the second"


def test_copies_are_one_sample_and_their_shares_are_added():
    found = matched(BASE, run(torch.cat([X, X[:2]]), torch.cat([Y, Y[:2]])), "content")
    assert found.only == (0, 0)
    assert (len(found.b), found.b.drawn) == (20, 22)
    shares = torch.arange(22.0).expand(3, 1, 22)
    assert found.b.pooled(shares)[0, 0].tolist() == [20.0, 22.0, *range(2, 20)]
    assert "0 and 2 copies" in found.said()


@pytest.mark.parametrize("form", ["float32", "negative nought", "one-hot", "int32"])
def test_the_form_of_numbers_does_not_matter(form):
    x, y, loss = X, Y, F.cross_entropy
    if form == "float32":
        x = X.float()
    if form == "negative nought":
        zeros = X.clone()
        zeros[0] = 0.0
        a, b = run(zeros, Y), run(torch.where(zeros == 0, -0.0, zeros), Y)
        assert matched(a, b, "content").only == (0, 0)
        return
    if form == "one-hot":
        y = F.one_hot(Y, 3).double()
    if form == "int32":
        # Whole numbers of a narrower kind.
        a, b = run(X.round(), Y), run(X.round().float(), Y)
        assert matched(a, b, "content").only == (0, 0)
        return
    assert matched(BASE, run(x, y, loss=loss), "content").only == (0, 0)


def test_rows_of_another_length_share_nothing():
    found = matched(BASE, run(torch.cat([X, X[:, :1]], 1), Y), "content")
    assert not len(found.pairs)


def test_samples_that_were_never_drawn_take_no_part():
    few = record(X, Y, steps=1, batch=4)
    found = matched(BASE, few, "content")
    assert len(found.b) == 4
    assert int((found.b.places >= 0).sum()) == 4
