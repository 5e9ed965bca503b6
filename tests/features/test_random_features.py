"""Random features against the kernels that they are, on average: in closed form, and made again from a seed."""

import math

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError, StoreCorrupt
from kernelscope.features import (
    ArcCosineFeatures,
    PositiveFeatures,
    Preconditioned,
    Projected,
    RandomFourier,
    cosines,
    rectified,
)
from kernelscope.features.directions import KINDS, directions
from kernelscope.kernels import ArcCosine, Cauchy, FeatureKernel, Gaussian, Laplacian, Matern
from kernelscope.machine.describing import described, rebuilt
from tests.laws import assert_close

MAPS = {
    "waves": lambda **o: RandomFourier(40, bandwidth=1.5, **o),
    "waves of a heavy tail": lambda **o: RandomFourier(40, kernel="laplacian", **o),
    "steps": lambda **o: ArcCosineFeatures(40, order=0, **o),
    "ReLU": lambda **o: ArcCosineFeatures(40, **o),
    "squares": lambda **o: ArcCosineFeatures(40, order=2, **o),
    "exponentials": lambda **o: PositiveFeatures(40, **o),
    "bounded exponentials": lambda **o: PositiveFeatures(40, A=0.1, gaussian=True, **o),
}


def points(n=5, d=3, seed=1, scale=0.7):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def over_seeds(make, x, z=None, count=300):
    """The products of features for many seeds: their mean, and how far it may be off by chance (4 sigma)."""
    found = torch.stack([make(seed).inner(x, z) for seed in range(count)])
    return found.mean(0), 4 * found.std(0) / math.sqrt(count) + 1e-12


# -- every map -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAPS)
def test_features_are_made_again_from_their_seed(name, kind):
    x = points()
    one, same, other = (MAPS[name](kind=kind, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.phi(x), same.phi(x))
    assert not torch.equal(one.phi(x), other.phi(x))
    assert one.phi(x).shape == (5, 40)


@pytest.mark.parametrize("name", MAPS)
def test_precision_is_that_of_the_points(name):
    features, x = MAPS[name](), points()
    single = features.phi(x.float())
    assert single.dtype == torch.float32
    assert_close(single, features.phi(x), 1e-5)
    assert features.phi(x.bfloat16()).dtype == torch.float32
    assert features.phi(torch.ones(2, 3, dtype=torch.int64)).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("name", MAPS)
def test_features_on_another_device_are_the_same(name, device):
    features, x = MAPS[name](), points()
    assert_close(features.phi(x.to(device)), features.phi(x))


@pytest.mark.parametrize("name", MAPS)
def test_drawing_leaves_the_random_state_alone(name):
    before = torch.random.get_rng_state()
    MAPS[name]().phi(points())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in MAPS if name != "steps"])
def test_features_of_tensors_have_gradients(name):
    features, x = MAPS[name](), points(2).requires_grad_()
    assert torch.autograd.gradcheck(features.of, (x,))
    with torch.inference_mode():
        fresh = MAPS[name]()
        fresh.of(x)
    fresh.of(x).sum().backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", MAPS)
def test_leading_axes_stay(name):
    features, x = MAPS[name](), points(6)
    assert_close(features.of(x.reshape(2, 3, 3)), features.phi(x).reshape(2, 3, 40))
    assert_close(features.phi(x.reshape(6, 1, 3)), features.phi(x))
    assert_close(features.of(x[0]), features.phi(x)[0])


@pytest.mark.parametrize("name", MAPS)
def test_a_machine_of_features_is_kept_in_plain_words(name, tmp_path):
    x = points(20)
    machine = ks.fit(FeatureKernel(MAPS[name](seed=5)), x, x.sum(1), ridge=1e-3)
    machine.save(tmp_path / "machine")
    again = ks.KernelMachine.load(tmp_path / "machine")
    assert repr(again.kernel) == repr(machine.kernel)
    assert_close(again(x), machine(x))


def test_words_of_maps_that_are_not_known_are_refused():
    words = described(FeatureKernel(ArcCosineFeatures(4) + RandomFourier(4), PositiveFeatures(8)))
    assert described(rebuilt(words, "a file")) == words
    for wrong in ({"features": "GradientFeatures"}, {"features": "ArcCosineFeatures", "size": 4, "model": "x"},
                  {"features": "Sum", "left": words["right"]}, "RandomFourier",
                  {"features": "ArcCosineFeatures", "size": -1}):
        with pytest.raises(StoreCorrupt, match="a file names a kernel that is not known here"):
            rebuilt(words | {"left": wrong}, "a file")
    assert described(FeatureKernel(ks.features.GradientFeatures(torch.nn.Linear(2, 1)))) is None


