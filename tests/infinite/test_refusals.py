"""What networks and their kernels are not given: sentences that say what to do."""

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from kernelscope.kernels.infinite import (
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Erf,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    ReLU,
    Residual,
    Serial,
    convolutional,
    fully_connected,
    myrtle,
    named,
)
from tests.infinite import golden
from tests.laws import assert_close

X = golden.points((4, 5))
IMAGES = golden.points((3, 2, 6, 4))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Serial(ReLU(), Dense()).ntk, "Put one in front"),
    (lambda: Serial(Dense(), ReLU(), ReLU(), Dense()).ntk, "Put one in front"),
    (lambda: Serial(LayerNorm(), Dense()).nngp, "Put one in front"),
    (lambda: Serial(Dense(), ReLU()).ntk, "readout"),
    (lambda: Serial().ntk, "readout"),
    (lambda: Serial(Dropout(0.5), Dense()).ntk, "begins with a Dropout"),
    (lambda: Serial(Dense(), Dropout(0.5)).ntk, "readout"),
    (lambda: Serial(Dense, ReLU()), "brackets"),
    (lambda: Serial(Dense(), torch.nn.ReLU()), "made of layers"),
    (lambda: Serial(Dense(), parameterization="mup"), "parameterization"),
    (lambda: Residual(Dense(), ReLU()), "Put one after the activation"),
    (lambda: Residual(Flatten(), Dense()), "after it"),
    (lambda: Dense(W_std=-1.0), "W_std"),
    (lambda: Dense(b_std=float("nan")), "b_std"),
    (lambda: Dense(width=0), "width"),
    (lambda: Conv(0), "side"),
    (lambda: Conv("3"), "side"),
    (lambda: Conv(3, padding="reflect"), "padding"),
    (lambda: Conv(3, stride=1.5), "stride"),
    (lambda: AvgPool(0), "side"),
    (lambda: Dropout(0.0), "rate"),
    (lambda: Dropout(1.5), "rate"),
    (lambda: Dropout("half"), "rate"),
    (lambda: fully_connected(-1), "depth"),
    (lambda: convolutional(2, "max"), "pooling"),
    (lambda: myrtle(6), "depths 5, 7, 10"),
    (lambda: myrtle(True), "depths 5, 7, 10"),
])
def test_networks_that_cannot_be_are_refused(make, words):
    with pytest.raises(DataError, match=words):
        make()


@pytest.mark.parametrize(("net", "x", "z", "words"), [
    (fully_connected(1), X, X[:, :3], "one size"),
    (fully_connected(1), X[:0], None, "at least one"),
    (fully_connected(1), torch.ones(2, 3, dtype=torch.complex64), None, "real numbers"),
    (fully_connected(1), {"x": X, "mask": X}, None, "one tensor"),
    (fully_connected(1), (X, X), None, "one tensor"),
    (convolutional(1), X, None, r"shape \(n, channels, h, w\)"),
    (convolutional(1), IMAGES, IMAGES[:, :1], "one size"),
    (convolutional(1), IMAGES[:, 0], IMAGES[:, :1], r"shape \(n, channels, h, w\).* \(6, 4\), .* \(1, 6, 4\)"),
    (convolutional(1), IMAGES[:, :1], IMAGES[:, 0], r"keep its axis"),
    (convolutional(1), IMAGES, IMAGES.mT, r"\(2, 6, 4\), .* \(2, 4, 6\)"),
    (convolutional(1, "gap"), IMAGES, IMAGES[..., :3], r"\(2, 6, 4\), .* \(2, 6, 3\)"),
    (convolutional(1), IMAGES, IMAGES.reshape(3, 4, 4, 3), r"one size"),
    (convolutional(1), IMAGES[0], IMAGES, r"one size"),
    (Serial(Conv((3, 3)), Flatten(), Dense()), IMAGES[:, 0], None, r"\(3, 3\) .* 1 direction.*\(n, channels, h, w\)"),
    (convolutional(1), IMAGES[:0], None, "at least one"),
    (convolutional(1), {"x": IMAGES, "other": IMAGES}, None, "tensors came"),
    (convolutional(1), (IMAGES, IMAGES, IMAGES), None, "tensors came"),
    (Serial(Conv(3), ReLU(), Dense()), IMAGES, None, "Flatten"),
    (Serial(Conv((3, 3, 3)), Flatten(), Dense()), IMAGES, None, "directions"),
    (Serial(Conv(5, padding="valid"), Flatten(), Dense()), IMAGES, None, "does not fit"),
    (Serial(Conv(5, padding="circular"), Flatten(), Dense()), IMAGES, None, "does not fit"),
    (Serial(AvgPool(4), Flatten(), Dense()), IMAGES, None, "no multiple"),
    (Serial(Residual(Conv(1, stride=2)), Flatten(), Dense()), IMAGES, None, "same stride"),
    (Serial(Conv(1), GlobalAvgPool(), Conv(3), Dense()), IMAGES, None, "directions"),
])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_points_that_a_network_cannot_take_are_refused(net, x, z, words, kind):
    with pytest.raises(DataError, match=words):
        getattr(net, kind)(x, z)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("net", "x"), [(fully_connected(1), X), (convolutional(1), IMAGES)], ids=["fc", "cnn"])
