"""Projected features: unbiased, off by what is said, and made again bit by bit."""

import math

import numpy as np
import pytest
import torch

from kernelscope.errors import DataError
from kernelscope.features import GradientFeatures, Preconditioned, Projected, signs
from kernelscope.features.signs import Rademacher, Sparse, mix, words
from kernelscope.kernels import FeatureKernel, Tangent
from kernelscope.layers import Outer, Rows
from kernelscope.layers.strips import strips
from tests import laws
from tests.laws import assert_close
from tests.maps import Monomials, Waves
from tests.networks import NETWORKS, inputs, make, vectors

KINDS = ["rademacher", "sparse"]


def matrix(features, **options):
    """R as a whole."""
    return features.block(0, features.features.size, **options)


# -- numbers by counter ----------------------------------------------------------------------------------------------


def test_the_hash_is_the_one_it_is_named_after():
    """In numpy's unsigned integers, which overflow as the formula was written for."""
    h = np.array([0, 1, 2, 2**31, 2**32 - 1, 123456789], dtype=np.uint32)
    found = mix(torch.from_numpy(h.astype(np.int64)))
    h ^= h >> 16
    h *= np.uint32(0x21F0AAAD)
    h ^= h >> 15
    h *= np.uint32(0xD35A2D97)
    h ^= h >> 15
    assert found.tolist() == h.tolist()


def test_numbers_were_written_down_once():
    # A change of any of them would make projections of yesterday and of today different ones.
    assert words(0, torch.arange(2), torch.arange(2)).tolist() == [[3446959117, 1836022342], [3072516573, 1647446704]]
    assert words(2**40 + 7, torch.tensor([2**33 + 5]), torch.tensor([3])).tolist() == [[851750308]]


@pytest.mark.parametrize("kind", [Rademacher, Sparse])
def test_any_block_is_made_again_bit_by_bit(kind):
    R = kind(5, 70)
    whole = R.block(torch.arange(300), torch.float64)
    assert torch.equal(R.block(torch.arange(120, 200), torch.float64), whole[120:200])
    some = torch.tensor([299, 0, 17, 17])
    assert torch.equal(R.block(some, torch.float64), whole[some])
    assert torch.equal(R.block(some, torch.float32), whole[some].float())


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Rademacher, Sparse])
def test_another_device_makes_the_same_numbers(kind, device):
    R = kind(5, 70)
    rows = torch.arange(2**33, 2**33 + 300)
    assert torch.equal(R.block(rows.to(device), torch.float32).cpu(), R.block(rows, torch.float32))


def test_bits_rows_columns_and_seeds_look_independent():
    n, k = 2000, 128
    tables = [Rademacher(seed, k).block(torch.arange(first, first + n), torch.float64) * math.sqrt(k)
              for seed, first in ((0, 0), (1, 0), (2**32, 0), (0, 2**32), (0, n))]
    assert all(set(table.unique().tolist()) == {-1.0, 1.0} for table in tables)
    limit = 5.5
    for table in tables:
        # The largest of about 2 million normal numbers is near 5.
        assert table.sum(0).abs().max() < limit * math.sqrt(n)
        assert table.sum(1).abs().max() < limit * math.sqrt(k)
        for gram, length in ((table @ table.T, k), (table.T @ table, n)):
            assert (gram - length * torch.eye(len(gram))).abs().max() < limit * math.sqrt(length)
    for i, one in enumerate(tables):
        for other in tables[:i]:
            assert (one.T @ other).abs().max() < limit * math.sqrt(n)


def test_rows_beyond_32_bits_are_no_copies():
    near, far = (Rademacher(0, 128).block(torch.arange(first, first + 500), torch.float64) for first in (0, 2**32))
    # 250,000 numbers that are normal, of which the largest is near 5 standard deviations.
    assert (near @ far.T).abs().max() < 5.5 / math.sqrt(128)
    assert (near.T @ far).abs().max() < 5.5 * math.sqrt(500) / 128


