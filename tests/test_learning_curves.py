"""Learning curves against a loop that solves every system by itself, and against exponents that are known."""

import math

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope.diagnostics.curves.power_laws import bends, exponents, floored, resampled
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from kernelscope.kernels.base import Kernel
from kernelscope.kernels.infinite import Conv, Dense, Flatten, ReLU, Serial


def data(n, seed=0, classes=False):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64)
    if classes:
        return x, ((6 * x[:, 0]).sin() + x[:, 1] > 0.5).long() + (x[:, 1] > 0.6).long()
    noise = 0.1 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return x, torch.stack([(6 * x[:, 0]).sin(), x[:, 1].square()], 1) + noise


def copied(x, y, copies, seed=1):
    g = torch.Generator().manual_seed(seed)
    many = x.repeat_interleave(copies, 0)
    return many + 0.02 * torch.randn(many.shape, generator=g, dtype=x.dtype), y.repeat_interleave(copies, 0)


def solved(k, x, y, z, noise, intercept):
    """The machine of a textbook: a system bordered by ones, solved as it stands."""
    n = len(x)
    system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n] = k(x) + noise * torch.eye(n, dtype=torch.float64)
    if intercept:
        system[:n, n] = system[n, :n] = 1.0
    else:
        system[n, n] = 1.0
    found = torch.linalg.solve(system, torch.cat([y, torch.zeros(1, y.shape[1], dtype=torch.float64)]))
    return k(z, x) @ found[:n] + found[n]


def naive(k, train, test, found, ridges, copies=1, intercept=True):
    """Errors and ridges by a loop over orders, sizes, ridges and samples that are left out."""
    (x, y), (z, t) = train, test
    if not y.is_floating_point():
        width = int(max(y.max(), t.max())) + 1
        y, t = (torch.nn.functional.one_hot(labels, width).double() for labels in (y, t))
    scale = float(k.diagonal(x).mean())
    variance = (t - t.mean(0)).square().sum(1).mean()
    errors, wrong, chosen = [], [], []
    for n in found.samples:
        for order in found.orders:
            points = [i * copies + c for i in order[:n].tolist() for c in range(copies)]
            best = (math.inf, 0.0)
            for ridge in ridges:
                missed = 0.0
                for i in range(n):
                    own = points[i * copies:(i + 1) * copies]
                    rest = [p for p in points if p not in own]
                    told = solved(k, x[rest], y[rest], x[own], ridge * scale, intercept)
                    missed += float((told - y[own]).square().sum())
                best = min(best, (missed, ridge))
            told = solved(k, x[points], y[points], z, best[1] * scale, intercept)
            errors.append(float((told - t).square().sum(1).mean() / variance))
            wrong.append(float((told.argmax(1) != t.argmax(1)).double().mean()))
            chosen.append(best[1])
    shape = (len(found.samples), len(found.orders))
    return (torch.tensor(values, dtype=torch.float64).view(shape) for values in (errors, wrong, chosen))


@pytest.mark.parametrize(("copies", "intercept", "classes"), [(1, True, False), (1, False, True), (3, True, True),
                                                              (3, False, False)])
def test_errors_and_ridges_are_those_of_a_loop_that_solves_each_system(copies, intercept, classes):
    k, ridges = ks.kernels.Gaussian(0.4), [1e-6, 1e-3, 1e-1]
    train, test = copied(*data(12, classes=classes), copies), data(30, 5, classes)
    found = ks.learning_curves({"k": k}, train, test, samples=[6, 8, 12], ridge=ridges, repeats=2, copies=copies,
                               intercept=intercept)
    errors, wrong, chosen = naive(k, train, test, found, ridges, copies, intercept)
    torch.testing.assert_close(found.errors["error"][0], errors, rtol=1e-8, atol=1e-10)
    assert torch.equal(found.ridges[0], chosen)
    if classes:
        torch.testing.assert_close(found.errors["wrong"][0], wrong)
    assert ("wrong" in found.errors) == classes


def test_more_points_than_are_factored_are_solved_to_the_same():
    k, train, test = ks.kernels.Laplacian(0.5), data(200), data(50, 5)
    exact = ks.learning_curves({"k": k}, train, test, samples=[50, 100, 200], ridge=1e-2, repeats=2)
    rest = ks.learning_curves({"k": k}, train, test, samples=[50, 100, 200], ridge=1e-2, repeats=2, exact=60)
    torch.testing.assert_close(rest.errors["error"], exact.errors["error"], rtol=1e-4, atol=0)
    torch.testing.assert_close(rest.errors["error"][:, 0], exact.errors["error"][:, 0], rtol=1e-10, atol=0)
    both = ks.learning_curves({"k": k}, train, test, samples=[50, 100], ridge=[1e-2, 1e-4], repeats=2, exact=60)
    assert torch.equal(both.ridges[:, 1], both.ridges[:, 0])


