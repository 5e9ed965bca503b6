"""Laws that every kernel and every feature map obeys, whatever it is made of; those of operators are beside it.

A law takes an instance and raises where it is broken. The lists below are multiplied with the lists of instances in the
tests, so that a new kernel is one more instance and a new law one more function.
"""

import itertools

import numpy as np
import pytest
import torch

from kernelscope.errors import DataError
from kernelscope.features.base import points_between

#: How closely two ways of computing one number must meet, relative to the largest entry.
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}


def assert_close(found, true, limit=None, scale=None):
    """Asserts equal shapes, and entries that differ by less than ``limit`` times the largest (or ``scale``)."""
    assert tuple(found.shape) == tuple(true.shape), f"shape {tuple(found.shape)} instead of {tuple(true.shape)}"
    limit = CLOSE[found.dtype] if limit is None else limit
    found, true = found.detach().cpu().double(), true.detach().cpu().double()
    scale = float(true.abs().max()) if scale is None else float(scale)
    gap = float((found - true).abs().max())
    assert gap <= limit * scale, f"off by {gap:.1e}, of {scale:.1e} at most"


def random_like(shape, like, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like)


def turned(block):
    """The transpose of a kernel matrix, with or without pairs of outputs."""
    return block.permute(2, 3, 0, 1) if block.ndim == 4 else block.T