@pytest.mark.parametrize(("make", "match"), [
    (lambda: RandomFourier(0), "size must be a whole number from"),
    (lambda: RandomFourier(7), "a cosine and a sine; size=7 came. Pass size=8"),
    (lambda: RandomFourier(8, bandwidth=0), "bandwidth must be a positive number; 0 came"),
    (lambda: RandomFourier(8, bandwidth=[1, -1]), "each length of bandwidth must be a positive number; -1 came"),
    (lambda: RandomFourier(8, bandwidth=[1, 1]).phi(points()), "2 lengths, and vectors have 3 coordinates"),
    (lambda: RandomFourier(8, kernel="box"), 'kernel must be "gaussian"'),
    (lambda: RandomFourier(8, nu=1), "nu must be 0.5, 1.5 or 2.5; 1 came"),
    (lambda: RandomFourier(8, kind="fast"), 'kind must be "independent"'),
    (lambda: RandomFourier(8, seed=-1), "seed must be a whole number"),
    (lambda: ArcCosineFeatures(8, order=3), "order must be 0, 1 or 2; 3 came"),
    (lambda: rectified(points(), True), "order must be 0, 1 or 2; True came"),
    (lambda: PositiveFeatures(8, A=-0.3), "A must be a number above -1/4"),
    (lambda: PositiveFeatures(8, A="good"), "'good' came"),
    (lambda: PositiveFeatures(8, gaussian=1), "gaussian must be True or False"),
    (lambda: PositiveFeatures(8, A="best").phi(points()), r"Take it once: PositiveFeatures\(8"),
    (lambda: ArcCosineFeatures(8).phi((points(), points())), "2 entries came"),
    (lambda: ArcCosineFeatures(8).of([1.0]), "one vector in each row; a list came"),
])
def test_what_is_no_map_is_refused(make, match):
    with pytest.raises(DataError, match=match):
        make()


# -- waves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "kernel"), [
    ({}, Gaussian(1.3)), ({"kernel": "laplacian"}, Laplacian(1.3)), ({"kernel": "cauchy"}, Cauchy(1.3)),
    ({"kernel": "matern", "nu": 0.5}, Matern(0.5, 1.3)), ({"kernel": "matern"}, Matern(1.5, 1.3)),
    ({"kernel": "matern", "nu": 2.5}, Matern(2.5, 1.3)),
])
@pytest.mark.parametrize("kind", ["independent", "orthogonal", "structured"])
def test_waves_are_their_kernel_on_average(options, kernel, kind):
    x, z = points(4), points(3, seed=2)
    mean, chance = over_seeds(lambda seed: RandomFourier(40, bandwidth=1.3, kind=kind, seed=seed, **options), x, z)
    assert ((mean - kernel(x, z)).abs() < chance).all()
    # The test is able to fail: another bandwidth is seen.
    assert ((mean - type(kernel)(**{"nu": options.get("nu", 1.5)} if "nu" in vars(kernel) else {},
                                 bandwidth=1.8)(x, z)).abs() > chance).any()


def test_a_wave_has_length_one_exactly():
    features = RandomFourier(12, bandwidth=0.1, kernel="cauchy")
    assert_close(features.squares(points()), torch.ones(5).double(), 1e-14)


def test_a_length_for_each_coordinate_is_a_scale_of_points():
    x, lengths = points(), torch.tensor([0.5, 1.0, 3.0]).double()
    assert_close(RandomFourier(8, bandwidth=lengths).phi(x), RandomFourier(8).phi(x / lengths), 1e-14)


def test_products_of_cosines_alone_and_of_sines_alone():
    """The hidden layers cos(g.x) and sin(g.x): exp(-(|x|^2 + |z|^2) / 2) times cosh and sinh of x.z."""
    x, z = points(4), points(3, seed=2)
    g = directions(400_000, 3, "independent")
    a, b = cosines(x @ g.T), cosines(z @ g.T)
    half = len(g)
    scale = (-(x.square().sum(1)[:, None] + z.square().sum(1)) / 2).exp()
    for part, true in ((slice(0, half), torch.cosh), (slice(half, None), torch.sinh)):
        terms = a[:, None, part] * b[:, part]
        gap = (terms.mean(2) - scale * true(x @ z.T)).abs()
        assert (gap < 4 * terms.std(2) / math.sqrt(half)).all()