def test_both_kernels_of_a_network_are_those_of_one_at_a_time():
    net = Serial(Conv(3, 1.4), ReLU(), Flatten(), Dense(1.4))
    g = torch.Generator().manual_seed(0)
    x, z = (torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64) for n in (20, 10))
    train, test = (x, x.mean((1, 2, 3))), (z, z.mean((1, 2, 3)))
    both = ks.learning_curves({"gp": net.nngp, "tangent": net.ntk}, train, test, samples=[10, 20], ridge=1e-3)
    for i, kernel in enumerate((net.nngp, net.ntk)):
        alone = ks.learning_curves({"k": kernel}, train, test, samples=[10, 20], ridge=1e-3)
        torch.testing.assert_close(both.errors["error"][i], alone.errors["error"][0], rtol=1e-10, atol=1e-12)


def test_a_function_in_place_of_a_kernel_sees_the_same_samples():
    train, test = data(60), data(20, 5)
    asked = []

    def mean(x, y, z):
        asked.append((x, y))
        return y.mean(0).expand(len(z), -1)

    found = ks.learning_curves({"mean": mean, "k": ks.kernels.Gaussian(0.3)}, train, test, samples=[5, 20], repeats=2)
    for (x, y), (j, n) in zip(asked, [(0, 5), (0, 20), (1, 5), (1, 20)], strict=True):
        assert torch.equal(x, train[0][found.orders[j, :n]])
        assert torch.equal(y, train[1][found.orders[j, :n]])
    assert 0.9 < float(found.mean()[0].min())
    assert bool(found.ridges[0].isnan().all())


class Linear(Kernel):
    """The product of two points."""

    def __call__(self, x, z=None):
        return x_of(self, x) @ x_of(self, x if z is None else z).T


def x_of(kernel, x):
    points = kernel.points(x)
    return points.part(0, len(points)).args[0]


@pytest.mark.parametrize(("decay", "target"), [(1.5, 1.6), (2.0, 2.0)])
def test_the_exponent_of_a_power_law_spectrum_is_that_of_theory(decay, target):
    # Eigenvalues i^-decay, the target's energy in them i^-target: without noise the error falls as n^(1 - target).
    g, p = torch.Generator().manual_seed(0), 3000
    scale = torch.arange(1, p + 1, dtype=torch.float64)
    x, z = (torch.randn(n, p, generator=g, dtype=torch.float64) * scale**(-decay / 2) for n in (600, 300))
    signs = torch.randint(2, (p,), generator=g).double() * 2 - 1
    weights = signs * scale**((decay - target) / 2)
    found = ks.learning_curves({"k": Linear()}, (x, x @ weights), (z, z @ weights), samples=[20, 40, 80, 160, 320],
                               ridge=1e-9, repeats=6, intercept=False)
    law = found.exponent("k")
    # A tail that is cut off at p, and the first few samples, move it by a few hundredths.
    assert law.low - 0.05 <= target - 1 <= law.high + 0.05
    assert law.high - law.low < 0.3
    assert found.floor("k") is None


def test_intervals_hold_the_exponent_as_often_as_they_say():
    # Errors whose noise by orders and by test points is known.
    g, sizes = torch.Generator().manual_seed(0), torch.tensor([10.0, 20.0, 40.0, 80.0]).double()
    held = 0
    for repeat in range(100):
        by_point = torch.randn(4, 1, 60, generator=g, dtype=torch.float64).mul(0.5).exp()
        by_order = torch.randn(4, 8, 1, generator=g, dtype=torch.float64).mul(0.2).exp()
        losses = sizes[:, None, None]**-0.7 * by_point * by_order
        drawn = exponents(sizes, resampled(losses, repeat, 300))
        low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975]).double())
        held += int(low <= 0.7 <= high)
    assert 85 <= held <= 100


def test_the_spread_of_drawn_means_is_that_of_means():
    # Of losses that differ by order alone: the variance of a mean of r is that over r, and not less.
    losses = torch.tensor([1.0, 2.0, 4.0, 9.0]).double()[:, None].expand(4, 7)
    drawn = resampled(losses, 0, 40_000)
    assert float(drawn.var()) == pytest.approx(float(losses[:, 0].var()) / 4, rel=0.03)
    assert torch.equal(drawn[:5], resampled(losses, 0, 40_000)[:5])


