"""Stages of convolutional networks: loops over pixels are their oracle, and neural-tangents gave the golden numbers."""

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import torch

from kernelscope.errors import DataError
from kernelscope.kernels.infinite import fused
from kernelscope.kernels.infinite.fused import Affine, Stage, reference
from kernelscope.kernels.infinite.fused.angles import polynomials, turned
from kernelscope.kernels.infinite.passes import CLOSE, leading
from tests.infinite import pixels
from tests.infinite.golden import matrix
from tests.laws import assert_close

ROOT = Path(__file__).parents[2]
RELU, WIDE, LEAKY, ABS = Affine(3, 2.0, 0.0, 0.0, 1.0), Affine(5, 1.5, 0.3, 0.0, 1.0), \
    Affine(1, 1.2, 0.1, 0.2, 1.0), Affine(3, 1.1, 0.0, -1.0, 1.0)
NETWORKS = {"relu": (RELU, RELU), "wide": (WIDE, LEAKY), "abs": (ABS, RELU), "widest": (Affine(7, 2.0, 0.2, 0.0, 1.0),),
            "none": ()}

#: As neural-tangents computes them in float64, on the images of ``golden``.
GOLDEN = {
    "myrtle5": (
        [[0.045621815673286756, 0.04652031669805546],
         [0.04450367053356438, 0.045069196713570014],
         [0.04780148521765033, 0.048474592776737775]],
        [[0.09562337610727223, 0.09945898245403004],
         [0.094365765488687, 0.0956522446809061],
         [0.10157363864483851, 0.10358303600197485]],
    ),
    "myrtle7": (
        [[0.013958105050904921, 0.014165067903738275],
         [0.013623378975881782, 0.013742072552930829],
         [0.014602717717980513, 0.014762933825178823]],
        [[0.0340469351713503, 0.035528308581295076],
         [0.0337974784383957, 0.03401855397617513],
         [0.03624695566835569, 0.03700270919330678]],
    ),
    "myrtle10": (
        [[0.004796984660260013, 0.0048864090993391545],
         [0.004655858816772898, 0.004727899578496551],
         [0.005004274676179595, 0.005088873609116969]],
        [[0.014076852002008151, 0.014699295638819256],
         [0.013866345950427038, 0.014037720715223117],
         [0.014892768331618799, 0.015297367279233098]],
    ),
}


NUMBA = pytest.mark.skipif(find_spec("numba") is None, reason="is so of the compiled loops")


def programs():
    found = [reference]
    if find_spec("numba") is not None:
        from kernelscope.kernels.infinite.fused import processor
        found.append(processor)
    return found


PROGRAMS = pytest.mark.parametrize("program", programs(), ids=lambda m: m.__name__.rpartition(".")[2])


def images(n, h=4, w=6, seed=0, dtype=torch.float64):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def far(found, true):
    return float((found - true).abs().max() / true.abs().max().clamp(min=1e-300))


@PROGRAMS
@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_a_stage_is_what_loops_over_pixels_compute(program, layers):
    x, z = images(2), images(2, seed=1)
    z[1, :, :2, :4] = 0
    i, j = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
    K, T = program.of_images(Stage(layers, 2), x, z, i, j)
    whole = program.of_images(Stage(layers, 1), x, z, i, j)
    assert K.shape == T.shape == (3, 2, 3, 2, 3)
    for pair, (a, b) in enumerate(zip(i, j, strict=True)):
        for found, one, true in zip((K, T), whole, pixels.covariances(layers, x[a].tolist(), z[b].tolist()),
                                    strict=True):
            assert far(found[pair], torch.tensor(pixels.pooled(true, 4, 6, 2), dtype=torch.float64)) <= 1e-12
            assert far(one[pair], torch.tensor(pixels.pooled(true, 4, 6, 1), dtype=torch.float64)) <= 1e-12


