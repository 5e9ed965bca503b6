"""The geometry of a game: kernels against dense Jacobians, spectra against closed forms, nulls against themselves."""

import dataclasses

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.generative.games.geometry import (
    MEASURES,
    CriticGeometry,
    apart,
    cosines,
    critic_geometry,
    guided_kernel,
    kernel_of_critic,
    kernel_of_generator,
    states_at,
)
from kernelscope.generative.training import train_gan
from kernelscope.result import Result

from .small_games import linear, played, with_covariance

f64 = torch.float64


@pytest.fixture(scope="module")
def run():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train_gan(torch.randn(60, 3), steps=60, width=8, latents=2, batch=16)


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def jacobian(module, parameters, inputs):
    """The gradients of all outputs, one by one, with shape (n, c, P)."""
    state = {name: value.double().requires_grad_() for name, value in parameters.items()}
    outputs = torch.func.functional_call(module, state, (inputs,))
    return torch.stack([torch.stack([flat(torch.autograd.grad(o, list(state.values()), retain_graph=True))
                                     for o in row]) for row in outputs])


def test_the_kernel_of_a_linear_generator_is_that_of_its_latents():
    z = torch.tensor([[0.5], [-2.0], [3.0]], dtype=f64)
    run = played(nn.Linear(1, 1), nn.Linear(1, 1), torch.randn(4, 1, dtype=f64), z)
    assert torch.allclose(kernel_of_generator(run)(z), z @ z.T + 1, atol=1e-15)


def test_kernels_are_products_of_jacobians(run):
    z, x = torch.randn(5, 2, dtype=f64), torch.randn(6, 3, dtype=f64)
    moving, judging = states_at(run, 60)
    J = jacobian(run.generator.network.module(()).double(), moving, z)
    full = torch.einsum("icp,jdp->icjd", J, J)
    assert torch.allclose(kernel_of_generator(run, outputs="full")(z), full, atol=1e-12)
    assert torch.allclose(kernel_of_generator(run)(z), full.diagonal(dim1=1, dim2=3).sum(-1), atol=1e-12)
    judged = run.critic.network.module(()).double()
    scores = jacobian(judged, judging, x)[:, 0]
    assert torch.allclose(kernel_of_critic(run)(x), scores @ scores.T, atol=1e-12)
    state = {name: value.double() for name, value in judging.items()}
    v = run.game.field(lambda at: torch.func.functional_call(judged, state, (at,))[:, 0], run.generated(z))
    expected = torch.zeros(5, 5, dtype=f64)
    for i in range(5):
        for j in range(5):
            expected[i, j] = v[i] @ full[i, :, j] @ v[j]
    assert torch.allclose(guided_kernel(run, z), expected, atol=1e-12)


def test_the_guided_kernel_is_how_fast_the_generator_gains(run):
    z = torch.randn(9, 2, dtype=f64)
    moving, judging = states_at(run, 60)
    names = list(moving)
    score = lambda x: torch.func.functional_call(
        run.critic.network.module(()), {n: t.double() for n, t in judging.items()}, (x,))[:, 0]
    loss = lambda *values: run.game.generator_loss(score(torch.func.functional_call(
        run.generator.network.module(()), dict(zip(names, values, strict=True)), (z,)))).mean()
    at = [moving[name].double() for name in names]
    gradient = torch.func.grad(loss, argnums=tuple(range(len(at))))(*at)
    guided = guided_kernel(run, z)
    assert float(guided.mean()) == pytest.approx(float(flat(gradient).square().sum()), rel=1e-12)
    assert float(torch.linalg.eigvalsh(guided)[0]) > -1e-13 * float(guided.diagonal().max())
    # Along gradient flow: a symmetric difference, off by the square of its step.
    h = 1e-3
    there = [float(loss(*(t - s * h * g for t, g in zip(at, gradient, strict=True)))) for s in (1, -1)]
    assert (there[1] - there[0]) / (2 * h) == pytest.approx(float(guided.mean()), rel=1e-5)


def test_a_linear_critic_tells_one_direction():
    x = with_covariance([1.0, 2.0, 3.0])
    run = played(linear(torch.randn(3, 2, dtype=f64)), nn.Linear(3, 1), x, torch.randn(8, 2, dtype=f64), steps=3,
                 rate=0.1)
    found = critic_geometry(run, points=6, steps=2)
    for k in range(2):
        assert float(found.course["slope rank"][k]) == pytest.approx(1.0, abs=1e-6)
        assert float(found.course["mean direction"][k]) == pytest.approx(1.0, abs=1e-12)
    assert found.spectrum[-1].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)
    weight = run.critic.parameters()["network.weight"]
    assert found.value("slope at real") == pytest.approx(float(weight.norm()), rel=1e-6)
    assert found.value("latent rank") <= 2 + 1e-9


def test_the_numbers_are_those_of_the_points(run):
    made = torch.randn(30, 3)
    found = critic_geometry(run, points=60, generated=made, steps=[0, 20])
    assert found.steps == [0, 20, 60]
    v = run.slope(made).double()
    moment = sum(torch.outer(row, row) for row in v) / len(v)
    values = torch.linalg.eigvalsh(moment).flip(0)
    p = values / values.sum()
    assert torch.allclose(found.spectrum[-1], p, atol=1e-6)
    assert found.value("slope rank") == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-4)
    assert found.value("mean direction") == pytest.approx(float(v.mean(0).square().sum() / moment.trace()), rel=1e-4)
    assert found.value("slope at generated") == pytest.approx(float(v.norm(dim=1).quantile(0.5)), rel=1e-5)
    assert found.value("gap") == pytest.approx(float(run.score(run.points).mean() - run.score(made).mean()), abs=1e-5)
    assert found.info["generated"] == 30