def test_laws_are_read_off_exact_curves():
    n = torch.tensor([10, 20, 40, 80, 160, 320]).double()
    assert float(exponents(n, 4 * n**-0.6)) == pytest.approx(0.6, abs=1e-12)
    assert float(bends(n, 4 * n**-0.6)) == pytest.approx(0.0, abs=1e-12)
    x = n.log() - n.log().mean()
    assert float(bends(n, (0.3 * x.square() - x).exp())) == pytest.approx(0.3, abs=1e-12)
    floor, exponent = floored(n, 0.02 + 4 * n**-0.9)
    assert float(floor) == pytest.approx(0.02, rel=0.1)
    assert float(exponent) == pytest.approx(0.9, rel=0.05)
    assert float(floored(n, 4 * n**-0.6)[0]) == 0.0


def test_a_floor_is_told_where_there_is_noise_in_the_targets_and_not_where_there_is_none():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1600, 1, generator=g, dtype=torch.float64)
    clean = (9 * x[:, 0]).sin()
    noisy = clean + 0.3 * torch.randn(1600, generator=g, dtype=torch.float64)
    floors = []
    for y in (clean, noisy):
        found = ks.learning_curves({"k": ks.kernels.Laplacian(0.3)}, (x[:700], y[:700]), (x[700:], y[700:]),
                                   samples=[10, 20, 40, 80, 160, 320], ridge=[1e-8, 1e-2, 1e-1, 1.0])
        floors.append(found.floor("k"))
    assert floors[0] is None or floors[0].value < 1e-3
    assert floors[1] is not None
    # The noise, as a share of the variance of the test targets.
    assert floors[1].value == pytest.approx(0.09 / float(noisy[700:].var()), rel=0.25)


@pytest.fixture(scope="module")
def found():
    kernels = {"Gaussian": ks.kernels.Gaussian(0.3), "Laplacian": ks.kernels.Laplacian(0.5)}
    return ks.learning_curves(kernels, data(160, classes=True), data(60, 5, True), samples=[10, 20, 40, 80],
                              ridge=[1e-4, 1e-2], repeats=4)


def test_kernels_are_compared_on_the_same_draws(found):
    ratio, turned = (found.ratio(*pair) for pair in (("Gaussian", "Laplacian"), ("Laplacian", "Gaussian")))
    assert ratio.value == pytest.approx(1 / turned.value)
    assert ratio.low == pytest.approx(1 / turned.high)
    assert found.ratio("Gaussian", "Gaussian", 20).high == 1.0
    lead = found.exponent("Gaussian", "Laplacian")
    assert lead.value == pytest.approx(found.exponent("Gaussian").value - found.exponent("Laplacian").value)
    assert not found.exponent("Gaussian", "Gaussian").apart
    assert found.best()[0] == found.names[int(found.mean()[:, -1].argmin())]


def test_curves_of_the_same_orders_stand_beside_each_other(found):
    more = ks.learning_curves({"Laplacian": ks.kernels.Laplacian(0.5)}, copied(*data(160, classes=True), 2),
                              data(60, 5, True), samples=[10, 20], ridge=[1e-4, 1e-2], repeats=4, copies=2)
    both = ks.LearningCurves.beside({"": found, "twice": more})
    assert both.names == ["Gaussian", "Laplacian", "Laplacian (twice)"]
    assert both.mean()[:2].equal(found.mean())
    assert bool(both.mean()[2, 2:].isnan().all())
    assert both.copies == [1, 1, 2]
    assert both.ratio("Laplacian (twice)", "Laplacian").value == pytest.approx(
        float(more.mean()[0, 1] / found.mean()[1, 1]))
    assert "points" in both.to_frame()
    assert len(both.to_frame()) == 10
    assert "with 20 samples" in both.said()
    other = ks.learning_curves({"k": ks.kernels.Laplacian(0.5)}, data(160, classes=True), data(60, 5, True),
                               samples=[10, 20], ridge=[1e-4, 1e-2], repeats=4, seed=1)
    with pytest.raises(DataError, match="the same seed"):
        ks.LearningCurves.beside({"": found, "other": other})
    with pytest.raises(DataError, match="Name them apart"):
        ks.LearningCurves.beside({"": ks.LearningCurves.beside({"x": found}), "x": found})


