"""The spectrum of a kernel matrix, by four ways, against the eigenvalues of the dense one."""

import math

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope import linalg
from kernelscope.errors import DataError, NonFiniteError

WAYS = ("lanczos", "randomized", "nystrom")


def points(n=120, d=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    return x, torch.stack([x[:, 0].sin(), x[:, 1] ** 2], 1)


@pytest.fixture
def gaussian():
    x, y = points()
    return ks.kernels.Gaussian(1.5), x, y


def test_a_dense_spectrum_is_that_of_the_matrix(gaussian):
    k, x, y = gaussian
    matrix = k(x)
    found = ks.spectrum(matrix, y=y)
    values = torch.linalg.eigvalsh(matrix).flip(0)
    assert torch.allclose(found.values, values, atol=1e-12)
    assert float((found.vectors @ torch.diag(found.values) @ found.vectors.T - matrix).abs().max()) < 1e-12
    assert found.whole
    assert found.beyond == 0
    assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-13)
    assert found.norm == pytest.approx(float(matrix.norm()), rel=1e-13)
    assert found.check().ok


def test_lanczos_finds_the_dense_eigenvalues(gaussian):
    k, x, _ = gaussian
    values = torch.linalg.eigvalsh(k(x)).flip(0)
    found = ks.spectrum(k, x, k=12, method="lanczos")
    assert float(((found.values - values[:12]) / values[:12]).abs().max()) < 1e-8


@pytest.mark.parametrize("method", WAYS)
def test_an_eigenvalue_lies_within_its_residual(gaussian, method):
    k, x, _ = gaussian
    matrix = k(x)
    values = torch.linalg.eigvalsh(matrix)
    found = ks.spectrum(ks.KernelOperator(k, x), k=9, method=method, landmarks=40)
    residuals = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert torch.allclose(found.residuals, residuals, atol=1e-10)
    nearest = (values[:, None] - found.values).abs().min(0).values
    assert bool((nearest <= found.residuals + 1e-12).all())
    gram = found.vectors.T @ found.vectors
    assert float((gram - torch.eye(9)).abs().max()) < 1e-10


def test_more_powers_leave_smaller_residuals(gaussian):
    k, x, _ = gaussian
    worst = [float(ks.spectrum(k, x, k=10, method="randomized", powers=p).residuals.max()) for p in (1, 3, 6)]
    assert worst[0] > worst[1] > worst[2]


def test_nystrom_with_all_columns_is_exact_and_with_some_never_above(gaussian):
    k, x, _ = gaussian
    values = torch.linalg.eigvalsh(k(x)).flip(0)
    whole = ks.spectrum(k, x, k=8, method="nystrom", landmarks=len(x))
    assert torch.allclose(whole.values, values[:8], rtol=1e-9)
    some = ks.spectrum(k, x, k=8, method="nystrom", landmarks=20)
    assert bool((some.values <= values[:8] + 1e-10).all())


class Counting(ks.kernels.Gaussian):
    """A kernel that notes the largest block it was asked for."""

    largest = 0

    def __call__(self, x, z=None):
        block = super().__call__(x, z)
        Counting.largest = max(Counting.largest, block.numel())
        return block


@pytest.mark.parametrize("method", WAYS)
def test_the_matrix_of_an_operator_is_never_formed(method, monkeypatch):
    x, y = points(600)
    monkeypatch.setattr(ks.KernelOperator, "dense", refused_of_square(ks.KernelOperator.dense))
    found = ks.spectrum(Counting(1.5), x, y, k=5, method=method)
    values = torch.linalg.eigvalsh(ks.kernels.Gaussian(1.5)(x)).flip(0)
    assert bool(((found.values - values[:5]).abs() <= found.residuals + 1e-9).all())
    assert found.alignment == pytest.approx(ks.spectrum(ks.kernels.Gaussian(1.5)(x), y=y).alignment, rel=1e-10)


def refused_of_square(dense):
    def refused(operator):
        assert operator.shape[0] != operator.shape[1], "the matrix was formed"
        return dense(operator)

    return refused