def test_a_run_that_never_moved_is_its_own_null():
    x = torch.randn(20, 3, dtype=f64)
    run = played(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 1)), x,
                 torch.randn(8, 2, dtype=f64), steps=2, rate=0.0)
    found = critic_geometry(run, points=20)
    assert {name: found.value(name) for name in MEASURES} == found.untrained
    assert torch.equal(found.untrained_spectrum, found.spectrum[-1])
    assert not found.told("slope rank")
    assert found.check().rows[1].status == "warn"
    title = found.plot().get_title(loc="left").replace("\n", " ")
    assert "slopes span" in title
    assert "not told apart" in title
    assert "no effective rank changes" in found.plot(show="ranks").get_title(loc="left")


def test_titles_turn_with_the_numbers(run):
    found = critic_geometry(run, points=16, steps=2)
    told = lambda **change: dataclasses.replace(found, **change).plot().get_title(loc="left").replace("\n", " ")
    sure = found.info | {"apart": found.info["apart"] | {"slope rank": [0.5, 0.9]}}
    rank = found.value("slope rank")
    assert "widen to" in told(info=sure, untrained=found.untrained | {"slope rank": rank - 0.7})
    assert "narrow to" in told(info=sure, untrained=found.untrained | {"slope rank": rank + 0.7})
    unsure = found.info | {"apart": found.info["apart"] | {"slope rank": [-0.2, 0.9]}}
    assert "not told apart" in told(info=unsure)
    steep = {"real": 1.0, "generated": 1.0, "between": 9.0}
    slopes = {place: torch.tensor([[0.8, 0.9, 1.0, 1.1, 1.2]] * 2, dtype=f64) * size for place, size in steep.items()}
    said = lambda slopes: dataclasses.replace(found, slopes=slopes).plot(show="slopes").get_title(loc="left")
    assert "steepest between" in said(slopes)
    assert "not steepest anywhere" in said(slopes | {"between": slopes["real"] * 1.01})


def test_the_interval_of_a_difference_is_that_of_the_points_drawn():
    source = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=source, dtype=f64)
    low, high = apart(lambda rows: float(values[rows].mean()), 400, source)
    assert (low + high) / 2 == pytest.approx(float(values.mean()))
    # The deviation of 50 draws is known to 10 %; this is four times as much.
    assert (high - low) / 2 == pytest.approx(1.96 * float(values.std()) / 20, rel=0.4)


def test_held_out_points_that_are_the_real_ones_tell_the_same(run):
    found = critic_geometry(run, points=60, held_out=run.points[torch.arange(60)])
    for name in ("slope at real", "gap", "critic kernel rank", "critic alignment"):
        assert found.held_out[name] == pytest.approx(found.value(name), rel=1e-4)


def test_the_slope_of_a_witness_is_told_from_shuffled_sets():
    d, n = 20, 100
    away = 3.0 * torch.eye(d, dtype=f64)[0]
    critic = nn.Linear(d, 1)
    critic.weight = nn.Parameter(-torch.eye(d)[:1])
    run = played(linear(torch.eye(d, dtype=f64)), critic, torch.randn(n, d, dtype=f64) - away,
                 torch.randn(n, d, dtype=f64))
    found = critic_geometry(run, points=n, steps=2)
    # Real points lie to the left: so does the witness say, and so does this critic.
    assert found.value("witness") > float(found.shuffled.abs().max())
    assert found.check().rows[2].status == "pass"
    # Shuffled sets point either way.
    assert float(found.shuffled.min()) < 0 < float(found.shuffled.max())
    assert found.chance == pytest.approx(1 / (d * n) ** 0.5)


def test_cosines_of_an_orthonormal_frame_have_the_variance_of_a_random_direction():
    generator = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=f64)).Q
    one = torch.randn(1, 64, generator=generator, dtype=f64).expand(64, 64)
    assert float(cosines(frame, one).square().mean()) == pytest.approx(1 / 64, rel=1e-12)
    assert cosines(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0.0


def test_it_is_kept_drawn_and_told_and_nothing_is_changed(run, tmp_path):
    before = run.critic.fingerprint(), run.generator.fingerprint()
    found = critic_geometry(run, points=16, steps=3, held_out=torch.randn(10, 3, dtype=f64))
    loaded = Result.load(found.save(tmp_path / "kept"))
    assert isinstance(loaded, CriticGeometry)
    assert loaded.untrained == found.untrained
    assert list(found.to_frame().measure) == list(MEASURES)
    assert len(found.over_time()) == 3
    assert found.check().rows[0].status == "pass"
    assert "directions" in repr(found)
    for show in ("spectrum", "slopes", "ranks"):
        assert found.plot(show=show).get_title(loc="left")
    page = tmp_path / "page.html"
    ks.Report("A game", [found]).save(page)
    assert "What a critic can tell a generator" in page.read_text()
    assert (run.critic.fingerprint(), run.generator.fingerprint()) == before


def test_random_numbers_of_the_user_are_left_alone(run):
    state = torch.get_rng_state()
    critic_geometry(run, points=8, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("options", "words"), [
    ({"generated": torch.zeros(8, 2)}, "generated must be"), ({"held_out": [1.0]}, "held_out must be"),
    ({"steps": 1}, "steps must be"), ({"points": 1}, "points must be"), ({"steps": 2.5}, "steps must be")])
def test_what_does_not_fit_is_refused(run, options, words):
    with pytest.raises(DataError, match=words):
        critic_geometry(run, **options)


def test_a_measure_that_is_not_there_is_refused(run):
    with pytest.raises(DataError, match="There are slope rank"):
        critic_geometry(run, points=8, steps=2).value("rank")