def test_it_is_told_drawn_kept_and_put_on_a_page(found, tmp_path):
    assert repr(found).startswith("LearningCurves(2 kernels, 10 to 80 samples in 4 orders, 60 test points: with 80 ")
    assert len(found.to_frame()) == 8
    assert list(found.laws()["kernel"]) == found.names
    assert found.check().ok
    assert [row.name for row in found.check().rows] == ["constant", "ridges", "orders"]
    assert found.local().shape == (2, 3)
    for measure in ("error", "wrong"):
        assert found.plot(measure=measure).get_title(loc="left")
        assert "samples" in found.said(measure)
    page = ks.Report("Curves", [found]).html()
    assert "exponent" in page
    found.save(tmp_path / "found")
    again = ks.LearningCurves.load(tmp_path / "found")
    assert torch.equal(again.draws["wrong"], found.draws["wrong"])
    assert again.summary() == found.summary()


def test_samples_that_no_order_takes_change_nothing():
    k, (x, y), test = ks.kernels.Gaussian(0.4), data(100), data(20, 5)
    found = ks.learning_curves({"k": k}, (x, y), test, samples=[5, 10], ridge=1e-3, repeats=2)
    errors, _, _ = naive(k, (x, y), test, found, [1e-3])
    torch.testing.assert_close(found.errors["error"][0], errors, rtol=1e-8, atol=1e-10)
    assert found.points == 100
    assert float(found.costs[0, 2]) < 100 * 100


def test_some_of_the_kernels_are_taken_by_name(found):
    one = found["Laplacian"]
    assert one.names == ["Laplacian"]
    assert torch.equal(one.mean(), found.mean()[1:])
    assert one.exponent("Laplacian") == found.exponent("Laplacian")
    assert found[["Laplacian", "Gaussian"]].ratio("Gaussian", "Laplacian") == found.ratio("Gaussian", "Laplacian")
    with pytest.raises(DataError, match="There are Gaussian, Laplacian"):
        found["Matern"]


def test_no_random_state_is_touched_and_the_seed_names_the_orders():
    before = torch.get_rng_state()
    one, again, other = (ks.learning_curves({"k": ks.kernels.Gaussian(0.3)}, data(40), data(10, 5), samples=[10, 20],
                                            seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.errors["error"], again.errors["error"])
    assert not torch.equal(one.orders, other.orders)


class Odd(Kernel):
    """A kernel that is not one."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x, z=None):
        return self.value(len(self.points(x)), len(self.points(x if z is None else z)))


@pytest.mark.parametrize(("change", "error", "word"), [
    ({"samples": []}, DataError, "samples must be"), ({"samples": [1]}, DataError, "from 2 to 40"),
    ({"samples": [41]}, DataError, "from 2 to 40"), ({"kernels": {}}, DataError, "by name"),
    ({"kernels": {"k": 3}}, DataError, "by name"), ({"kernels": ks.kernels.Gaussian(1.0)}, DataError, "by name"),
    ({"copies": 3}, DataError, "no multiple"), ({"memory": 1000}, OutOfBudget, "raise memory"),
    ({"ridge": [1e-3, 1e-2], "exact": 5}, DataError, "Pass one ridge"), ({"ridge": -1.0}, DataError, "from 0 on"),
    ({"kernels": {"k": Odd(lambda n, m: -torch.ones(n, m))}}, DataError, "larger ridge"),
    ({"kernels": {"k": Odd(lambda n, m: torch.full((n, m), torch.nan))}}, NonFiniteError, "points 0 and 0"),
    ({"kernels": {"k": Odd(lambda n, m: torch.zeros(n, 2, m, 2))}}, DataError, "one value for two points"),
    ({"kernels": {"k": lambda x, y, z: y[:7]}}, DataError, r"shape \(10, 2\)"),
    ({"test": data(10, classes=True)}, DataError, "the same outputs"),
    ({"test": (data(10)[0], torch.ones(10, 2))}, DataError, "All test targets are the same"),
])
def test_what_cannot_be_used_is_refused(change, error, word):
    given = {"kernels": {"k": ks.kernels.Gaussian(0.3)}, "train": data(40), "test": data(10, 5), "samples": [10]}
    given |= change
    with pytest.raises(error, match=word):
        ks.learning_curves(given.pop("kernels"), given.pop("train"), given.pop("test"), **given)


def test_an_error_that_falls_far_keeps_its_exponent():
    x = torch.rand(700, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (7 * x[:, 0]).sin()
    sizes = [32, 64, 128, 256, 500]
    found = ks.learning_curves({"Laplacian": ks.kernels.Laplacian(bandwidth=1.0)}, (x[:500], y[:500]),
                               (x[500:], y[500:]), samples=sizes)
    errors = found.mean("error")[0]
    slope = np.polyfit(np.log(sizes), errors.log().numpy(), 1)[0]
    assert float(errors[-1]) < 1e-6
    assert found.exponent("Laplacian").value == pytest.approx(-slope, abs=0.5)
    assert found.exponent("Laplacian").value > 3
