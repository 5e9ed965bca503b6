"""What GPyTorch does with a kernel matrix and with a kernel is what dense algebra does."""

import math

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.integrations import as_gpytorch_kernel, as_linear_operator
from kernelscope.kernels import Laplacian
from tests import tiled
from tests.laws import assert_close, random_like

linear_operator = pytest.importorskip("linear_operator")
gpytorch = pytest.importorskip("gpytorch")

K = Laplacian(2.0)
X, Y = tiled.samples()
TRUE = K(X)


@pytest.fixture(params=["tiles", "operator"])
def matrix(request, tmp_path):
    if request.param == "operator":
        return ks.KernelOperator(K, X)
    tiles = ks.Tiles(K, X, tmp_path / "tiles", side=64, memory=1)
    tiles.build()
    return tiles


def test_products_shape_and_diagonal_are_those_of_the_matrix(matrix):
    operator, v = as_linear_operator(matrix), random_like((len(X), 3), X)
    assert operator.shape == TRUE.shape
    assert (operator.dtype, operator.device) == (TRUE.dtype, TRUE.device)
    assert_close(operator @ v, TRUE @ v, 1e-12)
    assert_close(operator @ v[:, 0], TRUE @ v[:, 0], 1e-12)
    assert_close(operator.mT @ v, TRUE @ v, 1e-12)
    assert_close(operator @ torch.stack([v, 2 * v]), torch.stack([TRUE @ v, 2 * TRUE @ v]), 1e-12)
    assert_close(operator.diagonal(), TRUE.diagonal(), 1e-12)
    assert_close(operator.to_dense(), TRUE, 1e-12)
    assert_close(operator[3:5, 290:].to_dense(), TRUE[3:5, 290:], 1e-12)
    rows, columns = torch.tensor([3, 3, 299]), torch.tensor([7, 8, 299])
    assert_close(operator[rows, columns], TRUE[rows, columns], 1e-12)


def test_a_matrix_that_is_not_square_is_transposed():
    operator, v = as_linear_operator(ks.KernelOperator(K, X[:20], X)), random_like((20, 2), X)
    assert operator.shape == (20, len(X))
    assert_close(operator.mT @ v, TRUE[:20].T @ v, 1e-12)


def test_conjugate_gradients_and_log_determinants_of_linear_operator(matrix):
    added = as_linear_operator(matrix).add_diagonal(torch.tensor(0.5, dtype=torch.float64))
    solved = linear_operator.utils.linear_cg(added.matmul, Y, tolerance=1e-5, max_iter=500, max_tridiag_iter=20)
    true = TRUE + 0.5 * torch.eye(len(X))
    assert_close(solved, torch.linalg.solve(true, Y), 1e-4)
    generator = torch.random.get_rng_state()
    with (linear_operator.settings.max_cholesky_size(1), linear_operator.settings.cg_tolerance(1e-5),
          linear_operator.settings.num_trace_samples(30)):
        torch.manual_seed(0)
        quad, logdet = added.inv_quad_logdet(Y, logdet=True)
    torch.random.set_rng_state(generator)
    assert float(quad) == pytest.approx(float((Y * torch.linalg.solve(true, Y)).sum()), rel=1e-4)
    assert float(logdet) == pytest.approx(float(torch.logdet(true)), abs=0.1 * math.sqrt(len(X)))


class Process(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood):
        super().__init__(x, y, likelihood)
        self.mean, self.covariance = gpytorch.means.ZeroMean(), as_gpytorch_kernel(K)

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.covariance(x))


def test_the_mean_of_an_exact_process_is_the_machine_with_the_noise_as_ridge():
    noise, x, y, others = 0.3, X[:250], Y[:250, 0], X[250:]
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = noise
    process = Process(x, y, likelihood).double().eval()
    with torch.no_grad():
        found = process(others)
    machine = ks.fit(K, x, y, ridge=noise / len(x), progress=False)
    assert_close(found.mean, machine(others), 1e-8)
    cross = K(others, x)
    true = K.diagonal(others) - (cross * torch.linalg.solve(K(x) + noise * torch.eye(250), cross.T).T).sum(1)
    assert_close(found.variance, true, 1e-8)


def test_points_of_two_sets_have_the_diagonal_of_their_matrix():
    k = as_gpytorch_kernel(K)
    assert_close(k(X[:5], X[5:10], diag=True), K(X[:5], X[5:10]).diagonal(), 1e-12)
    assert_close(k(X[:5], diag=True), K.diagonal(X[:5]), 1e-12)
    with pytest.raises(DataError, match="takes points with shape"):
        k(X[None], X[None]).to_dense()


def test_what_is_no_matrix_or_no_kernel_is_refused():
    full = ks.kernels.Tangent(torch.nn.Linear(5, 2).double(), outputs="full")
    for wrong in (TRUE, ks.KernelOperator(full, X)):
        with pytest.raises(DataError, match="A linear operator is made of a kernel matrix"):
            as_linear_operator(wrong)
    with pytest.raises(DataError, match="made of a kernel"):
        as_gpytorch_kernel(as_gpytorch_kernel(K))
