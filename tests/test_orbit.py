"""Kernels averaged over orbits, against their double sum and against samples that are all written out."""

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.kernels import Gaussian, Laplacian, OrbitAverage, Polynomial
from kernelscope.kernels.infinite import Conv, Dense, Flatten, GlobalAvgPool, ReLU, Serial


def flip(x):
    return x.flip(-1)


def turn(x):
    return x.rot90(1, (-2, -1))


def shift(x):
    return x.roll(1, -1)


def sample(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Z = sample(7, 2, 4, 4), sample(5, 2, 4, 4, seed=1)
QUARTERS = [turn, lambda x: turn(turn(x)), lambda x: turn(turn(turn(x)))]
NET = Serial(Conv(3, 1.4), ReLU(), Flatten(), Dense())
KERNELS = [Gaussian(2.0), Laplacian(3.0) + 0.5 * Polynomial(2), NET.nngp, NET.ntk]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("transforms", [[], [flip], [shift, flip], QUARTERS])
def test_entries_are_means_over_all_transforms_of_both_points(kernel, transforms):
    orbit = [lambda x: x, *transforms]
    found = OrbitAverage(kernel, transforms)
    for x, z in ((X, Z), (X, X.clone())):
        wanted = torch.stack([kernel(g(x).contiguous(), h(z).contiguous()) for g in orbit for h in orbit]).mean(0)
        assert torch.allclose(found(x, z), wanted, rtol=1e-12, atol=1e-12)
    square = found(X)
    assert torch.allclose(square, found(X, X.clone()), rtol=1e-7, atol=1e-7)
    assert torch.equal(square, square.T)
    assert torch.allclose(found.diagonal(X), square.diagonal(), rtol=1e-12)
    v = sample(5, 3, seed=2)
    assert torch.allclose(ks.KernelOperator(found, X, Z) @ v, found(X, Z) @ v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("transforms", [[flip], QUARTERS])
def test_of_a_group_that_the_kernel_does_not_see_one_side_is_enough(kernel, transforms):
    one, both = (OrbitAverage(kernel, transforms, sides=sides) for sides in ("one", "both"))
    assert torch.allclose(one(X, Z), both(X, Z), rtol=1e-12, atol=1e-12)
    assert torch.allclose(one(X), both(X), rtol=1e-7, atol=1e-7)


def test_a_function_of_an_averaged_kernel_does_not_change_with_the_transforms():
    k = OrbitAverage(Gaussian(2.0), QUARTERS)
    machine = ks.fit(k, X, sample(7, seed=3), ridge=1e-3, progress=False)
    assert torch.allclose(machine(turn(Z)), machine(Z), rtol=1e-10)


@pytest.mark.parametrize("kernel", [Gaussian(2.0), NET.ntk])
@pytest.mark.parametrize("transforms", [[flip], QUARTERS])
def test_regression_is_that_with_all_transformed_samples(kernel, transforms):
    y = sample(7, 2, seed=4)
    every = torch.cat([X, *(g(X) for g in transforms)])
    wanted = ks.posterior(kernel, every, y.repeat(1 + len(transforms), 1), Z, ridge=1e-2, covariance=False)
    for sides in ("both", "one"):
        found = ks.posterior(OrbitAverage(kernel, transforms, sides), X, y, Z, ridge=1e-2, covariance=False)
        assert float((found.mean - wanted.mean).abs().max()) <= 1e-9


def test_global_pooling_is_an_average_over_shifts_of_one_side():
    # Li et al.: with circular windows, the mean over pixels is that over shifts of what flattening gives.
    shifts = [lambda x, a=a, b=b: x.roll((a, b), (-2, -1)) for a in range(4) for b in range(4) if (a, b) != (0, 0)]
    layers = Conv(3, 1.3, 0.1, padding="circular"), ReLU()
    pooled, flat = (Serial(*layers, end, Dense(1.0)) for end in (GlobalAvgPool(), Flatten()))
    averaged = OrbitAverage(flat.nngp, shifts, sides="one")
    assert torch.allclose(averaged(X, Z), pooled.nngp(X, Z), rtol=1e-10)


def test_a_matrix_that_one_side_makes_askew_is_refused():
    with pytest.raises(DataError, match=r'not symmetric: .* Take sides="both"'):
        OrbitAverage(Gaussian(2.0), [shift], sides="one")(X)


def test_what_is_no_transform_is_refused():
    for match, transform in {r"it made shape \(1, 2, 4\)": lambda x: x.mean(-1), "it made None": lambda x: None,
                             r"it made shape \(0, 2, 4, 4\)": lambda x: x[1:]}.items():
        with pytest.raises(DataError, match=match):
            OrbitAverage(Laplacian(1.0), [transform])(X)
    with pytest.raises(DataError, match="transforms must be a function"):
        OrbitAverage(Laplacian(1.0), ["flip"])
    with pytest.raises(DataError, match="transforms are a list"):
        OrbitAverage(Laplacian(1.0), flip)
    with pytest.raises(DataError, match="symmetric kernel"):
        OrbitAverage("gaussian", [flip])
    with pytest.raises(DataError, match='sides must be "both" or "one"'):
        OrbitAverage(Laplacian(1.0), [flip], sides="left")


def test_an_open_bandwidth_is_taken_from_the_points():
    k = OrbitAverage(Gaussian(), [flip])
    machine = ks.fit(k, X, sample(7, seed=3), ridge=1e-3, progress=False)
    assert "bandwidth=" in repr(machine.kernel)