def test_a_sparse_row_has_a_few_signs_of_length_one_in_ranges_of_their_own():
    for k in (1, 3, 4, 10, 64):
        R = Sparse(3, k)
        table = R.block(torch.arange(500), torch.float64)
        assert ((table != 0).sum(1) == min(4, k)).all()
        assert_close(table.norm(dim=1), torch.ones(500).double())
        for t in range(R.nonzeros):
            part = table[:, t * k // R.nonzeros:(t + 1) * k // R.nonzeros]
            assert ((part != 0).sum(1) == 1).all()
    # Every column is as likely as any other.
    counts = (Sparse(3, 10).block(torch.arange(20_000), torch.float64) != 0).double().mean(0)
    widths = torch.tensor([2, 2, 3, 3, 3, 2, 2, 3, 3, 3])
    assert (counts - 1 / widths.double()).abs().max() < 0.02


# -- projections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_multiplied_by_one_matrix_for_all_outputs(kind):
    for features in (Monomials(), Waves(), GradientFeatures(make("a transformer"), memory=100_000)):
        x = inputs("a transformer", 4) if features.size > 50 else vectors(4)
        projected = Projected(features, 7, seed=3, kind=kind)
        assert_close(projected.phi(x), features.phi(x) @ matrix(projected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_projected_part_by_part(name, kind):
    model, x = make(name), inputs(name, 4)
    features = GradientFeatures(model)
    projected = Projected(features, 6, kind=kind)
    true = features.phi(x) @ matrix(projected)
    assert_close(projected.phi(x), true)
    least = features._gatherer.measure(features.points(x), 4, False)[0]
    little = Projected(GradientFeatures(model, memory=max(8 * least, 3000)), 6, kind=kind)
    assert_close(little.phi(x), true)


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_never_held_as_a_whole(kind, monkeypatch):
    features = GradientFeatures(make("a transformer"))
    x = inputs("a transformer", 3)
    projected = Projected(features, 20, kind=kind)
    u, v = torch.randn(20, 2).double(), torch.randn(*projected.phi(x).shape[:2], 2).double()
    true = projected.phi(x), projected.push(x, u), projected.pull(x, v)
    made = []

    def counted(seed, rows, columns):
        made.append(len(rows) * (projected.size if kind == "rademacher" else len(columns)))
        return words(seed, rows, columns)

    monkeypatch.setattr(signs, "words", counted)
    monkeypatch.setattr(signs, "ENTRIES", 500)
    for found, whole in zip((projected.phi(x), projected.push(x, u), projected.pull(x, v)), true, strict=True):
        assert_close(found, whole)
    assert max(made) <= 500 < sum(made) / 3


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_right_on_average_over_seeds(kind):
    x, z = vectors(3), vectors(2)
    true = FeatureKernel(Monomials())(x, z)
    found = torch.stack([FeatureKernel(Projected(Monomials(), 8, seed, kind))(x, z) for seed in range(400)])
    sigma = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - true).abs() < 3.5 * sigma).all()
    # The test is able to fail: a matrix a little too long would.
    assert ((1.2 * found.mean(0) - true).abs() > 3.5 * sigma).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cosine", [0.0, 0.6, 1.0])
def test_the_root_mean_square_error_is_the_one_that_is_said(kind, cosine):
    p, k, seeds = 300, 16, 500
    a = torch.randn(p, dtype=torch.float64)
    b = torch.randn(p, dtype=torch.float64)
    a, b = a / a.norm(), b - (a @ b) / (a @ a) * a
    b = cosine * a + math.sqrt(1 - cosine**2) * b / b.norm()
    R = {"rademacher": Rademacher, "sparse": Sparse}[kind]
    blocks = (R(seed, k).block(torch.arange(p), torch.float64) for seed in range(seeds))
    errors = torch.stack([(a @ block) @ (b @ block) - cosine for block in blocks])
    said = math.sqrt((1 + cosine**2) / k)
    assert abs(float(errors.square().mean().sqrt()) / said - 1) < 0.12


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_a_sum_over_outputs_is_the_one_that_is_said(kind):
    model, x = make("convolutions with stride, padding, dilation and groups"), inputs(
        "convolutions with stride, padding, dilation and groups", 8)
    reports = [Projected(GradientFeatures(model), 24, seed, kind).error(x) for seed in range(30)]
    assert {report.pairs for report in reports} == {36}
    assert len({report.estimate for report in reports}) == 1
    measured = math.sqrt(sum(report.measured**2 for report in reports) / len(reports))
    assert 0.75 < measured / reports[0].estimate < 1.2
    assert reports[0].estimate < Projected(GradientFeatures(model), 24).error().estimate


def test_more_dimensions_are_nearer_by_the_root_of_their_number():
    model, x = make("a perceptron"), vectors(8)
    gaps = []
    for k in (50, 800):
        some = [FeatureKernel(Projected(GradientFeatures(model), k, seed))(x) for seed in range(20)]
        gaps.append(float((torch.stack(some) - Tangent(model)(x)).square().mean().sqrt()))
    assert 3 < gaps[0] / gaps[1] < 5.3


def test_the_error_is_told():
    features = Projected(Monomials(), 100, kind="sparse", seed=2)
    assert repr(features) == ("Projected(Monomials(9 features), 100, kind='sparse', seed=2: "
                              "products of two vectors off by 10.0% to 14.1% rms, sums over outputs by less)")
    most = "Inner products of projected features are off by at most 14.1% of the lengths (rms)."
    assert str(features.error()) == most
    said = str(features.error(vectors(5)))
    assert "rms of 15 pairs" in said
    assert "was to be expected" in said


def test_projecting_is_asked_for():
    assert not isinstance(Tangent(make("a perceptron")).features, Projected)


def test_a_projection_of_a_projection_and_of_a_scale_are_projections():
    x = vectors(4)
    inner = Projected(Preconditioned(Waves(), torch.arange(4.0)), 20, seed=1)
    outer = Projected(inner, 6, seed=2)
    assert_close(outer.phi(x), Waves().phi(x) * torch.arange(4.0) @ matrix(inner) @ matrix(outer))


@pytest.mark.parametrize(("options", "match"), [
    ({"dimension": 0}, "at least 1; 0 came"), ({"dimension": 2.0}, "at least 1; 2.0 came"),
    ({"dimension": True}, "at least 1; True came"),
    ({"dimension": 3, "kind": "gauss"}, "rademacher, sparse; 'gauss' came"),
    ({"dimension": 3, "seed": 1.5}, "whole number; 1.5 came"),
])
def test_what_is_no_projection_is_refused(options, match):
    with pytest.raises(DataError, match=match):
        Projected(Monomials(), **options)


def test_a_module_is_told_how_it_is_projected():
    with pytest.raises(DataError, match=r"a Sequential came.*Projected\(GradientFeatures\(model\), 8\)"):
        Projected(make("a perceptron"), 8)
    with pytest.raises(DataError, match="the class GradientFeatures came"):
        Projected(GradientFeatures, 8)


# -- strips ----------------------------------------------------------------------------------------------------------


def factors():
    a = torch.randn(3, 2, 4, 5)
    b = torch.randn(3, 2, 2, 4, 3)
    yield Rows(torch.randn(3, 2, 11))
    yield Outer(a, b)
    yield Outer(a, b, first=True)
    yield Outer(a[:, :1], b[:, :, :1])
    yield Outer(torch.randint(0, 6, (3, 4)), b[:, :, :1], first=True, size=6)


@pytest.mark.parametrize("room", [1, 100, 400, 10**6])
def test_strips_of_any_size_make_the_gradients(room):
    for factor in factors():
        true = factor.rows()
        found, met = torch.zeros_like(true), torch.zeros_like(true)
        for rows, numbers, values in strips(factor, room):
            assert values.nbytes <= max(room, values[:1, :, :1].nbytes * 12)
            found[rows, :, numbers] += values
            met[rows, :, numbers] += 1
        laws.assert_close(found, true)
        assert met.max() == 1
