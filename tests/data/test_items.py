"""Samples of data sets and loaders are points in the order of the loader, and reading them leaves everything alone."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler, Subset, TensorDataset, WeightedRandomSampler

from kernelscope.data.points import as_points
from kernelscope.errors import DataError
from tests.points import N, Samples, X, Y, pairs, same


def test_a_loader_that_drops_its_last_batch_has_these_points_less():
    points = as_points(pairs(drop_last=True), targets=True)
    assert len(points) == 8
    same(points.part(4, 8), X[4:8], Y[4:8])


def test_the_order_of_a_sampler_is_kept():
    numbers = [5, 2, 9, 0]
    points = as_points(DataLoader(Samples(lambda i: (X[i], Y[i])), sampler=numbers, batch_size=3), targets=True)
    same(points.part(0, 4), X[numbers], Y[numbers])
    batches = [[5, 2], [9], [0]]
    points = as_points(DataLoader(TensorDataset(X, Y), batch_sampler=batches), targets=True)
    same(points.part(1, 4), X[numbers[1:]], Y[numbers[1:]])


def test_the_own_collate_of_a_loader_is_called():
    def twice(samples):
        return torch.stack([2 * x for x, _ in samples]), torch.tensor([y for _, y in samples])

    points = as_points(pairs(collate_fn=twice), targets=True)
    same(points.part(3, 6), 2 * X[3:6], Y[3:6])
    same(points.chosen([8, 1]).part(0, 2), 2 * X[[8, 1]], Y[[8, 1]])


def test_a_collate_that_pads_is_called_with_all_samples_of_a_choice():
    lengths = [2, 5, 3, 4]
    pad = lambda samples: torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    points = as_points(DataLoader(Samples(lambda i: torch.ones(lengths[i]), 4), batch_size=2, collate_fn=pad))
    assert points.part(0, 4).args[0].shape == (4, 5)
    assert points.chosen([2, 3]).part(0, 2).args[0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_loader_whose_batches_differ_in_shape_is_told_that_they_must_go_together():
    ragged = Samples(lambda i: torch.ones(2 + i // 4))
    points = as_points(DataLoader(ragged, batch_size=4))
    assert points.part(4, 8).args[0].shape == (4, 3)
    with pytest.raises(DataError, match="another size than the batches of the loader.*pads"):
        points.part(0, N)
    with pytest.raises(DataError, match="tensors of one shape.$"):
        as_points(ragged).part(0, N)


class Restless(Sampler):
    def __iter__(self):
        return iter(torch.randperm(N).tolist())

    def __len__(self):
        return N


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 0


@pytest.mark.parametrize("options", [
    {"shuffle": True, "batch_size": 4},
    {"sampler": WeightedRandomSampler(torch.ones(N), N), "batch_size": 4},
    {"sampler": torch.utils.data.SubsetRandomSampler(range(4))},
    {"sampler": Restless(), "batch_size": 4},
    {"sampler": Endless(), "batch_size": 4},
    {"batch_sampler": BatchSampler(Restless(), 4, drop_last=False)},
    {"batch_sampler": BatchSampler(torch.utils.data.RandomSampler(X), 4, drop_last=False)},
    {"sampler": torch.utils.data.DistributedSampler(X, num_replicas=1, rank=0, shuffle=True), "batch_size": 4},
], ids=["shuffle", "weighted", "subset", "own sampler", "endless", "own batches", "random batches", "distributed"])
def test_a_loader_that_shuffles_is_refused(options):
    with pytest.raises(DataError, match="shuffles.*shuffle=False"):
        as_points(DataLoader(TensorDataset(X, Y), **options), targets=True)


def test_a_loader_without_batches_is_refused():
    with pytest.raises(DataError, match="batch_size=None"):
        as_points(DataLoader(Samples(lambda i: (X[i:i + 2], Y[i:i + 2])), batch_size=None))


def test_a_part_of_a_data_set_is_points():
    same(as_points(Subset(TensorDataset(X, Y), [4, 2]), targets=True).part(0, 2), X[[4, 2]], Y[[4, 2]])


# -- what is left alone ----------------------------------------------------------------------------------------------


def noisy(i):
    return X[i] + torch.randn(3) + random.random() + np.random.rand(), Y[i]  # noqa: NPY002


def state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("source", [Samples(noisy), DataLoader(Samples(noisy), batch_size=4),
                                    DataLoader(Samples(lambda i: (X[i], Y[i])), sampler=[3, 1]), [X[0], X[1]]])
def test_reading_leaves_the_random_state_alone(source):
    before = state()
    points = as_points(source)
    points.part(0, 2), points.chosen([1]).part(0, 1)
    assert state() == before


def test_a_data_set_that_draws_random_numbers_gives_the_same_point_whenever_it_is_read():
    points = as_points(Samples(noisy))
    whole = points.part(0, N).args[0]
    torch.randn(5), random.random()
    assert torch.equal(points.part(4, 7).args[0], whole[4:7])
    assert torch.equal(points.chosen([9, 2]).part(0, 2).args[0], whole[[9, 2]])
    assert not torch.equal(whole[1] - X[1], whole[0] - X[0])


def test_workers_are_not_started(monkeypatch):
    monkeypatch.setattr(DataLoader, "__iter__", lambda _: pytest.fail("the loader was started"))
    as_points(pairs(num_workers=2), targets=True).part(0, 3)
