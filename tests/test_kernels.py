"""Every kernel obeys the laws, and tangent kernels are the products of Jacobians by plain automatic differentiation."""

import copy

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.features import GradientFeatures
from kernelscope.kernels import FeatureKernel, Tangent
from tests import laws, oracles
from tests.laws import assert_close
from tests.maps import KERNELS, M, Monomials, N, Waves, squared_error, with_targets
from tests.networks import NETWORKS, inputs, make, vectors


@pytest.mark.parametrize("law", laws.KERNELS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", KERNELS)
def test_law(name, law, dtype, device):
    k, points = KERNELS[name](dtype, device)
    law(k, points(N, dtype, device), points(M, dtype, device))


# -- against Jacobians -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jacobians():
    """Those of each network, computed once."""
    found = {}

    def of(name, n):
        if (name, n) not in found:
            # From single precision, so that both precisions mean the same network and inputs.
            model, x = make(name).float(), inputs(name, n, dtype=torch.float32)
            found[name, n] = oracles.jacobian(model, x)
        return found[name, n]

    return of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_tangent_kernel_is_the_product_of_jacobians(name, outputs, dtype, jacobians):
    model, x, z = make(name).float(), inputs(name, N, dtype=torch.float32), inputs(name, M, dtype=torch.float32)
    k = Tangent(model, outputs=outputs, dtype=dtype)
    near, far = jacobians(name, N), jacobians(name, M)
    assert k(x).dtype == dtype
    for found, true in ((k(x), oracles.products(near, near, outputs)), (k(x, z), oracles.products(near, far, outputs))):
        assert_close(found, true)
    square = oracles.products(near, near, outputs)
    diagonal = square.flatten(0, 1).flatten(1).diagonal() if square.ndim == 4 else square.diagonal()
    assert_close(k.diagonal(x).flatten(), diagonal)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_its_operator_multiplies_without_it(name, outputs, dtype, jacobians):
    model, x, z = make(name).float(), inputs(name, N, dtype=torch.float32), inputs(name, M, dtype=torch.float32)
    k = Tangent(model, outputs=outputs, dtype=dtype)
    dense = oracles.products(jacobians(name, N), jacobians(name, M), outputs)
    v = laws.random_like((*laws.columns_of(dense), 2), dense)
    K = ks.KernelOperator(k, x, z)
    # Relative to the sum of absolute values, in which single precision is exact.
    scale = laws.product(dense.abs(), v.abs()).max()
    assert_close(K @ v.to(dtype), laws.product(dense, v), scale=scale)
    if outputs == "trace":
        left, right, w = k.points(x), k.points(z), v.to(k.features.device, dtype)
        for found in (k._output_by_output(left, right, w), k._block_by_block(left, right, w)):
            assert_close(found, laws.product(dense, v), scale=scale)


@pytest.mark.parametrize("name", ["a perceptron", "a residual network with GroupNorm", "a transformer with a mask"])
def test_losses_angles_and_single_outputs(name):
    model, x, z = make(name), inputs(name, 4), inputs(name, 3)
    near, far = oracles.jacobian(model, x), oracles.jacobian(model, z)
    full = oracles.products(near, far, "full")
    assert_close(Tangent(model, output=1)(x, z), full[:, 1, :, 1])
    assert_close(Tangent(model, output=-1)(x, z), full[:, -1, :, -1])
    assert_close(Tangent(model, output=lambda y: y.logsumexp(1))(x, z),
                 oracles.products(*(oracles.jacobian(model, p, output=lambda y: y.logsumexp(1)) for p in (x, z))))
    lengths = [J.flatten(1).norm(dim=1) for J in (near, far)]
    assert_close(Tangent(model, cosine=True)(x, z), oracles.products(near, far) / lengths[0][:, None] / lengths[1])
    y, t = (vectors(10, 3)[:len(points)] for points in (x, z))
    losses = [oracles.jacobian(model, pair, loss=squared_error) for pair in ((x, y), (z, t))]
    assert_close(Tangent(model, loss=squared_error)((x, y), (z, t)), oracles.products(*losses))


def test_cross_entropy_is_a_loss_as_it_comes():
    model, x, y = make("a perceptron"), vectors(6), torch.arange(6) % 3
    J = oracles.jacobian(model, (x, y), loss=nn.functional.cross_entropy)
    assert_close(Tangent(model, loss=nn.CrossEntropyLoss())((x, y)), oracles.products(J, J))


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("name", ["a perceptron", "convolutions with stride, padding, dilation and groups",
                                  "an embedding tied to its readout", "weight normalisation"])
def test_blocks_of_any_size_give_the_same_kernel_and_product(name, outputs):
    model, x, z = make(name), inputs(name, 23), inputs(name, 17)
    whole = Tangent(model, outputs=outputs)
    true, square = whole(x, z), whole(x)
    least = whole.features._gatherer.measure(whole.points(x), 17, outputs == "full")[1]
    v = laws.random_like((*laws.columns_of(true), 2), true)
    refused = 0
    for samples in (1000, 60, 25, 12):
        k = Tangent(model, outputs=outputs, memory=samples * least)
        try:
            assert_close(k(x, z), true)
            assert_close(k(x), square)
        except ks.errors.OutOfBudget:
            refused += 1
        assert_close(k.matmul(x, z, v), laws.product(true, v))
        assert_close(k.diagonal(x), whole.diagonal(x))
    assert refused < 4


def test_the_tangent_kernel_by_parameter_sums_to_the_whole():
    model, x, z = make("a GRU"), inputs("a GRU", 4), inputs("a GRU", 3)
    k = Tangent(model)
    assert_close(sum(k.by_parameter(x, z).values()), k(x, z))


def test_a_frozen_layer_has_no_share():
    model, x = make("a perceptron"), vectors(4)
    whole = Tangent(model, parameters=["2"])(x)
    frozen = copy.deepcopy(model)
    frozen[0].requires_grad_(False)
    assert_close(Tangent(frozen)(x), whole)


def test_a_kernel_of_two_networks_is_two_sided():
    first, second, x, z = make("a perceptron"), make("a perceptron", seed=1), vectors(4), vectors(3)
    for outputs in ("trace", "full"):
        k = FeatureKernel(GradientFeatures(first), GradientFeatures(second), outputs)
        true = oracles.products(oracles.jacobian(first, x), oracles.jacobian(second, z), outputs)
        assert_close(k(x, z), true)
        v = laws.random_like((*laws.columns_of(true), 2), true)
        assert_close(k.matmul(x, z, v), laws.product(true, v))
        assert not k.symmetric


def test_a_feature_kernel_is_positive_semidefinite():
    for k in (FeatureKernel(Monomials()), FeatureKernel(Waves()), Tangent(make("a perceptron"))):
        values = torch.linalg.eigvalsh(k(vectors(12)))
        assert values.min() > -1e-12 * values.max()


# -- what a kernel says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", ["trace", "full"])
def test_the_check_finds_agreement_and_disagreement(outputs):
    model, x = make("a transformer"), inputs("a transformer", 7)
    k = Tangent(model, outputs=outputs)
    assert k.check(x).error < 1e-12
    assert 1e-9 < Tangent(model, outputs=outputs, dtype=torch.float32).check(x).error < 1e-5
    inner = k.features.inner
    k.features.inner = lambda *a: 1.01 * inner(*a)
    assert abs(k.check(x).error - 0.01) < 1e-9


def test_a_checked_call_prints_its_error(capsys):
    Tangent(make("a perceptron"), check=True)(vectors(5))
    said = capsys.readouterr().out
    assert "4 by 4 random points" in said
    assert "largest error" in said


def test_rounding_before_products_is_off_by_what_is_said():
    model, x = make("a perceptron"), vectors(8)
    exact, rounded = (Tangent(model, dtype=torch.float32, precision=p) for p in ("exact", "bf16"))
    gap = (rounded(x) - exact(x)).abs().max() / exact(x).abs().max()
    assert 1e-6 < gap < 5e-3


def test_unknown_outputs_are_refused():
    for kind, what in ((Tangent, make("a perceptron")), (FeatureKernel, Waves())):
        with pytest.raises(DataError, match=r"outputs must be .*'sum' came"):
            kind(what, outputs="sum")


def test_kernels_of_different_outputs_are_not_added():
    x = vectors(2, 2)
    model = nn.Linear(2, 2).double()
    for made in (Tangent(model) + Tangent(model, outputs="full"), Tangent(model) * Tangent(model, outputs="full")):
        with pytest.raises(DataError, match="Let all keep pairs of outputs"):
            made(x)


def test_targets_are_needed_for_losses():
    with pytest.raises(DataError, match=r"only inputs came. Pass \(inputs, targets\)"):
        Tangent(make("a perceptron"), loss=squared_error)(vectors(3))


def test_kernels_of_outputs_and_of_losses_read_the_same_points():
    model, (x, y) = make("a perceptron"), with_targets(4, torch.float64, "cpu")
    outputs, losses = Tangent(model, output=1), Tangent(model, loss=squared_error)
    true, v = outputs(x) + losses((x, y)), torch.arange(4.0).double()
    one, other = outputs.features, losses.features
    for k in (outputs + losses, losses + outputs, 1 * (outputs + losses).T,
              FeatureKernel(one + other), FeatureKernel(other + one)):
        assert k.targets
        assert_close(k((x, y)), true)
        assert_close(ks.KernelOperator(k, (x, y)) @ v, true @ v)
        with pytest.raises(DataError, match="only inputs came"):
            k(x)
    J, L = oracles.jacobian(model, x)[:, [1]], oracles.jacobian(model, (x, y), loss=squared_error)
    for k, near, far in ((FeatureKernel(one, other), J, L), (FeatureKernel(other, one), L, J)):
        assert_close(k((x, y)), oracles.products(near, far))
        assert_close(k.T((x, y)), oracles.products(far, near))
        assert_close(k.matmul((x, y), None, v), oracles.products(near, far) @ v)


def test_data_are_read_from_where_they_are(tmp_path):
    import numpy as np

    model, (x, y) = make("a perceptron"), with_targets(7, torch.float64, "cpu")
    k, l = Tangent(model), Tangent(model, loss=squared_error)
    true = k(x)
    np.save(tmp_path / "x.npy", x.numpy())
    data = torch.utils.data.TensorDataset(x, y)
    for points in (x.numpy(), tmp_path / "x.npy", data, torch.utils.data.DataLoader(data, batch_size=3)):
        assert_close(k(points), true)
    assert_close(l(data), l((x, y)))


def test_kernels_made_of_others_say_what_they_are_made_of():
    one, other = ks.kernels.Cosine(), ks.kernels.Gaussian(bandwidth=1.0)
    assert repr(2 * (one + other) * one) == "2 * (Cosine() + Gaussian(bandwidth=1)) * Cosine()"
    assert repr(2 * (one * other)) == "2 * Cosine() * Gaussian(bandwidth=1)"
