"""The geometry of Jacobians, against automatic derivatives and formulas of linear denoisers."""

from __future__ import annotations

import math

import pytest
import torch

import kernelscope as ks
import kernelscope.plots  # noqa: F401
from kernelscope.errors import DataError
from kernelscope.generative.denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.denoising.functions import noised
from kernelscope.generative.denoising.jacobians import MEASURES, JacobianGeometry, jacobian_geometry
from kernelscope.generative.networks import NoiseConv, NoiseMLP
from kernelscope.generative.training import train_diffusion

LEVELS = torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoiser(size=9):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser(NoiseMLP(size, width=16), 1.0).double()


def test_measures_are_those_of_the_automatic_jacobian_point_by_point():
    model, x = denoiser(), normal(5, 9)
    found = jacobian_geometry(model, x, LEVELS, nulls=False)
    places = [(p // 3, p % 3) for p in range(9)]
    for k, (_, y) in enumerate(noised(x, LEVELS, "paired", 0)):
        values = {name: [] for name in MEASURES}
        for at in y:
            J = torch.autograd.functional.jacobian(
                lambda point, k=k: model.denoised(point[None], LEVELS[k : k + 1])[0], at)
            s = torch.linalg.svdvals(J)
            values["trace"].append(float(J.trace()))
            values["participation"].append(float((s**2).sum() ** 2 / (s**4).sum()))
            values["asymmetry"].append(float((J - J.T).norm() / (J + J.T).norm()))
            weights = [[float(J[p, q]) ** 2 for q in range(9)] for p in range(9)]
            values["radius"].append(sum(weights[p][q] * math.dist(places[p], places[q]) for p in range(9)
                                        for q in range(9)) / sum(map(sum, weights)))
        for name, wanted in values.items():
            row = torch.tensor(wanted, dtype=torch.float64)
            assert float(found.of("network", name)[k]) == pytest.approx(float(row.mean()), abs=1e-12)
            assert float(found.errors[name][0, k]) == pytest.approx(float(row.std()) / math.sqrt(5), abs=1e-12)


def test_freedom_and_participation_of_the_wiener_denoiser_are_sums_over_its_eigenvalues():
    x = normal(60, 9) @ normal(9, 9, seed=1)
    found = jacobian_geometry({"linear": WienerDenoiser(x)}, normal(4, 9, seed=2), LEVELS, train=x)
    spread = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    shrinkage = spread / (spread + LEVELS[:, None] ** 2)
    for name in ("linear", "Wiener"):
        torch.testing.assert_close(found.of(name, "trace"), shrinkage.sum(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.of(name, "participation"),
                                   (shrinkage**2).sum(1) ** 2 / (shrinkage**4).sum(1), rtol=0, atol=1e-10)
        assert float(found.of(name, "asymmetry").max()) < 1e-13
    torch.testing.assert_close(found.singular[0], shrinkage, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.eigenvalues[0], shrinkage, rtol=0, atol=1e-12)
    assert float(found.of("optimal", "asymmetry").nan_to_num().max()) < 1e-6


def test_random_signs_estimate_what_all_rows_give_within_their_errors():
    model, x = denoiser(), normal(24, 9)
    exact = jacobian_geometry(model, x, LEVELS, nulls=False)
    found = jacobian_geometry(model, x, LEVELS, nulls=False, probes=400)
    assert found.singular.shape == (1, 3, 0)
    assert "400 random signs" in repr(found)
    torch.testing.assert_close(found.means["trace"], exact.means["trace"], rtol=0.01, atol=0)
    torch.testing.assert_close(found.means["asymmetry"], exact.means["asymmetry"], rtol=0.05, atol=0)
    torch.testing.assert_close(found.means["participation"], exact.means["participation"], rtol=0.05, atol=0)
    # There are as many random rows as there are rows.
    torch.testing.assert_close(found.means["radius"], exact.means["radius"], rtol=1e-9, atol=0)


def test_more_numbers_than_rows_are_taken_of_are_probed():
    x = normal(3, 100)
    found = jacobian_geometry(lambda y, sigma: y / (1 + sigma.view(-1, 1) ** 2), x, [1.0], nulls=False)
    assert found.info["how"] == "32 random signs"
    # Signs have square 1, so the trace of a diagonal Jacobian is exact.
    assert float(found.of("network", "trace")[0]) == pytest.approx(50, abs=1e-10)
    assert float(found.of("network", "participation")[0]) == pytest.approx(100, abs=1e-9)


def test_a_convolution_reaches_less_far_than_a_full_layer_and_points_that_are_no_images_have_no_radius():
    x = normal(4, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {"conv": Denoiser(NoiseConv(8, width=4), 1.0), "full": Denoiser(NoiseMLP(64, width=32), 1.0)}
    found = jacobian_geometry(models, x, [5.0], nulls=False)
    assert float(found.of("conv", "radius")[0]) < float(found.of("full", "radius")[0])
    assert bool(jacobian_geometry(lambda y, sigma: y / 2, normal(3, 5), [1.0]).means["radius"].isnan().all())


def test_paired_and_independent_draws_are_named_and_differ():
    x = normal(6, 4)
    one, other = (noised(x, LEVELS, draws, 0) for draws in ("paired", "independent"))
    for k in range(3):
        assert torch.equal(one[k][0], x)
        torch.testing.assert_close((one[k][1] - x) / LEVELS[k], (one[0][1] - x) / LEVELS[0])
        assert bool((torch.cdist(other[k][0], x).min(1).values == 0).all())
    assert not torch.equal((other[1][1] - other[1][0]) / LEVELS[1], (other[0][1] - other[0][0]) / LEVELS[0])
    optimal = OptimalDenoiser(x)
    said = [repr(jacobian_geometry(optimal, x, LEVELS, draws=draws)) for draws in ("paired", "independent")]
    assert "paired draws" in said[0]
    assert "independent draws" in said[1]


def test_a_jacobian_that_is_naught_has_no_ratio():
    found = jacobian_geometry(OptimalDenoiser(10 * normal(5, 4)), 10 * normal(5, 4), [0.01])
    assert float(found.of("network", "trace")[0]) == 0
    assert all(math.isnan(float(found.of("network", name)[0])) for name in ("participation", "asymmetry", "radius"))


@pytest.mark.parametrize("probes", [None, 8])
def test_a_run_is_measured_beside_its_nulls_and_is_left_as_it_was(tmp_path, probes):
    x = ks.data.digits("train").x[:100].flatten(1) * 2 - 1
    run = train_diffusion(x, steps=20, width=16)
    state = torch.get_rng_state()
    found = jacobian_geometry(run, x[:3], LEVELS, probes=probes)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.names == ["network", "Wiener", "optimal", "untrained"]
    trained, before = (found.of(name, "trace") for name in ("network", "untrained"))
    # The network itself is differentiated, not only the part of D that is y.
    assert float((trained - before).abs().min()) > 1e-3
    found.save(tmp_path / "geometry")
    again = JacobianGeometry.load(tmp_path / "geometry")
    assert repr(again) == repr(found)
    assert again.to_frame().equals(found.to_frame())
    assert len(found.check().rows) == 2
    for measure in MEASURES:
        assert "From noise 0.2 to 4" in " ".join(found.plot(show=measure).get_title(loc="left").split())


def test_a_module_is_only_read():
    model = denoiser()
    model.train()
    jacobian_geometry(model, normal(2, 9), LEVELS)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_what_has_no_gradient_and_no_name_is_refused():
    x = normal(2, 4)
    with pytest.raises(DataError, match="without a gradient"):
        jacobian_geometry(lambda y, sigma: y.detach(), x, LEVELS)
    with pytest.raises(DataError, match="other than Wiener"):
        jacobian_geometry({"Wiener": lambda y, sigma: y}, x, LEVELS)
    with pytest.raises(DataError, match="There is no denoiser"):
        jacobian_geometry(lambda y, sigma: y / 2, x, LEVELS).of("other", "trace")
    with pytest.raises(DataError, match="no images of 1 x 3 x 3"):
        jacobian_geometry(lambda y, sigma: y / 2, x, LEVELS, side=3)