@PROGRAMS
@pytest.mark.parametrize("layers", [NETWORKS["relu"], NETWORKS["wide"]], ids=["relu", "wide"])
def test_two_stages_without_pooling_are_one(program, layers):
    x, z, i, j = images(2), images(2, seed=1), torch.tensor([0, 1]), torch.tensor([1, 1])
    first, last = Stage(layers[:1], 1), Stage(layers[1:], 2)
    own = (program.of_images(first, t, t, *2 * (torch.arange(2),))[0] for t in (x, z))
    left, right = (torch.einsum("nhwhw->nhw", k) for k in own)
    found = program.of_covariances(last, *program.of_images(first, x, z, i, j), left, right, i, j)
    for one, both in zip(found, program.of_images(Stage(layers, 2), x, z, i, j), strict=True):
        assert far(one, both) <= 1e-12


@PROGRAMS
@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_without_pooling_the_kernel_is_the_mean_over_equal_pixels(program, layers):
    x, z = images(3), images(2, seed=1)
    K, T = program.of_pixels(layers, x, z)
    for a, b in product(range(3), range(2)):
        for found, true in zip((K, T), pixels.covariances(layers, x[a].tolist(), z[b].tolist()), strict=True):
            mean = sum(v for (p, q), v in true.items() if p == q) / 24
            assert float(found[a, b]) == pytest.approx(mean, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("layers", [NETWORKS["wide"], NETWORKS["abs"]], ids=["wide", "abs"])
def test_a_vector_is_an_image_of_one_pixel(layers):
    x, z = images(40)[..., :1, :1], images(1500, seed=1)[..., :1, :1]
    a, b = (t[:, :, 0, 0].square().mean(1).sqrt() for t in (x, z))
    lack = torch.outer(a, b) - x[:, :, 0, 0] @ z[:, :, 0, 0].T / 3
    true = reference.of_pixels([layer.alone for layer in layers], x, z)
    for found, expected in zip(fused.of_vectors(layers, lack, a, b), true, strict=True):
        assert far(found, expected) <= 1e-12


def mixed(n, seed):
    """Vectors of many lengths that have much in common, and their near-duplicates, opposites and noughts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 300, generator=generator, dtype=torch.float64) + 3 * torch.ones(300)
    x[::5] -= 3
    x[1::7] = -x[0] * torch.linspace(1, 2, len(x[1::7]))[:, None] + 1e-3 * x[1::7]
    x[2::7] = x[0] + 1e-5 * x[2::7]
    x[3] = 0
    return x * torch.logspace(-3, 3, n)[:, None]


@NUMBA
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("layers", [NETWORKS["wide"], NETWORKS["abs"], (RELU,)], ids=["wide", "abs", "relu"])
@pytest.mark.parametrize("shared", [True, False])
def test_units_go_from_products_to_the_readout(layers, kind, shared):
    x, z = mixed(30, 0).to(kind), mixed(1100, 1).to(kind)
    alone = [layer.alone for layer in layers]
    true = reference.of_pixels(alone, *(t.double()[..., None, None] for t in (x, z)))
    directions = leading(z) if shared else torch.zeros(4, 300)
    near, far_side = (fused.units(t, directions) for t in (x, z))
    w, b, r, s, e = 1.5, 0.2, 0.7, 1.1, 0.4
    K, T = fused.of_units(layers, (w, b, r, s, e), near, far_side, CLOSE)
    roots = [reference.of_variances(alone, t.double().square().mean(1)[:, None, None]).end[:, 0, 0] for t in (x, z)]
    scale = torch.outer(*roots)
    limit = 1e-13 if kind == torch.float64 else 1e-6 if shared else 2e-6
    for found, expected in ((K, w * true[0] + b), (T, r * true[1] + s * true[0] + e)):
        assert found.dtype == kind
        assert float(((found - expected).abs() / (scale + 1)).max()) <= limit
    alone = fused.of_units(layers, (w, b, r, s, e), near, far_side, CLOSE, tangent=False)
    assert torch.equal(alone[0], K)


@NUMBA
@pytest.mark.parametrize("size", [1e-14, 1e14])
def test_units_of_any_length(size):
    x = torch.nn.functional.normalize(mixed(20, 0), dim=1) * torch.linspace(1, 2, 20)[:, None]
    found, true = (fused.of_units((RELU,), (1.0, 0.0, 1.0, 0.0, 0.0), u, u, CLOSE) for u in (
        fused.units((size * x).float(), leading(x)), fused.units(x, leading(x))))
    assert float((found.double() / size**2 - true).abs().max()) <= 1e-6 / 300


def test_leading_directions_are_those_that_points_share():
    x = mixed(100, 0)
    e = leading(x)
    there = e.square().sum(1) > 0
    assert int(there.sum()) in (1, 2, 3, 4)
    assert_close(e[there] @ e[there].T, torch.eye(int(there.sum()), dtype=torch.float64), 1e-12)
    u = torch.nn.functional.normalize(x, dim=1)
    assert float((u - u @ e.T @ e).square().sum() / u.square().sum()) < 0.2
    # One point has one direction, and points of nought have none.
    assert leading(x[:1]).shape == (4, 300)
    assert_close(leading(x[:1])[0].abs(), u[0].abs(), 1e-12)
    assert float(leading(0 * x).abs().max()) == 0


@PROGRAMS
def test_tangent_kernels_are_left_out_where_they_are_not_wanted(program):
    x, i = images(2), torch.tensor([0, 1])
    stage, a = Stage((RELU,), 2), torch.ones(2, dtype=torch.float64)
    for call in (lambda t: program.of_images(stage, x, x, i, i, t), lambda t: program.of_pixels((RELU,), x, x, t),
                 lambda t: fused.of_vectors((RELU,), torch.eye(2, dtype=torch.float64), a, a, t)):
        assert call(False)[1] is None
        assert torch.equal(call(False)[0], call(True)[0])
    K, T = program.of_images(stage, x, x, i, i)
    q = torch.einsum("nhwhw->nhw", K)
    without = program.of_covariances(Stage((RELU,), 1), K, None, q, q, i, i)
    assert without[1] is None
    assert torch.equal(without[0], program.of_covariances(Stage((RELU,), 1), K, T, q, q, i, i)[0])


@PROGRAMS
def test_no_pairs_and_no_images_have_no_kernels(program):
    x, none = images(2), torch.zeros(0, dtype=torch.int64)
    assert program.of_images(Stage((RELU,), 2), x, x, none, none)[1].shape == (0, 2, 3, 2, 3)
    assert program.of_pixels((RELU,), x[:0], x)[0].shape == (0, 2)


@PROGRAMS
def test_any_number_of_threads_gives_the_same_bits(program):
    x, (i, j) = images(5), torch.triu_indices(5, 5)
    calls = (lambda: program.of_images(Stage((RELU,), 2), x, x, i, j), lambda: program.of_pixels((RELU,), x, x))
    one = [call() for call in calls]
    torch.set_num_threads(2)
    try:
        two = [call() for call in calls]
    finally:
        torch.set_num_threads(1)
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


# -- in single precision ---------------------------------------------------------------------------------------------


def alike(h=8, w=8):
    """Images of which some are nearly or exactly the same, shifted, or empty in a corner."""
    x = images(2, h, w)
    empty = x[1].clone()
    empty[:, :6, :6] = 0
    noise = images(1, h, w, seed=1)[0]
    return torch.stack((x[0], x[0], x[0] + 1e-4 * noise, x[0] + 1e-6 * noise, x[0].roll(1, 2), x[1], empty)).float()


@PROGRAMS
def test_single_precision_keeps_its_digits_between_nearly_equal_images(program):
    x = alike()
    i, j = torch.triu_indices(len(x), len(x))
    found, true = (program.of_images(Stage((RELU,) * 3, 8), t, t, i, j) + program.of_pixels((RELU,) * 10, t, t)
                   for t in (x, x.double()))
    # By the textbook's formulas 1e-4, since an angle of nearly nought is then the root of a difference that cancels.
    for narrow, wide in zip(found, true, strict=True):
        assert float(((narrow - wide).abs() / wide).max()) <= 2e-6


@NUMBA
def test_rounding_does_not_repeat_in_every_layer():
    layers, unit = (RELU.alone,) * 30, torch.nn.functional.normalize(images(8)[..., 0, 0], dim=1)
    x = torch.linspace(1, 2, 8, dtype=torch.float64)[:, None] * unit
    narrow, wide = (fused.of_units(layers, (1.0, 0.0, 1.0, 0.0, 0.0), u, u, CLOSE)
                    for u in (fused.units(x.to(t), torch.zeros(4, 3)) for t in (torch.float32, torch.float64)))
    for found, true in zip(narrow, wide, strict=True):
        assert float(((found - true) / true).abs().max()) <= 1e-6


@PROGRAMS
def test_an_image_has_no_angle_with_itself(program):
    x = alike()
    layers = (RELU.alone,) * 10
    K, T = program.of_pixels(layers, x, x)
    # Without an angle every layer keeps the variance, and adds it to the tangent kernel.
    q = x.double().square().mean((1, 2, 3))
    assert far(K.diagonal(), q) <= 1e-6
    assert far(T.diagonal(), 10 * q) <= 1e-6


@PROGRAMS
def test_what_is_not_a_number_is_not_made_one(program):
    x = images(2, dtype=torch.float32)
    x[1, 0, 2, 2] = math.nan
    K, T = program.of_pixels((RELU,), x, x)
    assert torch.equal(K.isnan(), torch.tensor([[False, True], [True, True]]))
    assert torch.equal(T.isnan(), K.isnan())


def test_polynomials_are_the_functions_to_the_last_digits():
    y = torch.linspace(0, 0.5, 1001, dtype=torch.float64)
    angle, bend = turned(y)
    theta = 2 * y.sqrt().asin()
    assert (angle - theta).abs().max() <= 1e-14
    assert (bend - (theta.sin() - theta * theta.cos())).abs().max() <= 1e-14
    narrow = [sum(c * y**k for k, c in enumerate(reversed(p))) for p in polynomials(torch.float32)]
    assert (narrow[0] * y.sqrt() - theta).abs().max() <= 1e-8
    assert (narrow[1] * y.sqrt() * y - bend).abs().max() <= 1e-8


# -- as other programs compute them ----------------------------------------------------------------------------------


def golden(n, c):
    """Images with shape (n, 3, 8, 8) that need no random numbers."""
    k = torch.arange(1, n * 192 + 1, dtype=torch.float64)
    x = (k * 0.7548776662466927 + c + (k * k * 0.5698402909980532) % 1) % 1 * 2 - 1
    return x.reshape(n, 8, 8, 3).permute(0, 3, 1, 2)


def read_out(K, T):
    """A dense layer of variance 2."""
    return 2 * K, 2 * K + 2 * T


@PROGRAMS
@pytest.mark.parametrize(("name", "counts"), [("myrtle5", (2, 1, 1)), ("myrtle7", (2, 2, 2)), ("myrtle10", (3, 3, 3))])
def test_networks_have_the_kernels_of_neural_tangents(program, name, counts):
    x, z, (i, j) = golden(3, 0.1), golden(2, 0.37), torch.cartesian_prod(torch.arange(3), torch.arange(2)).T
    first, *others = [Stage((RELU,) * count, 2) for count in counts]
    own = [program.of_images(first, t, t, *2 * (torch.arange(len(t)),), False)[0] for t in (x, z)]
    K, T = program.of_images(first, x, z, i, j)
    for stage in others:
        q = [torch.einsum("nhwhw->nhw", k) for k in own]
        K, T = program.of_covariances(stage, K, T, *q, i, j)
        own = [program.of_covariances(stage, k, None, v, v, *2 * (torch.arange(len(v)),))[0]
               for k, v in zip(own, q, strict=True)]
    for found, true in zip(read_out(K, T), GOLDEN[name], strict=True):
        assert far(found.reshape(3, 2), torch.tensor(true, dtype=torch.float64)) <= 1e-12


@PROGRAMS
def test_a_network_without_pooling_has_the_kernels_of_neural_tangents(program):
    layers = (Affine(3, 2.0, 0.01, 0.0, 1.0),) * 2
    K, T = program.of_pixels(layers, golden(3, 0.1), golden(2, 0.37))
    # The readout has biases, of variance 0.01.
    for found, kind in ((2 * K + 0.01, "nngp"), (2 * K + 0.01 + 2 * T, "ntk")):
        assert far(found, matrix("conv2_flatten_relu", kind)) <= 1e-12


# -- on a GPU, or as one would ---------------------------------------------------------------------------------------


def test_a_gpu_computes_what_torch_computes():
    if find_spec("triton") is None:
        pytest.skip('needs triton, for its interpreter: pip install "kernelscope[gpu]"')
    call = [sys.executable, "-W", "ignore", "-m", "tests.infinite.interpreted"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=280, cwd=ROOT)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("the interpreter of this triton does not run with a numpy this new; 3.7 does")
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, most in (("float64", 1e-12), ("float32", 1e-6)):
        for what, gaps in json.loads(done.stdout)[kind].items():
            assert max(gaps) <= most, (kind, what, gaps)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_on_a_gpu_stages_are_those_of_torch(device, kind):
    x, (i, j) = images(3, 16, 16, dtype=kind), torch.triu_indices(3, 3)
    most = 1e-6 if kind == torch.float32 else 1e-12
    for layers, p in product(NETWORKS.values(), (1, 2, 16)):
        here = reference.of_images(Stage(layers, p), x, x, i, j)
        there = fused.of_images(Stage(layers, p), x.to(device), x.to(device), i, j)
        assert max(far(b.cpu(), a) for a, b in zip(here, there, strict=True)) <= most
        here, there = (fused.of_pixels(layers, t, t) for t in (x, x.to(device)))
        assert max(far(b.cpu(), a) for a, b in zip(here, there, strict=True)) <= most


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_torch_is_taken_where_numba_is_not_installed():
    code = ("import sys; sys.modules['numba'] = None; import importlib.util as u; f = u.find_spec; "
            "u.find_spec = lambda n: None if n == 'numba' else f(n); import torch; "
            "from kernelscope.kernels.infinite.fused import Affine, of_pixels; x = torch.ones(1, 1, 2, 2); "
            "print(of_pixels((Affine(1, 2.0, 0.0, 0.0, 1.0),), x, x)[0].item() - 1 < 1e-9)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == "True", done.stderr


def test_what_does_not_fit_is_refused():
    x, i = images(2), torch.tensor([0, 1])
    with pytest.raises(DataError, match="sides are multiples of it; these are 4 by 6"):
        fused.of_images(Stage((RELU,), 4), x, x, i, i)
    with pytest.raises(DataError, match="from 0 to 1 in j; these go from 0 to 2"):
        fused.of_images(Stage((RELU,), 2), x, x, i, torch.tensor([0, 2]))
    with pytest.raises(DataError, match="two tensors of equal length"):
        fused.of_images(Stage((RELU,), 2), x, x, i, i[:1])
    with pytest.raises(DataError, match="alike but for n"):
        fused.of_pixels((RELU,), x, x[:, :2])
    with pytest.raises(DataError, match="odd side, so that they have a middle; this one has 2"):
        fused.of_pixels((Affine(2, 1.0, 0.0, 0.0, 1.0),), x, x)
    with pytest.raises(DataError, match="Variances are not negative"):
        fused.of_pixels((Affine(3, -1.0, 0.0, 0.0, 1.0),), x, x)
    with pytest.raises(DataError, match="one row for each root"):
        fused.of_vectors((RELU,), torch.eye(2), torch.ones(3), torch.ones(2))
    with pytest.raises(DataError, match="float32 or float64, not torch.int64"):
        fused.of_vectors((RELU,), torch.ones(2, 2, dtype=torch.int64), torch.ones(2), torch.ones(2))
    q = torch.ones(2, 4, 6)
    with pytest.raises(DataError, match="K has a pixel of the left image and one of the right"):
        fused.of_covariances(Stage((RELU,), 2), torch.ones(1, 4, 6, 4, 6), None, q, q, i, i)
    with pytest.raises(DataError, match="shapes \\(n, H, W\\) and \\(m, H, W\\)"):
        fused.of_covariances(Stage((RELU,), 2), torch.ones(2, 4, 6, 4, 6), None, q, q[:, :2], i, i)
