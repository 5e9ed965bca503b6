"""Universal random features: right on average, and off by what is said before anything is drawn."""

import math
from collections import Counter

import pytest
import torch

from kernelscope.errors import DataError, NonFiniteError
from kernelscope.features import LineSpectrum, PositiveFeatures, UniversalRandomFeatures, balance, plan_layer
from kernelscope.features.fourier import FOURIER
from kernelscope.features.spectra import ACTIVATIONS, EXACT, relu_spectrum
from kernelscope.features.universal import SIDES
from kernelscope.machine.describing import described, rebuilt
from tests import laws
from tests.laws import assert_close

D = 8


def unit(n, d=D, seed=0, length=1.0):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return length * rows / rows.norm(dim=1, keepdim=True)


def bias(n, seed=5):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


#: Functions that are waves of finite mass, exactly or to rounding.
WAVES = {"cos": EXACT["cos"], "sin": EXACT["sin"], "gaussian": FOURIER["gaussian"].spectrum(12),
         "sech": FOURIER["sech"].spectrum(12)}

X, W, B = unit(12), unit(10, seed=1), bias(10)


def make(name, size, **options):
    return UniversalRandomFeatures(WAVES.get(name, name), size, D, **options)


def errors(name, size, seeds, x=X, w=W, b=B, **options):
    """The relative error over seeds, and all of what was found."""
    found = torch.stack([make(name, size, seed=seed, **options).kernel(x, (w, b)) for seed in range(seeds)])
    true = ACTIVATIONS[name](x @ w.T + b)
    return float((found - true).square().mean().sqrt() / true.square().mean().sqrt()), found, true


@pytest.mark.parametrize("positive", SIDES)
@pytest.mark.parametrize("kind", ["independent", "orthogonal"])
@pytest.mark.parametrize("name", WAVES)
def test_products_are_the_neurons_on_average(name, kind, positive):
    _, found, true = errors(name, 200, 200, kind=kind, positive=positive)
    chance = 4 * found.std(0) / math.sqrt(200)
    assert ((found.mean(0) - true).abs() < chance + 1e-9).all()
    assert ((1.5 * found.mean(0) - true).abs() > chance).any()


@pytest.mark.parametrize("A", [-0.05, 0.0, 0.1, "best"])
def test_they_are_for_every_A_and_every_planned_length(A):
    for lengths in ((1.0, 1.0), (0.5, 1.5)):
        _, found, true = errors("cos", 100, 300, A=A, lengths=lengths, kind="independent")
        assert ((found.mean(0) - true).abs() < 4 * found.std(0) / math.sqrt(300)).all()


@pytest.mark.parametrize("positive", SIDES)
@pytest.mark.parametrize("name", WAVES)
def test_the_error_is_the_one_that_was_predicted(name, positive):
    found, *_ = errors(name, 4096, 12, kind="independent", positive=positive)
    said = make(name, 4096, positive=positive).predicted_error(X, W, B)
    assert 0.8 < said / found < 1.25


@pytest.mark.parametrize("positive", SIDES)
def test_the_variance_is_the_one_that_was_said(positive):
    """Of every pair by itself, also of longer ones than were planned for, and of another A."""
    x, w, b = X[:4] * torch.tensor([0.3, 0.6, 0.9, 1.2]).double()[:, None], 1.1 * W[:3], B[:3]
    for A in ("best", 0.0):
        features = make("sin", 400_000, kind="independent", positive=positive, A=A)
        said = features.variance(x, w, b)
        # One wave: the products of each direction are independent samples.
        phi, psi = features.inputs.phi(x), features.parameters.phi((w, b))
        count = features.counts[0]
        terms = (phi.view(len(x), 1, -1, count) * psi.view(1, len(w), -1, count)).sum(2) * count
        found = terms.var(2) / count
        assert 0.95 < float(found.sum() / said.sum()) < 1.05
        assert ((found / said - 1).abs() < 0.3).all()