@pytest.mark.parametrize("method", [*WAYS, "dense"])
def test_alignment_trace_and_norm_do_not_depend_on_the_way(gaussian, method):
    k, x, y = gaussian
    matrix = k(x)
    n = len(x)
    center = torch.eye(n, dtype=torch.float64) - 1 / n
    centered = center @ matrix @ center
    yy = (y - y.mean(0)) @ (y - y.mean(0)).T
    product = sum(float(centered[i, j] * yy[i, j]) for i in range(n) for j in range(n))
    true = product / float(centered.norm() * yy.norm())
    found = ks.spectrum(k, x, y, k=6, method=method)
    assert found.alignment == pytest.approx(true, abs=1e-10)
    assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert found.norm == pytest.approx(float(matrix.norm()), rel=1e-12)
    assert found.beyond == pytest.approx(float(matrix.trace()) - float(found.values.sum()), abs=1e-9)


def test_an_estimated_norm_comes_with_its_error():
    x, _ = points(200)
    k = ks.kernels.Gaussian(0.4)
    found = ks.spectrum(k, x, k=4, method="lanczos", probes=60)
    true = float(k(x).norm())
    assert 0 < found.norm_error < 0.2 * true
    assert abs(found.norm - true) < 5 * found.norm_error


def test_ranks_and_dimensions_of_a_part_bound_those_of_the_whole(gaussian):
    k, x, _ = gaussian
    whole, part = ks.spectrum(k, x, method="dense"), ks.spectrum(k, x, k=8, method="lanczos")
    p = whole.values.clamp(min=0) / whole.values.clamp(min=0).sum()
    entropy = math.exp(-sum(v * math.log(v) for v in p.tolist() if v > 0))
    assert whole.entropy_rank() == (pytest.approx(entropy, rel=1e-12), pytest.approx(entropy, rel=1e-12))
    low, high = part.entropy_rank()
    assert low < entropy < high
    for ridge in (1e-6, 1e-2, 1.0):
        true = sum(v / (v + ridge) for v in whole.values.tolist() if v > 0)
        assert whole.effective_dimension(ridge)[0] == pytest.approx(true, rel=1e-10)
        low, high = part.effective_dimension(ridge)
        assert low <= true <= high
    assert part.participation() == pytest.approx(whole.participation(), rel=1e-12)
    square = sum(v * v for v in whole.values.tolist())
    assert whole.participation() == pytest.approx(sum(whole.values.tolist()) ** 2 / square, rel=1e-12)


def test_bounds_on_the_rank_are_those_of_the_extremes():
    part = ks.spectrum(torch.diag(torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5, 0.5])).double(), k=2)
    low, high = part.entropy_rank()
    assert low == pytest.approx(4.0)
    assert high == pytest.approx(math.exp(0.5 * math.log(4) + 0.5 * math.log(8)))
    assert part.effective_dimension(1.0) == (pytest.approx(2.0), pytest.approx(1 + 4 / 3))


def test_label_mass_is_the_share_of_centred_targets(gaussian):
    k, x, y = gaussian
    found = ks.spectrum(k, x, y)
    rest = y - y.mean(0)
    for m in (1, 5, len(x)):
        own = found.vectors[:, :m] @ (found.vectors[:, :m].T @ rest)
        assert found.label_mass(m) == pytest.approx(float(own.square().sum() / rest.square().sum()), rel=1e-10)
    assert found.label_mass(len(x)) == pytest.approx(1.0)
    assert float(found.to_frame()["label mass up to it"].iloc[4]) == pytest.approx(found.label_mass(5))


def test_a_power_law_has_its_exponent():
    values = torch.arange(1, 101, dtype=torch.float64) ** -1.7
    assert ks.spectrum(torch.diag(values)).decay() == pytest.approx(1.7, rel=1e-9)
    assert ks.spectrum(torch.eye(2).double()).decay() is None


def test_outputs_kept_apart_are_columns_of_their_own():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x, y = points(20)
    k = ks.kernels.Tangent(model, outputs="full")
    dense = k(x).reshape(40, 40)
    found = ks.spectrum(k, x, y, k=5, method="lanczos")
    assert torch.allclose(found.values, torch.linalg.eigvalsh(dense).flip(0)[:5], rtol=1e-8)
    assert found.size == 40
    with pytest.raises(DataError, match="keeps outputs apart"):
        ks.spectrum(k, x, k=3, method="nystrom")