def test_orthogonal_waves_vary_less_than_independent_ones():
    x, z = points(6, 4, scale=0.4), points(6, 4, seed=2, scale=0.4)

    def variance(kind):
        found = torch.stack([RandomFourier(16, kind=kind, seed=s).inner(x, z) for s in range(300)])
        return float(found.var(0).mean())

    assert variance("orthogonal") < 0.6 * variance("independent")


# -- rectified directions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kind", ["independent", "orthogonal", "structured"])
def test_rectified_directions_are_the_arc_cosine_kernel_on_average(order, kind):
    x, z = points(4), points(3, seed=2)
    mean, chance = over_seeds(lambda seed: ArcCosineFeatures(40, order, kind, seed), x, z)
    true = ArcCosine(order)(x, z)
    assert ((mean - true).abs() < chance).all()
    assert ((mean - 1.2 * true).abs() > chance).any()


def test_the_error_falls_as_the_root_of_their_number():
    x, z = points(10, 8, scale=1), points(10, 8, seed=2, scale=1)
    sizes = torch.tensor([64, 256, 1024, 4096])
    for make, true in ((lambda p, s: ArcCosineFeatures(p, kind="independent", seed=s), ArcCosine(1)(x, z)),
                       (lambda p, s: RandomFourier(p, 2.0, kind="independent", seed=s), Gaussian(2.0)(x, z))):
        logs = torch.tensor([sum(float((make(p, s).inner(x, z) - true).square().sum()) for s in range(20))
                             for p in sizes.tolist()]).log() / 2
        steps = sizes.log2() - sizes.log2().mean()
        slope = float(steps @ logs / steps.square().sum()) / math.log(2)
        assert -0.56 < slope < -0.44


def test_the_product_of_error_functions_of_random_directions():
    """E erf(g.x) erf(g.z), the kernel of a hidden layer of error functions."""
    x, z = points(4), points(3, seed=2)
    g = directions(400_000, 3, "independent")
    terms = torch.erf(x @ g.T)[:, None] * torch.erf(z @ g.T)
    lengths = [(1 + 2 * side.square().sum(1)).sqrt() for side in (x, z)]
    true = 2 / math.pi * torch.asin(2 * x @ z.T / (lengths[0][:, None] * lengths[1]))
    assert ((terms.mean(2) - true).abs() < 4 * terms.std(2) / math.sqrt(len(g))).all()


def test_both_sides_must_share_their_directions():
    x = points(4)
    mean = torch.stack([FeatureKernel(ArcCosineFeatures(40, seed=s), ArcCosineFeatures(40, seed=s + 1))(x)
                        for s in range(0, 600, 2)]).mean(0)
    assert (mean / ArcCosine(1)(x)).diagonal().max() < 0.5


@pytest.mark.parametrize("order", [0, 1, 2])
def test_longer_points_have_longer_features_exactly(order):
    features, x = ArcCosineFeatures(40, order), points()
    assert torch.equal(features.phi(4 * x), 4**order * features.phi(x))


def test_the_product_at_three_angles():
    x = torch.tensor([[2.0, 0.0]]).double()
    for z, true in (([3.0, 0.0], 3.0), ([0.0, 3.0], 6 / (2 * math.pi)), ([-3.0, 0.0], 0.0)):
        z = torch.tensor([z]).double()
        mean, chance = over_seeds(lambda seed, z=z: ArcCosineFeatures(40, seed=seed), x, z)
        assert abs(float(mean / 2) - true) <= float(chance)
    assert float(mean) == 0


def test_the_second_moment_of_a_product_of_two_ReLU():
    x, w = torch.tensor([1.0, 0.5]).double(), torch.tensor([-0.3, 1.2]).double()
    g = directions(1_000_000, 2, "independent")
    terms = (rectified(g @ x) * rectified(g @ w)).square()
    angle = math.acos(float(x @ w / x.norm() / w.norm()))
    true = float((x @ x) * (w @ w)) / (2 * math.pi) * (
        3 * math.sin(angle) * math.cos(angle) + (math.pi - angle) * (1 + 2 * math.cos(angle)**2))
    assert abs(float(terms.mean()) - true) < 4 * float(terms.std()) / 1000