@pytest.mark.parametrize("name", ["cos", "sin", "gaussian"])
def test_the_error_falls_as_the_root_of_their_number(name):
    sizes = [64, 256, 1024, 4096]
    logs = [math.log(errors(name, size, 15)[0]) for size in sizes]
    steps = torch.tensor(sizes).double().log()
    steps = steps - steps.mean()
    slope = float(steps @ torch.tensor(logs).double() / steps.square().sum())
    assert -0.56 < slope < -0.44


def test_one_feature_for_each_direction_is_worth_two():
    """With inputs positive there is one column for each direction, and the same variance from half the columns."""
    one, two = (make("sin", 1000, positive=side).predicted_error(X, W, B) for side in SIDES)
    assert abs(two / one - math.sqrt(2)) < 0.02


@pytest.mark.parametrize("d", [4, 16])
def test_orthogonal_directions_vary_less(d):
    x, w = unit(20, d), unit(20, d, seed=1)
    spread = {}
    for kind in ("independent", "orthogonal"):
        found = torch.stack([UniversalRandomFeatures("cos", 4 * d, d, kind=kind, seed=seed).kernel(x, w)
                             for seed in range(300)])
        spread[kind] = float(found.var(0).mean())
    assert spread["orthogonal"] < 0.97 * spread["independent"]


def test_A_for_each_frequency_varies_less_than_none():
    sech = WAVES["sech"]
    best, none = (UniversalRandomFeatures(sech, 1000, D, A=A).predicted_error(X, W, B) for A in ("best", 0.0))
    assert best < none


def test_waves_have_directions_by_what_they_vary():
    features = make("sech", 1000)
    assert sum(features.counts) == 1000
    assert min(features.counts) >= 1
    # No other share of the directions is better than a little.
    said = features.variance(X, W, B).sum()
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        counts = features.waves.counts.double() * torch.exp(0.3 * torch.randn(len(features.counts), generator=draw))
        other = make("sech", 1000)
        other.waves.counts = (counts / counts.sum() * 1000).clamp(min=1).round().long()
        assert said < 1.01 * other.variance(X, W, B).sum()


# -- the limits ------------------------------------------------------------------------------------------------------


def test_a_slow_wave_is_a_constant():
    for kappa in (1e-2, 1e-6):
        spectrum = LineSpectrum(0, 0, (kappa,), (1.0,), (0.3,))
        features = UniversalRandomFeatures(spectrum, 50, D)
        assert features.variance(X, W).max() < 2 * kappa / 50
        assert (features.kernel(X, W) - math.cos(0.3)).abs().max() < 5 * math.sqrt(2 * kappa / 50)


@pytest.mark.parametrize("positive", SIDES)
def test_a_bias_is_a_phase(positive):
    kappa, shift = 1.3, 0.4
    one, other = (UniversalRandomFeatures(LineSpectrum(0, 0, (kappa,), (2.0,), (phase,)), 60, D, positive=positive)
                  for phase in (0.1, 0.1 + kappa * shift))
    assert_close(one.kernel(X, (W, B + shift)), other.kernel(X, (W, B)), 1e-12)
    tall = UniversalRandomFeatures(LineSpectrum(0, 0, (kappa,), (6.0,), (0.1,)), 60, D, positive=positive)
    assert_close(tall.kernel(X, (W, B)), 3 * one.kernel(X, (W, B)), 1e-12)


@pytest.mark.parametrize("positive", SIDES)
def test_a_line_is_exact(positive):
    spectrum = LineSpectrum(0.7, -1.5)
    features = UniversalRandomFeatures(spectrum, 40, D, positive=positive)
    assert_close(features.kernel(X, (W, B)), 0.7 - 1.5 * (X @ W.T + B), 1e-14)
    assert features.inputs.size == D + 1
    assert features.counts == ()
    assert features.predicted_error(X, W, B) == 0
    assert_close(UniversalRandomFeatures("identity", 4, D).kernel(X, W), X @ W.T, 1e-14)


