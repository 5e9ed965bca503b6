"""Laws that every operator obeys, whatever its kernel is."""

import numpy as np
import pytest
import torch

from kernelscope import KernelOperator
from kernelscope.errors import DataError
from tests.laws import CLOSE, assert_close, columns_of, product, random_like, turned


def flat(block):
    """A kernel matrix in which every output is a row and a column of its own."""
    return block.flatten(2).flatten(0, 1) if block.ndim == 4 else block


def the_operator_is_the_matrix(k, x, z):
    for K, dense in ((KernelOperator(k, x, z), k(x, z)), (KernelOperator(k, x), k(x))):
        assert K.shape == tuple(dense.shape)
        assert_close(K.dense(), dense)
        v = random_like((*columns_of(dense), 2), dense)
        assert_close(K @ v, product(dense, v))
        assert_close(K @ v[..., 0], product(dense, v[..., 0]))
        assert_close(K.T.dense(), turned(dense))
        w = random_like((*dense.shape[:dense.ndim // 2], 2), dense)
        assert_close(K.T @ w, product(turned(dense), w))


def some_rows_and_columns_are_those_of_the_matrix(k, x, z):
    K, dense = KernelOperator(k, x, z), k(x, z)
    n, m = len(K.x), len(K.z)
    odd = torch.arange(n) % 2 == 1
    ways = [slice(1, 3), slice(None, None, 2), slice(-2, None), slice(None, None, -1), 0, -1, [2, 0, 2], [-1],
            range(1, 3), torch.tensor([1, 0]), torch.tensor(1), odd, odd.tolist(), odd.numpy(), np.array([4, 4, 0])]
    for way in ways:
        # NumPy says what each of them selects.
        keep = np.arange(n)[way if isinstance(way, slice) else np.asarray(way)].reshape(-1).tolist()
        assert_close(K[way].dense(), dense[keep], scale=dense.abs().max())
        columns = [m - 1, 0]
        some = dense[keep][:, :, columns] if dense.ndim == 4 else dense[keep][:, columns]
        assert_close(K[way, columns].dense(), some, scale=dense.abs().max())
        v = random_like(columns_of(some), some)
        assert_close(K[way, columns] @ v, product(some, v), scale=dense.abs().max() * v.abs().sum())


def a_square_part_is_symmetric(k, x, z):
    K, dense = KernelOperator(k, x), k(x)
    part = K[1:3, 1:3]
    true = dense[1:3, :, 1:3] if dense.ndim == 4 else dense[1:3, 1:3]
    assert part.symmetric == k.symmetric
    assert_close(part.dense(), true)
    assert_close(part.diagonal(), K.diagonal()[1:3])
    assert (K.T is K) == k.symmetric


def what_does_not_exist_is_refused(k, x, z):
    K = KernelOperator(k, x, z)
    v = random_like((K.shape[len(K.shape) // 2] + 1, *K.shape[3:]), k(x, z))
    with pytest.raises(DataError, match=r"one entry of v per column of K: K has shape"):
        K @ v
    with pytest.raises(DataError, match=r"Only a square operator has a diagonal.*Make it"):
        K.diagonal()
    n = len(K.x)
    for way, match in (([n], "does not exist"), (-n - 1, "does not exist"), (n, "does not exist"),
                       ([True], "one truth value for each"), (0.5, "whole numbers"), ([[0]], "whole numbers"),
                       (slice(2, 2), "Select some"), ([], "Select some"), ([False] * n, "Select some")):
        with pytest.raises(DataError, match=match):
            K[way]


def the_whole_is_that_of_the_matrix(k, x, z):
    for K in (KernelOperator(k, x, z), KernelOperator(k, x)):
        matrix = flat(K.dense()).double()
        singular = torch.linalg.svdvals(matrix)
        limit = CLOSE[K.dense().dtype]
        assert abs(float(K.norm()) / float(matrix.norm()) - 1) < limit
        assert abs(float(K.norm("spectral")) / float(singular[0]) - 1) < limit
        # Six probes for each column span everything, so that nothing is left to chance.
        norm = K.norm(probes=6 * len(matrix.T))
        assert abs(float(norm) / float(matrix.norm()) - 1) < max(limit, 4 * norm.error)
    for trace in (K.trace(), K.trace(probes=6 * len(matrix))):
        assert abs(float(trace) - float(matrix.trace())) < limit * len(matrix) * float(matrix.norm())


def eigenpairs_are_those_of_the_matrix(k, x, z):
    K = KernelOperator(k, x)
    if not K.symmetric:
        with pytest.raises(DataError, match=r"Eigenpairs are those of a symmetric operator"):
            K.eigenpairs(1)
        return
    matrix = flat(K.dense()).double()
    true = torch.linalg.eigvalsh(matrix).flip(0)
    for count in (1, 3, len(matrix)):
        found = K.eigenpairs(count)
        assert found.converged
        assert tuple(found.vectors.shape) == (*columns_of(K.dense()), count)
        limit = CLOSE[K.dense().dtype]
        assert_close(found.values, true[:count], limit, scale=matrix.norm())
        vectors = found.vectors.flatten(0, -2)
        assert_close(vectors.T @ vectors, torch.eye(count), limit)
        gaps = (matrix @ vectors - vectors * found.values).norm(dim=0)
        assert_close(found.residuals, gaps, limit, scale=matrix.norm())
    with pytest.raises(DataError, match=r"has 1 to \d+ eigenpairs; k=0"):
        K.eigenpairs(0)


OPERATORS = [
    the_operator_is_the_matrix,
    some_rows_and_columns_are_those_of_the_matrix,
    a_square_part_is_symmetric,
    what_does_not_exist_is_refused,
    the_whole_is_that_of_the_matrix,
    eigenpairs_are_those_of_the_matrix,
]