def product(block, v):
    """A kernel matrix times v, in which every output is a column of its own."""
    return torch.tensordot(block, v, block.ndim // 2)


def columns_of(block):
    """What v has one entry for: (m,), or (m, c)."""
    return tuple(block.shape[block.ndim // 2:])


# -- kernels ---------------------------------------------------------------------------------------------------------


def exchanging_the_arguments_transposes(k, x, z):
    assert_close(k.T(z, x), turned(k(x, z)))
    assert_close(k.T.T(x, z), k(x, z))
    if k.symmetric:
        assert k.T is k
        assert_close(k(z, x), turned(k(x, z)))


def one_set_of_points_is_the_same_set_twice(k, x, z):
    assert_close(k(x), k(x, x))
    if k.symmetric:
        assert_close(turned(k(x)), k(x))


def a_product_is_that_of_the_matrix(k, x, z):
    dense = k(x, z)
    for extra in ((), (3,), (2, 2)):
        v = random_like((*columns_of(dense), *extra), dense)
        assert_close(k.matmul(x, z, v), product(dense, v))
    square = k(x)
    v = random_like((*columns_of(square), 2), square)
    assert_close(k.matmul(x, None, v), product(square, v))


def blocks_make_the_matrix(k, x, z):
    for others, dense in ((z, k(x, z)), (None, k(x))):
        found = torch.full_like(dense, torch.nan)
        for rows, columns, block in k.blocks(x, others):
            place = found[rows, :, columns] if dense.ndim == 4 else found[rows, columns]
            assert place.isnan().all()
            place[:] = block
        assert_close(found, dense)


def the_diagonal_is_that_of_the_matrix(k, x, z):
    for points in (x, z):
        dense = k(points)
        side = range(len(dense))
        true = torch.stack([dense[i, :, i].diagonal() if dense.ndim == 4 else dense[i, i] for i in side])
        assert_close(k.diagonal(points), true, scale=dense.abs().max())


def sums_multiples_and_products_act_on_entries(k, x, z):
    dense, square = k(x, z), k(x)
    v = random_like((*columns_of(dense), 2), dense)
    for made, true, own in ((k + k.T, dense + turned(k(z, x)), square + turned(square)),
                            (-2.5 * k, -2.5 * dense, -2.5 * square),
                            (k * np.float32(3), 3 * dense, 3 * square),
                            (-k, -dense, -square),
                            (k / 4, dense / 4, square / 4),
                            (k - 3 * k.T, dense - 3 * turned(k(z, x)), square - 3 * turned(square)),
                            (k * k.T, dense * turned(k(z, x)), square * turned(square))):
        assert_close(made(x, z), true)
        assert_close(made(x), own)
        assert_close(made.T(z, x), turned(true))
        assert_close(made.matmul(x, z, v), product(true, v))
        the_diagonal_is_that_of_the_matrix(made, x, z)
        assert made.symmetric == k.symmetric or made.T(x, z).allclose(turned(made(z, x)))


def points_are_independent_of_each_other(k, x, z):
    dense, left, right = k(x, z), k.points(x), k.points(z)
    for i, j in itertools.product((0, len(left) - 1), (0, len(right) - 1)):
        alone = k(points_between(left, i, i + 1), points_between(right, j, j + 1))
        true = dense[i:i + 1, :, j:j + 1] if dense.ndim == 4 else dense[i:i + 1, j:j + 1]
        assert_close(alone, true, scale=dense.abs().max())


def a_vector_of_the_wrong_length_is_refused(k, x, z):
    dense = k(x, z)
    v = random_like((len(k.points(z)) + 1, *columns_of(dense)[1:]), dense)
    with pytest.raises(DataError, match=r"one entry .*shape"):
        k.matmul(x, z, v)


KERNELS = [
    exchanging_the_arguments_transposes,
    one_set_of_points_is_the_same_set_twice,
    a_product_is_that_of_the_matrix,
    blocks_make_the_matrix,
    the_diagonal_is_that_of_the_matrix,
    sums_multiples_and_products_act_on_entries,
    points_are_independent_of_each_other,
    a_vector_of_the_wrong_length_is_refused,
]


# -- feature maps ----------------------------------------------------------------------------------------------------


def push_and_pull_are_adjoint(phi, x, z):
    features = phi.phi(x)
    for extra in ((), (2,)):
        u = random_like((phi.size, *extra), features)
        v = random_like((*features.shape[:-1], *extra), features, seed=2)
        there, back = (phi.push(x, u) * v).sum(), (u * phi.pull(x, v)).sum()
        assert_close(there, back, scale=phi.push(x, u).norm() * v.norm())


def features_are_what_unit_vectors_are_pushed_to(phi, x, z):
    features = phi.phi(x)
    assert_close(phi.push(x, torch.eye(phi.size).to(features)), features)


def features_are_what_unit_vectors_are_pulled_to(phi, x, z):
    features = phi.phi(x)
    units = torch.eye(features[..., 0].numel()).to(features).view(*features.shape[:-1], *features.shape[:-1])
    assert_close(phi.pull(x, units).movedim(0, -1), features)


def inner_products_are_those_of_the_features(phi, x, z):
    near, far = phi.phi(x), phi.phi(z)
    for points, other in (((x,), near), ((x, z), far)):
        assert_close(phi.inner(*points), near.flatten(1) @ other.flatten(1).T)
        if near.ndim == 3:
            assert_close(phi.inner(*points, full=True), torch.einsum("icp,jdp->icjd", near, other))


def squares_are_the_diagonal(phi, x, z):
    features = phi.phi(x)
    assert_close(phi.squares(x), features.flatten(1).square().sum(1))
    if features.ndim == 3:
        assert_close(phi.squares(x, full=True), features.square().sum(2))


def parts_make_the_features(phi, x, z):
    features = phi.phi(x)
    found, met = torch.zeros_like(features), torch.zeros_like(features)
    for rows, numbers, values in phi.parts(x):
        assert values.shape[-1] == len(numbers)
        found[rows, ..., numbers] += values
        met[rows, ..., numbers] += 1
    assert_close(found, features)
    assert met.max() <= 1


def the_number_of_outputs_is_told(phi, x, z):
    features = phi.phi(x)
    assert phi.columns_of(x) == (features.shape[1] if features.ndim == 3 else None)
    assert features.shape[-1] == phi.size


def vectors_of_the_wrong_length_are_refused(phi, x, z):
    features = phi.phi(x)
    with pytest.raises(DataError, match="push needs one entry for each"):
        phi.push(x, random_like((phi.size + 1,), features))
    with pytest.raises(DataError, match="pull needs one entry for each"):
        phi.pull(x, random_like((len(features) + 1, *features.shape[1:-1]), features))


FEATURES = [
    push_and_pull_are_adjoint,
    features_are_what_unit_vectors_are_pushed_to,
    features_are_what_unit_vectors_are_pulled_to,
    inner_products_are_those_of_the_features,
    squares_are_the_diagonal,
    parts_make_the_features,
    the_number_of_outputs_is_told,
    vectors_of_the_wrong_length_are_refused,
]
