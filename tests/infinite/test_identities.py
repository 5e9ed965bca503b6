"""What kernels of infinite width are known to be, without any other implementation."""

import math

import pytest
import torch

from kernelscope.kernels import ReLUNTK
from kernelscope.kernels.infinite import (
    RBF,
    Abs,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    ReLU,
    Residual,
    Serial,
    convolutional,
    fully_connected,
)
from tests.infinite import golden
from tests.laws import assert_close

X, Z = golden.vectors()
IMAGES, OTHERS = golden.images()


def squares(x):
    return x.flatten(1).square().sum(1) / x.shape[1]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_rectifiers_keep_variances_and_each_layer_adds_as_much_to_the_tangent_kernel(depth):
    net = fully_connected(depth)
    for x in (X, 1e6 * X, 1e-6 * X):
        assert_close(net.nngp.diagonal(x), 2 * squares(x), 1e-13)
        assert_close(net.ntk.diagonal(x), (depth + 1) * 2 * squares(x), 1e-13)
        assert_close(net.ntk(x).diagonal(), (depth + 1) * 2 * squares(x), 1e-13)


def test_orthogonal_and_opposite_points_of_one_hidden_layer():
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-2.0, 0.0]], dtype=torch.float64)
    for matrix in fully_connected(1).both(x):
        assert_close(matrix[0, 1], torch.tensor(2 * 2 * 3 / (math.pi * 2), dtype=torch.float64), 1e-14)
        assert abs(matrix[0, 2]) < 1e-14


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_linear_network_has_the_linear_kernel_once_for_each_layer(depth):
    net = Serial(*[Dense() for _ in range(depth + 1)])
    assert_close(net.nngp(X, Z), X @ Z.T / 5, 1e-14)
    assert_close(net.ntk(X, Z), (depth + 1) * X @ Z.T / 5, 1e-14)


def test_the_first_layer_of_gaussian_waves_is_the_gaussian_kernel():
    net = Serial(Dense(), RBF(gamma=0.7), Dense())
    assert_close(net.nngp(X, Z), (-0.7 * torch.cdist(X, Z).square() / 5).exp(), 1e-14)


@pytest.mark.parametrize("depth", [1, 3])
def test_rectifiers_give_the_kernel_that_stands_by_itself(depth):
    net = fully_connected(depth, W_std=1.3, b_std=0.2)
    assert_close(net.ntk(X, Z), ReLUNTK(depth, 1.3, 0.2)(X, Z), 1e-13)


@pytest.mark.parametrize("net", [fully_connected(2), convolutional(2), convolutional(2, "gap")], ids=repr)
def test_kernels_of_rectifiers_without_biases_scale_with_their_points(net):
    x, z = (X, Z) if not net.of_pixels else (IMAGES, OTHERS)
    for one, other in zip(net.both(3 * x, 0.01 * z), net.both(x, z), strict=True):
        assert_close(one, 0.03 * other, 1e-13)


def test_a_mean_of_all_pixels_does_not_see_where_circular_images_begin():
    layers = [Conv(3, 2**0.5, 0.1, padding="circular"), ReLU(), Conv(2, 1.2, padding="circular"), Abs()]
    pooled, flat = (Serial(*layers, end, Dense()) for end in (GlobalAvgPool(), Flatten()))
    moved = IMAGES.roll((3, 5), (2, 3))
    for kind in ("nngp", "ntk"):
        assert_close(getattr(pooled, kind)(moved, OTHERS), getattr(pooled, kind)(IMAGES, OTHERS), 1e-13)
        one, other = getattr(flat, kind)(moved, OTHERS), getattr(flat, kind)(IMAGES, OTHERS)
        assert float((one - other).abs().max()) > 1e-3 * float(other.abs().max())


def test_flattening_is_another_kernel_than_the_mean_of_all_pixels():
    flat, pooled = convolutional(2).nngp(IMAGES, OTHERS), convolutional(2, "gap").nngp(IMAGES, OTHERS)
    assert float((flat - pooled).abs().max()) > 1e-2 * float(flat.abs().max())


def test_layers_that_do_nothing_change_nothing():
    net = convolutional(2, b_std=0.1)
    first, rest = net.layers[0], net.layers[1:]
    for other in (Serial(first, AvgPool(1), *rest), Serial(first, Residual(Dense(W_std=0.0)), *rest),
                  Serial(first, *rest[:1], Dropout(1.0), *rest[1:]), Serial(Serial(first, *rest[:2]), *rest[2:])):
        for one, true in zip(other.both(IMAGES, OTHERS), net.both(IMAGES, OTHERS), strict=True):
            assert_close(one, true, 1e-13)