def test_products_of_ReLU_features_are_no_layer_of_ReLU_neurons():
    x, w = points(200, 16, scale=1), points(100, 16, seed=2, scale=1)
    neurons, products = (x @ w.T).relu(), ArcCosine(1)(x, w) / 2
    best = (neurons * products).sum() / products.square().sum()
    assert float((neurons - best * products).norm() / neurons.norm()) > 0.5


# -- exponentials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("A", [-0.05, 0.0, 0.1])
@pytest.mark.parametrize("kind", ["independent", "orthogonal"])
def test_exponentials_are_their_kernels_on_average(A, kind):
    x, z = points(4), points(3, seed=2)
    for gaussian, true in ((False, (x @ z.T / 4).exp()), (True, Gaussian(2.0)(x, z))):
        mean, chance = over_seeds(lambda seed, g=gaussian: PositiveFeatures(40, A, g, 2.0, kind, seed), x, z)
        assert ((mean - true).abs() < chance).all()
        assert ((mean - 1.1 * true).abs() > chance).any()


def test_the_gaussian_ones_are_those_of_the_exponential_times_that_of_the_length():
    x = points()
    own = (-x.square().sum(1, keepdim=True) / 2).exp()
    assert_close(PositiveFeatures(8, 0.1, gaussian=True).phi(x), own * PositiveFeatures(8, 0.1).phi(x), 1e-13)


def test_features_are_positive_and_bounded_for_positive_A():
    d, A, p = 3, 0.1, 50
    x = points(200, scale=5)
    found = PositiveFeatures(p, A, gaussian=True).phi(x) * math.sqrt(p)
    # Over g, the exponent is at most (1 + 4A) |x|^2 / (4A); the Gaussian features are divided by e^{|x|^2}.
    bound = (1 + 4 * A)**(d / 4) * (((1 + 4 * A) / (4 * A) - 1) * x.square().sum(1)).exp()
    assert (found > 0).all()
    assert (found <= bound[:, None]).all()


def test_the_best_A_varies_least():
    x = torch.nn.functional.normalize(points(30, 4), dim=1)
    best = PositiveFeatures(16, "best", kind="independent").fitted(x)
    assert best.fitted(points()) is best

    def spread(A):
        found = torch.stack([PositiveFeatures(16, A, kind="independent", seed=s).inner(x) for s in range(400)])
        return float((found - (x @ x.T).exp()).square().mean())

    assert spread(best.A) < 0.9 * spread(0.0)
    assert spread(best.A) < spread(best.A + 0.3)


def test_vectors_that_are_too_long_are_named():
    features = PositiveFeatures(5)
    # The exponent g.x - |x|^2 / 2 is largest at x = g.
    x = features.directions(250)
    with pytest.raises(NonFiniteError, match=r"A feature would be e\^1\d\d, which torch.float32 cannot hold"):
        features.phi(x.float())
    assert features.phi(x).isfinite().all()
    assert PositiveFeatures(5, gaussian=True).phi(x.float()).isfinite().all()


# -- points of one size ----------------------------------------------------------------------------------------------

DRAWN = {
    **MAPS,
    "side by side": lambda **o: RandomFourier(20, **o) + ArcCosineFeatures(20, **o),
    "with scales": lambda **o: Preconditioned(ArcCosineFeatures(40, **o), torch.linspace(1, 2, 40)),
    "projected": lambda **o: Projected(ArcCosineFeatures(40, **o), 20),
}


@pytest.mark.parametrize("name", DRAWN)
def test_points_of_two_sizes_have_no_product(name):
    features, x = DRAWN[name](), points(6, 4)
    k = FeatureKernel(features)
    v = torch.ones(6, dtype=torch.float64)
    for call in (lambda: features.inner(x[:, :2], x), lambda: k(x, x[:, :2]), lambda: k.matmul(x[:, :2], x, v),
                 lambda: FeatureKernel(features, DRAWN[name](seed=1))(x[:, :2], x), lambda: k(x[0], x),
                 lambda: (2 * k + k)(x[:, :2], x), lambda: (ks.KernelOperator(k, x[:, :2], x) @ v)):
        with pytest.raises(DataError, match=r"points of one size: those of .* numbers?\. Pass points with as many"):
            call()
    # The shape of a point is free, as its numbers are read in a row.
    assert_close(k(x.reshape(6, 2, 2), x), k(x))