def test_a_constant_is_one_column():
    spectrum = LineSpectrum(2.0, 0.0, (1.0,), (1.0,), (0.0,))
    features = UniversalRandomFeatures(spectrum, 40, D)
    assert features.inputs.size == features.parameters.size == 41
    assert_close(features.kernel(X, W) - 2, make("cos", 40).kernel(X, W), 1e-12)


def test_the_exponential_of_an_imaginary_product_is_that_of_positive_features():
    """The real side of a wave of frequency 1 is the map of e^{x.z} with the same A and directions, scaled."""
    features = UniversalRandomFeatures("cos", 30, D, A=0.05, seed=3)
    scale = float(features.waves.tau2[0].sqrt())
    other = PositiveFeatures(30, A=0.05, seed=3).phi(scale * X)
    ratio = features.inputs.phi(X) / other
    assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])), 1e-12)


# -- both towers -----------------------------------------------------------------------------------------------------


def test_both_sides_must_share_their_directions():
    from kernelscope.kernels import FeatureKernel

    one, other = (make("cos", 4000, seed=seed) for seed in (0, 1))
    true = (X @ W.T + B).cos()
    assert (one.kernel(X, (W, B)) - true).abs().max() < 0.2
    assert (FeatureKernel(one.inputs, other.parameters)(X, (W, B)) - true).abs().max() > 0.3


@pytest.mark.parametrize("positive", SIDES)
def test_towers_obey_the_laws_of_maps(positive):
    features = make("sech", 40, positive=positive)
    x = X[:5]
    assert_close(features.inputs.push(x, torch.eye(features.inputs.size).double()), features.inputs.phi(x))
    phi = features.parameters.phi((W, B))
    assert_close(features.parameters.pull((W, B), torch.eye(len(W)).double()), phi.T)
    k = features.kernel
    assert not k.symmetric
    assert_close(k(x, (W, B)), features.inputs.phi(x) @ phi.T)
    v = laws.random_like((len(W), 2), phi)
    assert_close(k.matmul(x, (W, B), v), k(x, (W, B)) @ v)


@pytest.mark.parametrize("positive", SIDES)
def test_towers_have_gradients(positive):
    spectrum = LineSpectrum(0.2, 0.5, (0.8, 1.6), (1.0, 0.5), (0.0, 1.0))
    features = UniversalRandomFeatures(spectrum, 8, 3, positive=positive)
    x, w, b = unit(2, 3).requires_grad_(), unit(2, 3, 1).requires_grad_(), bias(2).requires_grad_()
    with torch.inference_mode():
        features.inputs.of(x)
    assert torch.autograd.gradcheck(features.inputs.of, (x,))
    assert torch.autograd.gradcheck(features.parameters.of, (w, b))