def test_images_of_one_pixel_are_vectors():
    one = convolutional(2, b_std=0.3, side=1)
    for found, true in zip(one.both(X[:, :, None, None], Z[:, :, None, None]), fully_connected(2, b_std=0.3).both(X, Z),
                           strict=True):
        assert_close(found, true, 1e-13)


def test_points_of_any_shape_are_vectors_where_no_layer_looks_at_pixels():
    net = fully_connected(2, b_std=0.3)
    flat = Serial(Flatten(), *net.layers)
    for one, other in zip(net.both(IMAGES, OTHERS), flat.both(IMAGES.flatten(1), OTHERS.flatten(1)), strict=True):
        assert_close(one, other, 1e-14)


# -- normalization ---------------------------------------------------------------------------------------------------


def test_after_a_normalization_all_variances_are_one_and_lengths_do_not_matter():
    net = Serial(Dense(1.3), LayerNorm(), ReLU(), Dense(2**0.5))
    assert_close(net.nngp.diagonal(X), torch.ones(4, dtype=torch.float64), 1e-10)
    assert_close(net.nngp(X, Z), net.nngp(100 * X, 0.1 * Z), 1e-9)


def test_normalizing_each_pixel_and_all_of_them_are_one_where_pixels_have_one_size():
    x, z = (t / t.norm(dim=1, keepdim=True) for t in (IMAGES, OTHERS))
    for end in (Flatten(), GlobalAvgPool()):
        one, other = (Serial(Conv(1), LayerNorm(over=over), ReLU(), end, Dense()) for over in ("channels", "all"))
        for found, true in zip(one.both(x, z), other.both(x, z), strict=True):
            assert_close(found, true, 1e-13)
        assert float((one.nngp(IMAGES) - other.nngp(IMAGES)).abs().max()) > 1e-2


def test_normalizing_all_pixels_divides_by_their_root_mean_square():
    net = Serial(Conv(3, 1.3, 0.1), LayerNorm(over="all"), Flatten(), Dense())
    plain = Serial(Conv(3, 1.3, 0.1), Flatten(), Dense())
    one, other = (plain.nngp.diagonal(t).sqrt() for t in (IMAGES, OTHERS))
    assert_close(net.nngp(IMAGES, OTHERS), plain.nngp(IMAGES, OTHERS) / (one[:, None] * other), 1e-11)


def test_dropout_raises_what_a_point_has_with_itself_and_nothing_else():
    layers = Dense(1.3, 0.2), ReLU(), Dense(1.1, 0.3)
    plain, net = Serial(*layers), Serial(*layers[:2], Dropout(0.7), layers[2])
    bias = 0.3**2
    for kind in ("nngp", "ntk"):
        true, found = getattr(plain, kind)(X), getattr(net, kind)(X)
        assert_close(found - found.diag().diag(), true - true.diag().diag(), 1e-14)
        assert_close(getattr(net, kind)(X, X.clone()), getattr(plain, kind)(X, X.clone()), 1e-14)
        assert_close(found.diagonal(), getattr(net, kind).diagonal(X), 1e-14)
    assert_close(net.nngp.diagonal(X), (plain.nngp.diagonal(X) - bias) / 0.7 + bias, 1e-13)
    extra = plain.ntk.diagonal(X) - plain.nngp.diagonal(X)
    assert_close(net.ntk.diagonal(X), net.nngp.diagonal(X) + extra / 0.7, 1e-13)


def test_dropout_leaves_out_pixels_by_themselves():
    layers = Conv(1), ReLU(), GlobalAvgPool(), Dense()
    plain, net = Serial(*layers), Serial(*layers[:2], Dropout(0.5), *layers[2:])
    # The mean over pairs of pixels, of which those of one pixel with itself count twice.
    same = Serial(*layers[:2], Flatten(), Dense()).nngp.diagonal(IMAGES) / 64
    assert_close(net.nngp.diagonal(IMAGES), plain.nngp.diagonal(IMAGES) + same, 1e-13)


# -- positive matrices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [fully_connected(3, b_std=0.1), convolutional(2), convolutional(2, "gap"),
                                 Serial(Dense(), LayerNorm(), ReLU(), Residual(Dense(), ReLU(), Dense()), Dense())],
                         ids=repr)
def test_the_process_and_what_the_tangent_kernel_has_beyond_it_are_positive(net):
    x = torch.cat([IMAGES, OTHERS, IMAGES[:1]]) if net.of_pixels else torch.cat([X, Z, X[:1]])
    nngp, ntk = net.both(x)
    for matrix in (nngp, ntk - nngp):
        assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12 * float(matrix.diagonal().max())
