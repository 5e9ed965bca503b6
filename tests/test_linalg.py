"""What is known of a matrix by its products alone is what is known of the matrix."""

import math

import pytest
import torch

from kernelscope import KernelOperator, linalg
from kernelscope.errors import DataError
from tests.maps import Laplacian, Lopsided, tangent
from tests.networks import vectors

N = 60
SPECTRA = {
    "falling": 1 / torch.arange(1, N + 1) ** 2,
    "falling by half each": 0.5 ** torch.arange(N),
    "even": torch.linspace(1, 2, N),
    "close together": torch.cat([torch.full((5,), 3.0), torch.full((6,), 2.9999), torch.linspace(0, 2, N - 11)]),
    "of both signs": torch.linspace(-3, 2, N),
    "all below nought": torch.linspace(-3, -1, N),
    "of low rank": torch.cat([torch.ones(3), torch.zeros(N - 3)]),
    "nought": torch.zeros(N),
}


def matrix(spectrum):
    turn = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0]
    return (turn * spectrum.double()) @ turn.T


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("room", [2**28, 1])
@pytest.mark.parametrize("k", [1, 4, 20, N])
def test_eigenpairs_are_the_largest_of_the_matrix(spectrum, k, room, monkeypatch):
    monkeypatch.setattr(linalg, "ROOM", room)
    K = matrix(spectrum)
    found = linalg.eigenpairs(lambda v: K @ v, N, k)
    true = torch.linalg.eigvalsh(K).flip(0)[:k]
    assert found.converged
    assert (found.values - true).abs().max() <= 1e-10
    assert (found.vectors.T @ found.vectors - torch.eye(k)).abs().max() < 1e-12
    gaps = (K @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert (found.residuals - gaps).abs().max() < 1e-14
    # Each true eigenvalue is as near as the residual says.
    assert ((found.values - true).abs() <= found.residuals + 1e-12).all()


def test_a_basis_that_has_no_room_is_started_again(monkeypatch):
    widths = []

    def multiply(v):
        widths.append(v.shape[1])
        return K @ v

    K = matrix(SPECTRA["of both signs"])
    monkeypatch.setattr(linalg, "ROOM", 1)
    linalg.eigenpairs(multiply, N, 2)
    assert sum(widths) > N


def test_a_search_that_is_broken_off_says_so():
    K = matrix(SPECTRA["even"])
    with pytest.warns(UserWarning, match=r"have not converged: after 2 products the largest residual is"):
        found = linalg.eigenpairs(lambda v: K @ v, N, 3, passes=2)
    assert not found.converged
    assert "not converged" in repr(found)
    # What a residual says holds for what is unfinished too.
    true = torch.linalg.eigvalsh(K)
    assert ((found.values[:, None] - true).abs().min(1).values <= found.residuals).all()


def test_rounded_products_are_iterated_as_far_as_they_go():
    K = matrix(SPECTRA["falling"])
    found = linalg.eigenpairs(lambda v: K.float() @ v.float(), N, 4)
    assert found.converged
    assert found.values.dtype == torch.float64
    assert (found.values - torch.linalg.eigvalsh(K).flip(0)[:4]).abs().max() < 1e-6


def test_columns_are_multiplied_together():
    calls = []

    def multiply(v):
        calls.append(v.shape[1])
        return K @ v

    K = matrix(SPECTRA["falling by half each"])
    linalg.eigenpairs(multiply, N, 6)
    assert len(calls) <= 6


@pytest.mark.parametrize("shape", [(30, 18), (18, 30)])
def test_norms_of_a_matrix_that_is_not_square(shape):
    A = torch.randn(*shape, dtype=torch.float64)
    there, back = (lambda v: A @ v), (lambda v: A.T @ v)
    spectral = linalg.spectral(there, back, shape[1])
    assert abs(float(spectral) - float(torch.linalg.matrix_norm(A, 2))) < 1e-10
    many = linalg.frobenius(there, back, shape[1], probes=3 * 30)
    assert abs(float(many) - float(A.norm())) < 1e-10


@pytest.mark.parametrize("name", ["falling", "even", "of both signs"])
def test_a_trace_is_right_on_average_and_off_by_what_is_said(name):
    K = matrix(SPECTRA[name])
    found = [linalg.trace(lambda v: K @ v, N, 24, seed) for seed in range(300)]
    gaps = torch.tensor([estimate.value for estimate in found]) - float(K.trace())
    said = math.sqrt(sum(estimate.error**2 for estimate in found) / len(found))
    assert abs(float(gaps.mean())) < 3.5 * said / math.sqrt(len(found))
    assert 0.8 < float(gaps.square().mean().sqrt()) / said < 1.25


def test_a_norm_is_off_by_what_is_said():
    A = matrix(SPECTRA["even"])
    found = [linalg.frobenius(lambda v: A @ v, lambda v: A.T @ v, N, 24, seed) for seed in range(300)]
    gaps = torch.tensor([estimate.value for estimate in found]) - float(A.norm())
    said = math.sqrt(sum(estimate.error**2 for estimate in found) / len(found))
    assert 0.8 < float(gaps.square().mean().sqrt()) / said < 1.25


def test_where_a_few_directions_are_most_of_the_trace_few_probes_are_enough():
    K = matrix(SPECTRA["falling by half each"])
    signs = torch.randint(2, (N, 30)).double() * 2 - 1
    plain = (signs * (K @ signs)).sum(0)
    found = linalg.trace(lambda v: K @ v, N, 30)
    assert found.error < 0.02 * float(plain.std()) / math.sqrt(30)
    assert abs(float(found) - float(K.trace())) < 4 * found.error


def test_the_random_numbers_of_the_user_are_left_alone():
    before = torch.get_rng_state()
    K = matrix(SPECTRA["even"])
    state = torch.get_rng_state()
    assert not torch.equal(before, state)
    linalg.trace(lambda v: K @ v, N, 12)
    linalg.eigenpairs(lambda v: K @ v, N, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("probes", [0, 5, 2.0, True])
def test_an_error_needs_several_probes(probes):
    with pytest.raises(DataError, match="at least 6 probes"):
        KernelOperator(Laplacian(), vectors(8)).trace(probes)


@pytest.mark.parametrize("k", [0, 9, -1, 2.0, True])
def test_eigenpairs_that_do_not_exist_are_refused(k):
    with pytest.raises(DataError, match="1 to 8 eigenpairs"):
        KernelOperator(Laplacian(), vectors(8)).eigenpairs(k)


def test_a_matrix_of_two_sets_of_points_has_norms_and_no_trace():
    K = KernelOperator(Laplacian(), vectors(8), vectors(5))
    assert abs(float(K.norm("spectral")) - float(torch.linalg.matrix_norm(K.dense(), 2))) < 1e-10
    with pytest.raises(DataError, match="Only a square operator has a trace"):
        K.trace()
    with pytest.raises(DataError, match=r"symmetric operator; this one, with shape \(8, 5\), is not"):
        K.eigenpairs(2)
    with pytest.raises(DataError, match="symmetric operator"):
        KernelOperator(Lopsided(), vectors(8)).eigenpairs(2)
    with pytest.raises(DataError, match="\"frobenius\" or \"spectral\"; 'nuclear' came"):
        K.norm("nuclear")


def test_estimates_and_eigenpairs_tell_what_they_are(dtype, device):
    K = KernelOperator(tangent(dtype, device), vectors(8).to(device, dtype))
    assert repr(K.trace()).endswith("(exact)")
    assert "standard error, 9 probes" in repr(K.trace(probes=9))
    assert "residual of its vector" in repr(K.norm("spectral"))
    assert repr(K.eigenpairs(3)).startswith("3 eigenpairs: eigenvalues ")