@pytest.mark.parametrize("positive", SIDES)
def test_single_precision_is_enough(positive):
    features = make("sech", 40, positive=positive)
    found = features.kernel(X.float(), (W.float(), B.float()))
    assert found.dtype == torch.float32
    assert_close(found, features.kernel(X, (W, B)), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("positive", SIDES)
def test_another_device_makes_the_same_features(positive, device):
    features = make("sech", 40, positive=positive)
    found = features.kernel(X.to(device), (W.to(device), B.to(device)))
    assert_close(found, features.kernel(X, (W, B)))


def test_axes_and_single_vectors():
    features = make("sin", 40)
    assert_close(features.inputs.of(X.reshape(3, 4, D)), features.inputs.phi(X).reshape(3, 4, -1))
    assert_close(features.parameters.of(W[0], B[0]), features.parameters.phi((W, B))[0])
    assert_close(features.parameters.phi(W), features.parameters.phi((W, torch.zeros(len(W)).double())), 0)


def test_drawing_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    make("sech", 40).kernel(X, W)
    UniversalRandomFeatures.for_layer("tanh", 50, X, W, B)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("positive", SIDES)
def test_they_are_kept_in_plain_words(positive):
    import json

    k = make("sech", 40, positive=positive, A=0.02, lengths=(0.9, 1.1), seed=4).kernel
    words = json.loads(json.dumps(described(k)))
    assert_close(rebuilt(words, "a file")(X, (W, B)), k(X, (W, B)), 0)


# -- layers ----------------------------------------------------------------------------------------------------------


def small_layer(seed=0):
    """A layer whose numbers are about 1, which random features can follow."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(150, 6, generator=draw, dtype=torch.float64)
    w = torch.randn(40, 6, generator=draw, dtype=torch.float64) / 3
    return x, w, 0.3 * torch.randn(40, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu"])
def test_a_layer_is_followed_and_its_error_foreseen(name):
    x, w, b = small_layer()
    layer = balance(x, w, b)
    inside = layer.inputs(x)
    true = ACTIVATIONS[name](x @ w.T + b)
    found, said = [], []
    for size in (128, 2048):
        plans = [UniversalRandomFeatures.for_layer(name, size, inside, layer.weights, layer.bias, seed=seed,
                                                   kind="independent") for seed in range(6)]
        gaps = torch.stack([plan.kernel(inside, (layer.weights, layer.bias)) - true for plan in plans])
        found.append(float(gaps.square().mean().sqrt() / true.square().mean().sqrt()))
        said.append(plans[0].predicted_error(inside, layer.weights, layer.bias))
    assert found[1] < 0.7 * found[0]
    assert 0.7 < said[1] / found[1] < 1.4
    truth = plans[0].predicted_error(inside, layer.weights, layer.bias, truth=true)
    assert abs(truth - said[1]) < 1e-10


def test_a_learned_activation_is_followed():
    x, w, b = small_layer()
    function = lambda z: torch.tanh(z) + 0.1 * z
    features = UniversalRandomFeatures.for_layer(function, 1000, x, w, b)
    assert features.spectrum.name is None
    assert features.predicted_error(x, w, b, truth=function(x @ w.T + b)) < 0.3


def test_waves_that_vary_too_much_are_left_out():
    """On a layer of long inputs what remains is nearly a line, and nothing is beyond all numbers."""
    x, w, b = small_layer()
    features = UniversalRandomFeatures.for_layer("tanh", 64, 10 * x, 3 * w, b)
    said = features.predicted_error(10 * x, 3 * w, b)
    assert features.kernel(10 * x, (3 * w, b)).isfinite().all()
    z = 30 * (x @ w.T) + b
    line = torch.stack([torch.ones_like(z).flatten(), z.flatten()], 1)
    rest = z.tanh().flatten() - line @ torch.linalg.lstsq(line, z.tanh().flatten()[:, None]).solution[:, 0]
    assert math.isfinite(said)
    assert said > 0.5 * float(rest.norm() / z.tanh().norm())


def test_the_best_number_of_directions_is_found_before_any_is_drawn():
    x, w, b = small_layer()
    x = x @ torch.diag(torch.tensor([1, 1, 0.6, 0.3, 0.05, 0.02]).double())
    plan = plan_layer("tanh", 600, x, w, b, kind="independent")
    assert sorted(plan.tried) == [1, 2, 4, 6]
    assert plan.predicted_error == min(plan.tried.values())
    assert "features: relative error" in repr(plan)
    true = (x @ w.T + b).tanh()
    found = []
    for seed in range(10):
        one = plan_layer("tanh", 600, x, w, b, ranks=[len(plan.layer.transform)], kind="independent", seed=seed)
        found.append(float((one.inputs(x) @ one.parameters().T - true).norm() / true.norm()))
    assert 0.75 < plan.predicted_error / math.sqrt(sum(e**2 for e in found) / 10) < 1.33
    line = torch.stack([torch.ones_like(true).flatten(), (x @ w.T + b).flatten()], 1)
    rest = true.flatten() - line @ torch.linalg.lstsq(line, true.flatten()[:, None]).solution[:, 0]
    assert abs(plan.linear_error / float(rest.norm() / true.norm()) - 1) < 1e-10


def test_a_layer_of_lines_needs_no_plan():
    x, w, b = small_layer()
    plan = plan_layer("identity", 10, x, w, b)
    assert plan.predicted_error < 1e-10
    assert_close(plan.inputs(x) @ plan.parameters().T, x @ w.T + b, 1e-10)


def test_ReLU_needs_its_range():
    spectrum = relu_spectrum(2.0, 4)
    features = UniversalRandomFeatures(spectrum, 4000, D)
    gap = features.kernel(X, (W, B)) - (X @ W.T + B).relu()
    assert gap.square().mean().sqrt() < 0.3


@pytest.mark.parametrize(("call", "match"), [
    (lambda: UniversalRandomFeatures("cos", 0, D), "size must be a whole number from 1 on"),
    (lambda: UniversalRandomFeatures("cos", 7, D, positive="parameters"), "size=7 came. Pass size=8"),
    (lambda: make("sech", 3), "waves needs a direction of its own"),
    (lambda: UniversalRandomFeatures("cos", 8, D, positive="x"), 'positive must be "inputs" or "parameters"'),
    (lambda: UniversalRandomFeatures("cos", 8, D, A=-0.2), "A must be \"best\" or a number above -1/8"),
    (lambda: UniversalRandomFeatures("cos", 8, D, lengths=1.0), "lengths must be two numbers"),
    (lambda: UniversalRandomFeatures("cos", 8, D, lengths=(1, 0)), "the length of weights must be a positive number"),
    (lambda: UniversalRandomFeatures(torch.cos, 8, D), "activation must be a name or a LineSpectrum"),
    (lambda: UniversalRandomFeatures(LineSpectrum(), 8, D), "The activation is 0 everywhere"),
    (lambda: UniversalRandomFeatures("swish", 8, D), 'name must be "cos"'),
    (lambda: make("cos", 8).kernel(X[:, :3], W), "features are of 8 coordinates, with nothing beside"),
    (lambda: make("cos", 8).parameters.of(W, B[:3]), "one bias for each vector at most"),
    (lambda: make("cos", 8).predicted_error(X[:, :3], W[:, :3]), "Pass dimension=3"),
    (lambda: make("cos", 8).predicted_error(X, W, truth=B), "one number for each input and neuron"),
])
def test_what_cannot_be_is_refused(call, match):
    with pytest.raises(DataError, match=match):
        call()


def test_vectors_far_beyond_the_plan_are_named():
    features = make("cos", 8, positive="parameters")
    with pytest.raises(NonFiniteError, match="Balance the layer"):
        features.inputs.phi(1e3 * X)


def test_sides_are_told_apart():
    features = make("cos", 8)
    assert repr(features.inputs).endswith("inputs positive).inputs")
    assert Counter(type(side).__name__ for side in (features.inputs, features.parameters)) == {"Tower": 2}


@pytest.mark.parametrize(("name", "limit"), [("gaussian", 0.15), ("sech", 0.15), ("tanh", 0.15), ("gelu", 0.6),
                                             ("relu", 0.7)])
def test_activations_by_name_weigh_what_their_features_vary(name, limit):
    draw = torch.Generator().manual_seed(0)
    x, w = (torch.nn.functional.normalize(torch.randn(64, 8, generator=draw, dtype=torch.float64), dim=1)
            for _ in range(2))
    maps = UniversalRandomFeatures(name, 64, 8)
    truth = ACTIVATIONS[name](x @ w.T)
    error = float((maps.kernel(x, w) - truth).norm() / truth.norm())
    # A fit of waves that does not weigh them is off by 50 times the function itself.
    assert error < limit
    assert 0.7 < error / float(maps.predicted_error(x, w, torch.zeros(64, dtype=torch.float64))) < 1.4


def test_features_that_all_vanish_are_refused():
    features = UniversalRandomFeatures("tanh", 64, D, lengths=(1.0, 1.0))
    with pytest.raises(NonFiniteError, match="All features of 3 of 3 vectors vanish: .* Balance the layer"):
        features.inputs.of(unit(3, length=60.0).float())
    assert bool(features.inputs.of(unit(3, length=2.0).float()).isfinite().all())