def test_classes_are_columns(gaussian):
    k, x, _ = gaussian
    labels = (x[:, 0] > 0).long()
    rows = torch.nn.functional.one_hot(labels).double()
    assert ks.spectrum(k, x, labels).alignment == pytest.approx(ks.spectrum(k, x, rows).alignment, rel=1e-13)


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("columns", [3, 20])
def test_bounds_hold_however_rough_the_eigenvalues_are(method, columns):
    for seed in range(30):
        g = torch.Generator().manual_seed(seed)
        f = torch.randn(20, columns, generator=g, dtype=torch.float64)
        matrix = f @ torch.diag(torch.rand(columns, generator=g, dtype=torch.float64) ** (seed % 4)) @ f.T
        whole = torch.linalg.eigvalsh(matrix).clamp(min=0).tolist()
        entropy = math.exp(-sum(v / sum(whole) * math.log(v / sum(whole)) for v in whole if v > 0))
        found = ks.spectrum(matrix, k=3, method=method, landmarks=3, powers=1)
        low, high = found.entropy_rank()
        assert low - 1e-7 <= entropy <= high + 1e-7
        for ridge in (1e-3, 1.0, 30.0):
            true = sum(v / (v + ridge) for v in whole)
            low, high = found.effective_dimension(ridge)
            assert low - 1e-7 <= true <= high + 1e-7


def test_a_negative_matrix_is_said_to_be_one_of_no_kernel(gaussian):
    k, x, _ = gaussian
    for found in (ks.spectrum(-k(x)), ks.spectrum(-k(x), k=5, method="lanczos")):
        assert "not positive semidefinite" in found.summary()
        assert "not positive semidefinite" in found.plot().get_title(loc="left").replace("\n", " ").lower()
        assert not any("-" in words for words in found.summary().split())
    assert "positive" not in ks.spectrum(k(x)).summary()


def test_what_is_no_kernel_matrix_is_told():
    matrix = torch.eye(3).double()
    indefinite = ks.spectrum(torch.diag(torch.tensor([2.0, -1.0, 0.5])).double()).check()
    assert {row.name: row.status for row in indefinite.rows}["positive"] == "warn"
    matrix[0, 1] = 1e-5
    crooked = ks.spectrum(matrix)
    assert crooked.asymmetry == pytest.approx(1e-5)
    assert {row.name: row.status for row in crooked.check().rows}["symmetry"] == "warn"
    matrix[0, 1] = 0.5
    with pytest.raises(DataError, match="not symmetric"):
        ks.spectrum(matrix)
    matrix[0, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"\(0, 1\)"):
        ks.spectrum(matrix)


@pytest.mark.parametrize(("given", "words"), [
    ((torch.ones(2, 3),), "shape"), (("K",), "Pass"), ((ks.kernels.Gaussian(1.0),), "points x"),
    ((torch.eye(3), torch.ones(3, 1)), "with points"), ((torch.eye(3) * 1j,), "real numbers"),
    ((np.array([["a"]]),), "numbers"), ((torch.eye(3), None, "a"), "numbers"),
    ((torch.eye(3), None, ["a"] * 3), "numbers"),
    ((torch.eye(3), None, torch.ones(2)), "y must hold"),
])
def test_what_has_no_spectrum_is_refused(given, words):
    with pytest.raises(DataError, match=words):
        ks.spectrum(*given)


@pytest.mark.parametrize("options", [{"k": 0}, {"method": "guess"}, {"ridge": -1.0}, {"tolerance": 2.0}, {"powers": 0}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(DataError):
        ks.spectrum(torch.eye(3), **options)


def test_a_spectrum_is_kept_and_drawn(tmp_path, gaussian):
    k, x, y = gaussian
    found = ks.spectrum(k, x, y, k=6, method="randomized")
    again = ks.Spectrum.load(found.save(tmp_path / "spectrum"))
    assert torch.equal(again.vectors, found.vectors)
    assert again.summary() == found.summary()
    assert "power" in found.plot(theme="dark").get_title(loc="left")
    assert "Spectrum" in found.summary()
    assert "The spectrum of a kernel" in ks.Report("Page", [("One", found), found]).html()


def test_the_verbs_of_a_matrix_of_low_rank():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(30, 2, generator=g, dtype=torch.float64)
    matrix = f @ f.T
    values = torch.linalg.eigvalsh(matrix).flip(0)[:5]
    for found, vectors in (linalg.randomized(lambda v: matrix @ v, 30, 5),
                           linalg.nystrom(matrix[:, :10], torch.arange(10), 5)):
        assert torch.allclose(found, values, atol=1e-9)
        assert float((vectors.T @ vectors - torch.eye(5)).abs().max()) < 1e-10
