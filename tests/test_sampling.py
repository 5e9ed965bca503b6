"""How batches are drawn: told from a run, drawn again, and what it makes of the noise by exact enumeration."""

import itertools

import pytest
import torch

import kernelscope as ks
from kernelscope.decomposition.stochastic.sampling import SCHEMES, Sampling, sampling_of
from tests.enumeration import reshuffled, with_replacement

N, B = 4, 2


def sequences(scheme):
    if scheme == "replacement":
        return with_replacement(N, B, 2)
    if scheme == "independent":
        return itertools.product(itertools.combinations(range(N), B), repeat=2)
    return reshuffled(N, B, 1)


@pytest.mark.parametrize("scheme", ["replacement", "independent", "reshuffling"])
def test_the_covariances_of_batches_are_those_of_all_sequences(scheme):
    g = torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = (g - g.mean(0)).T @ (g - g.mean(0)) / N
    noises = torch.stack([torch.stack([g[list(batch)].mean(0) - g.mean(0) for batch in batches])
                          for batches in sequences(scheme)])
    sampling = Sampling(scheme, N, (B, B), (0, 0))
    assert torch.allclose(torch.einsum("ja,jb->ab", noises[:, 0], noises[:, 0]) / len(noises), sampling.own(0) * sigma,
                          atol=1e-14)
    assert torch.allclose(torch.einsum("ja,jb->ab", noises[:, 0], noises[:, 1]) / len(noises), -sampling.pair * sigma,
                          atol=1e-14)


@pytest.mark.parametrize("scheme", ["replacement", "independent", "reshuffling"])
@pytest.mark.parametrize(("n", "size"), [(20, 4), (20, 6), (7, 1)])
def test_what_was_drawn_is_told(scheme, n, size):
    steps = [min(size, n - size * (k % -(-n // size))) for k in range(40)] if scheme == "reshuffling" else [size] * 40
    epochs, left, epoch = [], n, 0
    for b in steps:
        epochs.append(epoch)
        left -= b
        if left == 0:
            left, epoch = n, epoch + 1
    drawn = Sampling(scheme, n, tuple(steps), tuple(epochs)).draw(3, torch.Generator().manual_seed(1))
    assert [batch.shape for batch in drawn] == [(3, b) for b in steps]
    for seed in range(3):
        found = sampling_of([batch[seed] for batch in drawn], n)
        # Of one sample at a time both are the same.
        assert found.scheme == ("replacement" if size == 1 and scheme == "independent" else scheme)
        assert found.sizes == tuple(steps)
        if scheme == "reshuffling":
            assert found.epochs == tuple(epochs)


def test_an_incomplete_last_batch_that_is_left_out_ends_the_epoch():
    g = torch.Generator().manual_seed(0)
    batches = [batch for _ in range(3) for batch in torch.randperm(10, generator=g).split(4)[:2]]
    found = sampling_of(batches, 10)
    assert (found.scheme, found.epochs) == ("reshuffling", (0, 0, 1, 1, 2, 2))


def test_batches_in_order_are_fixed():
    once = list(torch.arange(8).split(2))
    assert sampling_of(once, 8).scheme == "fixed"
    assert sampling_of(once + once, 8).scheme == "fixed"
    assert sampling_of([torch.arange(8)] * 3, 8).scheme == "fixed"
    assert all(sampling_of([torch.arange(8)] * 3, 8).own(s) == 0 for s in range(3))


def test_a_scheme_that_is_known_is_not_guessed():
    assert sampling_of([torch.tensor([0, 1])], 4, "replacement").own(0) == 0.5
    with pytest.raises(ks.errors.DataError, match="sampling must be"):
        sampling_of([torch.tensor([0, 1])], 4, "stratified")
    assert set(SCHEMES) == {"replacement", "independent", "reshuffling", "fixed"}
