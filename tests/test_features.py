"""Every feature map obeys the laws, and gradients of networks are those of plain automatic differentiation."""

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, OutOfBudget
from kernelscope.features import GradientFeatures, Preconditioned
from kernelscope.kernels import FeatureKernel
from tests import laws, oracles
from tests.laws import assert_close
from tests.maps import FEATURES, M, Monomials, N, Waves, squared_error, with_targets
from tests.networks import NETWORKS, inputs, make, vectors


@pytest.mark.parametrize("law", laws.FEATURES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", FEATURES)
def test_law(name, law, dtype, device):
    phi, points = FEATURES[name](dtype, device)
    law(phi, points(N, dtype, device), points(M, dtype, device))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_each_sample_alone(name):
    model, x = make(name), inputs(name, 5)
    features, true = GradientFeatures(model), oracles.jacobian(model, x)
    assert_close(features.phi(x), true)
    laws.parts_make_the_features(features, x, None)


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobian_products_are_those_of_each_sample_alone(name):
    model, x = make(name), inputs(name, 5)
    features, true = GradientFeatures(model), oracles.jacobian(model, x)
    u, v = laws.random_like((features.size, 2), true), laws.random_like((*true.shape[:2], 2), true)
    assert_close(features.push(x, u), true @ u)
    assert_close(features.pull(x, v), torch.tensordot(true.movedim(2, 0), v, 2))


def test_selected_parameters_are_features_in_their_order():
    model, x = make("a perceptron"), vectors(4)
    for parameters, names in ((["2.bias"], ["2.bias"]), ("0", ["0.weight", "0.bias"]),
                              (["2", "0.bias"], ["0.bias", "2.weight", "2.bias"])):
        features = GradientFeatures(model, parameters=parameters)
        assert features.names == names
        assert_close(features.phi(x), oracles.jacobian(model, x, names=names))


def test_frozen_parameters_are_left_out():
    model, x = make("a perceptron"), vectors(4)
    model[0].requires_grad_(False)
    assert GradientFeatures(model).names == ["2.weight", "2.bias"]
    assert_close(GradientFeatures(model).phi(x), oracles.jacobian(model, x))


def test_gradients_of_losses_take_their_targets():
    model, (x, y) = make("a perceptron"), with_targets(4, torch.float64, "cpu")
    features = GradientFeatures(model, loss=squared_error)
    assert_close(features.phi((x, y)), oracles.jacobian(model, (x, y), loss=squared_error))
    assert features.columns_of((x, y)) == 1


def test_products_by_parameter_sum_to_the_whole():
    model, x, z = make("a transformer"), inputs("a transformer", 4), inputs("a transformer", 3)
    features = GradientFeatures(model)
    shares = features.inner_by_parameter(x, z)
    assert list(shares) == features.names
    assert_close(sum(shares.values()), features.inner(x, z))
    for name in ("embed.weight", "layer.self_attn.in_proj_weight", "head.bias"):
        alone = [oracles.jacobian(model, points, names=[name]) for points in (x, z)]
        assert_close(shares[name], oracles.products(*alone))


def test_memory_bounds_what_is_asked_for_at_once():
    features = GradientFeatures(make("a perceptron"), memory=2_000)
    with pytest.raises(OutOfBudget, match=r"Use inner, push and pull.*or raise memory"):
        features.phi(vectors(4))
    with pytest.raises(OutOfBudget, match="Multiply without it"):
        features.inner(vectors(20))


@pytest.mark.parametrize(("options", "error", "match"), [
    ({"parameters": ["nowhere"]}, DataError, "no parameter or module 'nowhere'"),
    ({"output": 7}, DataError, "one of 3 outputs"),
    ({"output": 1, "loss": squared_error}, DataError, "Leave one out"),
    ({"precision": "half"}, DataError, "precision must be one of exact, tf32, bf16; 'half' came"),
    ({"memory": "plenty"}, DataError, "memory must be a number of bytes"),
])
def test_what_cannot_be_differentiated_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        GradientFeatures(make("a perceptron"), **options).phi(vectors(2))


def test_a_network_without_parameters_is_refused():
    with pytest.raises(ModelError, match="no features"):
        GradientFeatures(nn.Linear(2, 1).requires_grad_(False))


def test_no_points_are_refused():
    with pytest.raises(DataError, match="no points"):
        GradientFeatures(make("a perceptron")).inner(vectors(4)[:0])


# -- maps made of others ---------------------------------------------------------------------------------------------


def test_side_by_side_features_make_the_sum_of_kernels():
    x, z = vectors(4), vectors(3)
    both, parts = FeatureKernel(Monomials() + Monomials()), FeatureKernel(Monomials()) + FeatureKernel(Monomials())
    assert_close(both(x, z), parts(x, z))
    assert_close(both.matmul(x, z, x[:3]), parts.matmul(x, z, x[:3]))


def test_outputs_stand_side_by_side_with_outputs_only():
    with pytest.raises(DataError, match="the left map has 2 outputs, the right one one vector for each point"):
        (Waves() + Monomials()).phi(vectors(3))


def test_a_scale_of_one_changes_nothing_and_of_zero_leaves_nothing():
    x, features = vectors(4), Waves()
    assert_close(Preconditioned(features, torch.ones(4)).phi(x), features.phi(x))
    assert not Preconditioned(features, torch.zeros(4)).inner(x).any()


def test_a_scale_is_that_of_the_metric():
    model, x = make("a perceptron"), vectors(4)
    D = torch.linspace(0.5, 2, 51, dtype=torch.float64)
    K = FeatureKernel(Preconditioned(GradientFeatures(model), D.sqrt()))(x)
    J = oracles.jacobian(model, x)
    assert_close(K, oracles.products(J, J * D))


@pytest.mark.parametrize("scale", [torch.ones(3), torch.ones(4, 1), torch.tensor([1.0, 1.0, 1.0, float("nan")])])
def test_a_scale_for_something_else_is_refused(scale):
    with pytest.raises(DataError, match="Each of the 4 features needs one finite scale"):
        Preconditioned(Waves(), scale)


def test_maps_tell_what_they_are():
    scaled = Preconditioned(Waves(), torch.ones(4))
    assert repr(Waves() + scaled) == "Waves(4 features) + Preconditioned(Waves(4 features))"
    assert isinstance(Waves() + Waves(), ks.features.Sum)