def test_a_point_that_is_not_finite_is_named(net, x, value):
    x = x.clone()
    x[2, 1] = value
    for call in (lambda: net.ntk(x), lambda: net.nngp(x, x[:1]), lambda: net.both(x), lambda: net.ntk.diagonal(x)):
        with pytest.raises(NonFiniteError, match=r"Point 2 "):
            call()


@pytest.mark.parametrize(("net", "x"), [(fully_connected(2, b_std=0.1), X), (fully_connected(2, Erf()), X),
                                        (convolutional(1), IMAGES), (convolutional(1, "gap"), IMAGES)],
                         ids=["fc", "erf", "cnn", "gap"])
def test_whole_numbers_and_half_precision_are_read_in_single_precision(net, x):
    whole = (10 * x).round()
    for dtype in (torch.int64, torch.uint8, torch.float16, torch.bfloat16):
        points = whole.abs().to(dtype)
        found = net.ntk(points)
        assert found.dtype == torch.float32
        assert_close(found, net.ntk(points.double()), 1e-5)
    assert_close(net.ntk(np.asarray(x)), net.ntk(x), 1e-15)


def test_a_machine_for_images_asks_for_their_channel():
    images = golden.points((12, 1, 6, 6))
    machine = ks.fit(convolutional(1).nngp, images, golden.points((12,)), ridge=0.1, progress=False)
    assert machine(images).shape == (12,)
    for some in (images[:, 0], images[:6, 0]):
        with pytest.raises(DataError, match=r"keep its axis"):
            machine(some)


def test_points_with_one_axis_of_pixels_are_sequences():
    assert convolutional(1).nngp(IMAGES[:, 0]).shape == (3, 3)


@pytest.mark.parametrize("affine", [lambda: Dense(10.0), lambda: Conv(3, 10.0)], ids=["fc", "cnn"])
def test_kernels_beyond_their_precision_say_so(affine):
    end = [] if type(affine()) is Dense else [Flatten()]
    points = IMAGES if end else X
    net = Serial(*[layer for _ in range(62) for layer in (affine(), ReLU())], *end, Dense())
    assert bool(net.ntk(points).isfinite().all())
    for call in (net.ntk, net.nngp, net.ntk.diagonal, net.both, lambda x: net.ntk(x, x[:2])):
        with pytest.raises(NonFiniteError, match=r"float32 can hold.*x\.double\(\).*W_std=2\*\*0\.5"):
            call(points.float())


def test_memory_that_is_too_small_for_two_points_is_refused():
    kernel = convolutional(1, "gap").ntk
    kernel.memory = 1000
    with pytest.raises(OutOfBudget, match="memory"):
        kernel(IMAGES)


@pytest.mark.parametrize("name", ["fc", "fc0", "fc3-gap", "cnn3-max", "myrtle6", "myrtle5-gap", "FC3", "fc3-",
                                  "fc3-swish", "", 3, None])
def test_names_that_no_network_has_are_answered_with_the_forms(name):
    with pytest.raises(DataError, match=r"fcN, cnnN, cnnN-gap, myrtle5, myrtle7, myrtle10"):
        named(name)