@pytest.mark.parametrize("solver", ["primal", "direct"])
@pytest.mark.parametrize("name", DRAWN)
def test_a_machine_refuses_points_of_another_size(name, solver, tmp_path):
    x = points(20, 4)
    machine = ks.fit(DRAWN[name](), x, x.sum(1), ridge=1e-3, solver=solver, progress=False)
    machine.save(tmp_path / "machine")
    others = [machine]
    if name != "with scales" and name != "projected":
        others.append(type(machine).load(tmp_path / "machine"))
    if solver == "primal":
        others += [machine.at(1.0), machine.machine(), machine.without([0])]
    for one in others:
        assert one(x[:3]).shape == (3,)
        for wrong in (x[0], x[:, :2], points(20, 5)):
            with pytest.raises(DataError, match=r"(x\[None\]|of one size)"):
                one(wrong)
    for wrong in (x[0], x[:, :2]):
        with pytest.raises(DataError, match=r"x\[None\]"):
            machine.contributions(wrong)
        with pytest.raises(DataError, match=r"x\[None\]"):
            ks.fit(DRAWN[name](), x, x.sum(1), ridge=1e-3, solver=solver, progress=False,
                   validation=(wrong, torch.ones(len(wrong))))
    if solver == "primal":
        with pytest.raises(DataError, match="fitted to points of 4 numbers, and 20 points of 2 came"):
            machine.with_samples(x[:, :2], x.sum(1))
        assert machine.with_samples(x.float(), x.sum(1))(x[:3]).shape == (3,)


# -- what is taken from points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda b: RandomFourier(40, b, kernel="laplacian", seed=3),
                                  lambda b: RandomFourier(20, b) + ArcCosineFeatures(20),
                                  lambda b: Preconditioned(RandomFourier(40, b), torch.linspace(1, 2, 40)),
                                  lambda b: Projected(RandomFourier(40, b), 20)])
def test_a_bandwidth_is_taken_from_points_once(make):
    x = points(30)
    b = ks.kernels.Gaussian().fitted(x).bandwidth
    left_open, wanted = make("median"), make(b)
    assert torch.equal(left_open.fitted(x).phi(x), wanted.phi(x))
    assert wanted.fitted(x[:4]) is wanted
    with pytest.raises(DataError, match=r'Take it from the training points once: RandomFourier\(.*bandwidth="median"'):
        left_open.phi(x)
    for k in (left_open, FeatureKernel(left_open)):
        for solver in ("primal", "direct"):
            machine, other = (ks.fit(one, x, x.sum(1), ridge=1e-3, solver=solver, progress=False)
                              for one in (k, make(b) if k is left_open else FeatureKernel(make(b))))
            assert torch.equal(machine(x), other(x))
            assert repr(machine.kernel) == repr(other.kernel)
    pair = FeatureKernel(left_open, left_open).fitted(x)
    assert_close(pair(x), wanted.inner(x))


def test_a_map_whose_bandwidth_is_left_open_says_so_and_is_kept_in_words():
    features = RandomFourier(8, bandwidth="median")
    assert repr(features) == "RandomFourier(8, bandwidth='median', kind='orthogonal', seed=0)"
    assert repr(RandomFourier(8, bandwidth=None)) == repr(features)
    again = rebuilt(described(FeatureKernel(features)), "a file")
    assert repr(again) == "FeatureKernel(RandomFourier(8, bandwidth='median', kind='orthogonal', seed=0))"
    with pytest.raises(DataError, match="or \"median\"; 'mean' came"):
        RandomFourier(8, bandwidth="mean")


def test_the_best_A_is_taken_from_the_points_of_a_fit():
    x = points(30)
    machine = ks.fit(PositiveFeatures(40, A="best"), x, x.sum(1), ridge=1e-3, progress=False)
    assert machine.features.A == PositiveFeatures(40, A="best").fitted(x).A


def test_a_kernel_of_features_names_its_maps():
    left, right = RandomFourier(8), ArcCosineFeatures(8)
    assert repr(FeatureKernel(left)) == f"FeatureKernel({left!r})"
    assert repr(FeatureKernel(left, right, "full")) == f"FeatureKernel({left!r}, {right!r}, outputs='full')"


@pytest.mark.parametrize("options", [{"gaussian": True}, {}, {"A": 0.1, "gaussian": True}])
def test_features_that_all_vanish_are_refused(options):
    far = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    far[0] = 0
    with pytest.raises(NonFiniteError, match=r"All features of \d of 5 vectors vanish: .* e\^-\d+, for which"):
        PositiveFeatures(64, **options).inner(far)
    assert bool((PositiveFeatures(64, **options).inner(0.1 * far).diagonal() > 0).all())
