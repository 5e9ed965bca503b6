"""Kernels in closed form obey the laws, and are what double loops over their formulas say, in both precisions."""

import pytest
import torch
from sklearn.metrics import pairwise

from kernelscope.kernels import Cosine, Gaussian, Laplacian, Polynomial
from tests import laws, operator_laws
from tests.closed_forms import KERNELS, NAMES, all_of, loops
from tests.laws import assert_close
from tests.maps import M, N

#: The largest error of an entry relative to the largest, in units of the precision: 1e-14 and 5e-6, about.
FLOAT64, FLOAT32 = 1e-12, 2e-6


def spread(n, d, seed=0, scale=1.0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64) + mean


@pytest.mark.parametrize("law", laws.KERNELS + operator_laws.OPERATORS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", KERNELS)
def test_law(name, law, dtype, device):
    k, points = KERNELS[name](dtype, device)
    law(k, points(N, dtype, device), points(M, dtype, device))


# -- against double loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 8, 64])
@pytest.mark.parametrize("name", NAMES)
def test_entries_are_those_of_the_formula(name, d):
    x, z = spread(20, d), spread(13, d, seed=1)
    k, true = all_of(d**0.5)[name]
    assert_close(k(x, z), loops(true, x, z), FLOAT64)
    single = x.float(), z.float()
    assert_close(k(*single), loops(true, *single), FLOAT32)


def test_scikit_learn_has_the_same_kernels():
    x, z = spread(9, 4), spread(7, 4, seed=1)
    for k, true in ((Gaussian(1.5), pairwise.rbf_kernel(x, z, gamma=1 / 4.5)),
                    (Polynomial(3, 2.0, 0.5), pairwise.polynomial_kernel(x, z, degree=3, gamma=4, coef0=2)),
                    (Cosine(), pairwise.cosine_similarity(x, z))):
        assert_close(k(x, z), torch.from_numpy(true), FLOAT64)
    # Its Laplacian kernel is of the sum of absolute differences, which is this one in one dimension.
    x, z = x[:, :1], z[:, :1]
    assert_close(Laplacian(1.5)(x, z), torch.from_numpy(pairwise.laplacian_kernel(x, z, gamma=1 / 1.5)), FLOAT64)
