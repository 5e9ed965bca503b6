"""Operators are their matrices: sliced, transposed and multiplied block by block, without being stored."""

import pytest
import torch
from torch.utils.data import TensorDataset

from kernelscope import KernelOperator
from kernelscope.errors import DataError, NonFiniteError, OutOfRange
from kernelscope.features import base as features_base
from kernelscope.kernels import FeatureKernel, base
from tests import laws, operator_laws
from tests.laws import assert_close
from tests.maps import KERNELS, Laplacian, M, Monomials, N, Waves
from tests.networks import vectors


@pytest.mark.parametrize("law", operator_laws.OPERATORS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", KERNELS)
def test_law(name, law, dtype, device):
    k, points = KERNELS[name](dtype, device)
    law(k, points(N, dtype, device), points(M, dtype, device))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_blocks_of_any_size_give_the_same_product(size, monkeypatch):
    x, z = vectors(13), vectors(7)
    for k in (Laplacian(), FeatureKernel(Waves()), FeatureKernel(Waves(), outputs="full"),
              FeatureKernel(Monomials(), Monomials()), 2 * Laplacian() * FeatureKernel(Monomials())):
        dense = k(x, z)
        v = laws.random_like((*laws.columns_of(dense), 2), dense)
        true = laws.product(dense, v)
        with monkeypatch.context() as patch:
            patch.setattr(base, "BLOCK", size)
            patch.setattr(features_base, "BLOCK", size)
            assert_close(KernelOperator(k, x, z) @ v, true)
            laws.blocks_make_the_matrix(k, x, z)


def test_entries_of_a_symmetric_matrix_are_computed_once(monkeypatch):
    entries = []

    class Counting(Laplacian):
        def __call__(self, x, z=None):
            block = super().__call__(x, z)
            entries.append(block.numel())
            return block

    monkeypatch.setattr(base, "BLOCK", 10)
    KernelOperator(Counting(), vectors(40)) @ vectors(40)
    assert sum(entries) == 10 * 10 * (4 * 5 // 2)


def test_no_block_is_larger_than_it_may_be(monkeypatch):
    largest = []

    class Counting(Laplacian):
        def __call__(self, x, z=None):
            block = super().__call__(x, z)
            largest.append(block.numel())
            return block

    monkeypatch.setattr(base, "BLOCK", 8)
    KernelOperator(Counting(), vectors(50)) @ vectors(50)
    assert max(largest) == 64


def test_slices_of_slices_are_slices():
    x, z = vectors(9), vectors(8)
    K, dense = KernelOperator(Laplacian(), x, z), Laplacian()(x, z)
    assert_close(K[2:8][::2, [0, 3]].T.dense(), dense[2:8][::2][:, [0, 3]].T)


def test_a_vector_of_the_other_side_is_told_where_it_belongs():
    K = KernelOperator(Laplacian(), vectors(6), vectors(4))
    with pytest.raises(DataError, match=r"\(6, 4\), v has shape \(6,\). To multiply on the other side, use K.T @ v"):
        K @ torch.ones(6).double()


def test_an_operator_needs_a_kernel():
    with pytest.raises(DataError, match=r"made from a kernel, and a Tensor came. Pass for example"):
        KernelOperator(torch.eye(3), vectors(3))


def test_an_operator_tells_what_it_is():
    K = KernelOperator(FeatureKernel(Waves(), outputs="full"), vectors(3))
    assert repr(K).endswith("shape=(3, 2, 3, 2))")


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.numpy(), lambda x: (x,), lambda x: TensorDataset(x)])
def test_points_that_are_given_twice_are_the_same_points(form):
    x = form(vectors(9))
    twice, once = KernelOperator(Laplacian(), x, x), KernelOperator(Laplacian(), x)
    assert twice.symmetric
    assert float(twice.trace()) == float(once.trace())
    assert_close(twice.eigenpairs(2).values, once.eigenpairs(2).values)


def test_a_loop_over_the_rows_ends():
    x = vectors(5)
    for operator in (KernelOperator(Laplacian(), x), KernelOperator(Laplacian(), x, vectors(3)).T):
        rows = list(operator)
        assert len(rows) == operator.shape[0]
        assert_close(torch.cat([row.dense() for row in rows]), operator.dense())
        with pytest.raises(OutOfRange, match="does not exist"):
            operator[len(rows)]


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
def test_a_factor_that_is_no_finite_number_is_refused(factor):
    for multiply in (lambda: Laplacian() * factor, lambda: factor * Laplacian(), lambda: Laplacian() / (1 / factor)):
        with pytest.raises(DataError, match="finite number|other than nought"):
            multiply()
    with pytest.raises(NonFiniteError, match="Look at where"):
        Laplacian() * factor
