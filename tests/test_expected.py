"""The expected output of recorded runs, against the average over every sequence of batches there is."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, OutOfBudget, RuleError
from tests.enumeration import reshuffled, with_replacement

ETAS = (0.02, 0.01)
N = 4


def points(seed=0, n=N):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=g, dtype=torch.float64), torch.randn(n, 1, generator=g, dtype=torch.float64)


def network(linear=False, seed=0):
    torch.manual_seed(seed)
    made = nn.Linear(2, 1) if linear else nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return made.double()


QUERIES = torch.tensor([[0.3, -1.1], [0.9, 0.4]], dtype=torch.float64)


def recorded(batches, lr, linear=False, n=N, make=None, **options):
    x, y = points(n=n)
    model = network(linear)
    optimizer = (make or torch.optim.SGD)(model.parameters(), lr=lr, **options)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches:
            ids = torch.as_tensor(ids)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


def slopes(sequences, scheme, **options):
    """By how many powers of the learning rate the mean is missed with the path alone, and with all terms."""
    errors = {"path": [], "noise": []}
    for lr in ETAS:
        missed = {"path": 0.0, "noise": 0.0}
        for batches in sequences:
            found = ks.expected(recorded(batches, lr, **options), QUERIES, data=points(), sampling=scheme,
                                carried=False, progress=False)
            for term in missed:
                missed[term] = missed[term] + (found.final - found.upto(term)) / len(sequences)
        for term in missed:
            errors[term].append(float(missed[term].norm()))
    return [math.log(errors[term][0] / errors[term][1]) / math.log(ETAS[0] / ETAS[1]) for term in errors]


CASES = {
    "sgd": (with_replacement(N, 1, 3), "replacement", {}),
    "batches of two": (with_replacement(N, 2, 2), "replacement", {}),
    "batches without a sample twice": (itertools.product(itertools.combinations(range(N), 2), repeat=2), "independent",
                                       {}),
    "heavy ball": (with_replacement(N, 1, 3), "replacement", {"momentum": 0.6}),
    "nesterov with decay": (with_replacement(N, 1, 3), "replacement",
                            {"momentum": 0.6, "nesterov": True, "weight_decay": 0.1}),
    "reshuffling": (reshuffled(N, 1, 1), "reshuffling", {}),
    "reshuffling twice": (reshuffled(N, 2, 2), "reshuffling", {}),
    "reshuffling batches of two": (reshuffled(N, 2, 1), "reshuffling", {}),
    "reshuffling heavy ball": (reshuffled(N, 1, 1), "reshuffling", {"momentum": 0.6}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_all_sequences_is_met_to_the_third_power(name):
    sequences, scheme, options = CASES[name]
    first, second = slopes(list(sequences), scheme, **options)
    assert first == pytest.approx(2, abs=0.2)
    assert second == pytest.approx(3, abs=0.25)
