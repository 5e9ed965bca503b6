"""Games whose motion is known in closed form: their spectra, orbits and points of rest."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kernelscope.errors import DataError
from kernelscope.generative.games.geometry import critic_geometry, guided_kernel, states_at
from kernelscope.generative.games.spectra import (
    DENSE,
    GameSpectrum,
    dirac_jacobian,
    game_spectrum,
    update_matrix,
    vector_field,
)
from kernelscope.generative.training import train_gan
from kernelscope.result import Result

from .small_games import Place, Quadratic, Slope, linear, played, with_covariance

f64 = torch.float64
ORIGIN = torch.zeros(3, 1, dtype=f64)


def complex_of(result):
    return sorted(torch.view_as_complex(result.eigenvalues).tolist(), key=lambda value: (value.real, value.imag))


@pytest.mark.parametrize(("kind", "a"), [("non-saturating", 0.5), ("wasserstein", 1.0), ("hinge", 1.0)])
def test_the_players_of_a_dirac_game_go_round_each_other(kind, a):
    run = played(Place(0.0), Slope(0.0), ORIGIN, ORIGIN, kind=kind)
    found = complex_of(game_spectrum(run))
    assert np.allclose(found, [-1j * a, 1j * a], atol=1e-15)
    assert game_spectrum(run).turning == 1.0


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 1.7, 3.0])
def test_r1_damps_a_dirac_game_and_is_critical_at_one(gamma):
    run = played(Place(0.0), Slope(0.0), ORIGIN, ORIGIN, kind="non-saturating", r1=gamma)
    result = game_spectrum(run)
    root = np.sqrt(complex(gamma**2 / 4 - 0.25))
    expected = sorted([-gamma / 2 - root, -gamma / 2 + root], key=lambda value: (value.real, value.imag))
    # At the critical weight two eigenvalues meet, where round-off moves them by its root.
    assert np.allclose(complex_of(result), expected, atol=1e-7 if gamma == 1 else 1e-14)
    assert result.growth < 0
    if gamma != 1:
        assert result.turning == (1.0 if gamma < 1 else 0.0)
        assert result.ratio == pytest.approx(math.sqrt(1 / gamma**2 - 1) if gamma < 1 else 0.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["non-saturating", "wasserstein"])
@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_the_closed_form_is_the_jacobian_of_the_modules(kind, gamma):
    run = played(Place(0.0), Slope(0.0), ORIGIN, ORIGIN, kind=kind, r1=gamma)
    motion = vector_field(run, ORIGIN, ORIGIN)
    found = torch.autograd.functional.jacobian(motion, torch.zeros(2, dtype=f64))
    assert torch.allclose(found, dirac_jacobian(kind, gamma), atol=1e-15)


def test_moving_at_once_leaves_the_point_of_rest_at_a_known_rate():
    h, k = 0.1, 100
    run = played(Place(0.6), Slope(0.8), ORIGIN, ORIGIN, steps=k, rate=h, simultaneous=True)
    moving, judging = states_at(run, k)
    size = math.hypot(float(moving["theta"]), float(judging["network.phi"]))
    assert size == pytest.approx((1 + h**2) ** (k / 2), rel=1e-13)
    assert (1 + h**2) ** (k / 2) == pytest.approx(1.6446318, abs=1e-7)
    matrix = update_matrix(dirac_jacobian("wasserstein"), h, 1)
    assert torch.allclose(torch.linalg.eigvals(matrix).abs(), torch.full((2,), math.sqrt(1 + h**2), dtype=f64))


def test_moving_in_turn_stays_on_an_ellipse():
    h, k = 0.3, 400
    run = played(Place(0.6), Slope(0.8), ORIGIN, ORIGIN, steps=k, rate=h)
    places = torch.stack([torch.cat([run.generator.parameters(j)["theta"], run.critic.parameters(j)["network.phi"]])
                          for j in range(k + 1)])
    theta, phi = places.unbind(1)
    # What symplectic Euler keeps of an oscillator, where the critic moves first.
    kept = theta**2 + phi**2 - h * theta * phi
    assert float((kept / kept[0] - 1).abs().max()) < 1e-12
    # The critic is the first to move, so it comes first.
    matrix = update_matrix(dirac_jacobian("wasserstein").flip(0, 1), h, 1, "alternating")
    assert torch.allclose(places[1:].flip(1), places[:-1].flip(1) @ matrix.T, atol=1e-13)
    assert torch.allclose(torch.linalg.eigvals(matrix).abs(), torch.ones(2, dtype=f64), atol=1e-14)


def clipped(run, x, z, start, steps=40, h=0.2):
    """The critic of one number where it comes to rest within [-1, 1], the generator held still."""
    motion, omega = vector_field(run, x, z), torch.tensor(start, dtype=f64)
    for _ in range(steps):
        omega[1] = (omega[1] + h * motion(omega)[1]).clamp(-1, 1)
    return motion, omega


@pytest.mark.parametrize("theta", [1.3, -0.4])
def test_the_critic_of_a_shift_has_slope_one_and_tells_its_size(theta):
    x = 0.7 * torch.special.ndtri((torch.arange(200, dtype=f64) + 0.5) / 200)[:, None]

    class Shift(Place):
        def forward(self, z):
            return z + self.theta

    run = played(Shift(theta), Slope(0.0), x, x)
    motion, omega = clipped(run, x, x, [theta, 0.0])
    assert float(omega[1]) == -math.copysign(1.0, theta)
    score = lambda points: float((omega[1] * points).mean())
    assert score(x) - score(x + theta) == pytest.approx(abs(theta), abs=1e-13)
    assert float(motion(omega)[0]) == pytest.approx(-math.copysign(1.0, theta), abs=1e-13)


@pytest.mark.parametrize(("real", "made"), [(2.0, 1.0), (0.5, 1.7)])
def test_the_critic_of_a_scale_is_the_distance_from_the_middle(real, made):
    q = torch.special.ndtri((torch.arange(20000, dtype=f64) + 0.5) / 20000)[:, None]

    class Wide(Place):
        def forward(self, z):
            return z * self.theta

    run = played(Wide(made), Slope(0.0, torch.abs), real * q[:50], q[:50])
    motion, omega = clipped(run, real * q, q, [made, 0.0])
    assert float(omega[1]) == math.copysign(1.0, real - made)
    value = float((omega[1] * (real * q).abs()).mean() - (omega[1] * (made * q).abs()).mean())
    # The distance of two sorted samples is exact; that of the laws is met as the quantiles become many.
    assert value == pytest.approx(float((real * q - made * q).abs().mean()), abs=1e-13)
    assert value == pytest.approx(abs(real - made) * math.sqrt(2 / math.pi), abs=1e-4)


LAMBDA = (3.0, 2.0, 1.0, 0.5)


def at_rest(kept, gamma, **options):
    """The game of a linear generator and a quadratic critic at rest with the eigenvectors ``kept``."""
    d = len(LAMBDA)
    G = torch.zeros(d, len(kept), dtype=f64)
    for column, i in enumerate(kept):
        G[i, column] = math.sqrt(LAMBDA[i])
    A = torch.diag(torch.tensor([0.0 if i in kept else 1 / (4 * gamma) for i in range(d)], dtype=f64))
    return played(linear(G), Quadratic(A), with_covariance(LAMBDA), with_covariance([1.0] * len(kept)), r1=gamma,
                  **options)


def test_the_principal_components_are_at_rest_and_others_are_left():
    gamma, z = 0.6, with_covariance([1.0] * 2)
    for kept in [(0, 1), (0, 2), (2, 3)]:
        run = at_rest(kept, gamma)
        omega = torch.cat([t.flatten() for part in states_at(run, 1) for t in part.values()])
        assert float(vector_field(run, run.points, z)(omega).abs().max()) < 1e-14
        result = game_spectrum(run, points=8, latents=z)
        values = torch.view_as_complex(result.eigenvalues)
        # A kept direction i and another one j turn into each other as two numbers do.
        for i in kept:
            for j in set(range(4)) - set(kept):
                trace = 1 / (2 * gamma) - 2 * gamma * (LAMBDA[i] + LAMBDA[j])
                for root in np.roots([1, -trace, LAMBDA[i] - LAMBDA[j]]):
                    assert float((values - complex(root)).abs().min()) < 1e-9
        # Turning the latents changes nothing, so some eigenvalues are nought; several of them, so to the root of eps.
        assert (result.growth < 1e-6) == (kept == (0, 1))


def test_a_linear_generator_learns_the_principal_components():
    torch.manual_seed(3)
    x, z = with_covariance(LAMBDA), with_covariance([1.0, 1.0])
    run = played(linear(torch.randn(4, 2, dtype=f64)), Quadratic(torch.zeros(4, 4, dtype=f64)), x, z, r1=0.6,
                 steps=700, rate=0.1)
    G = run.generator.parameters()["weight"]
    # The error shrinks by a factor of about e^0.04 each step, to the rounding of the recorded parameters.
    assert torch.allclose(G @ G.T, torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=f64)), atol=1e-9)
    # There the critic is flat where the generator is, so nothing moves it any more.
    assert float(run.slope(run.generated(z)).abs().max()) < 1e-9
    assert float(guided_kernel(run, z).abs().max()) < 1e-12
    A = run.critic.parameters()["network.A"]
    assert torch.allclose(A, torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=f64)) / 2.4, atol=1e-9)


def test_a_critic_with_nothing_to_tell_becomes_flat():
    torch.manual_seed(4)
    gamma, h, steps = 0.4, 0.05, 60
    A, x = torch.randn(4, 4, dtype=f64), with_covariance(LAMBDA)
    A = A + A.T
    run = played(linear(torch.eye(4, dtype=f64)), Quadratic(A), x, x, r1=gamma, steps=steps, rate=0.0)
    motion = vector_field(run, x, x)
    omega = torch.cat([torch.eye(4, dtype=f64).flatten(), A.flatten()])
    S = torch.diag(torch.tensor(LAMBDA, dtype=f64))
    assert torch.allclose(motion(omega)[16:].view(4, 4), -2 * gamma * (A @ S + S @ A), atol=1e-12)
    for _ in range(steps):
        omega[16:] += h * motion(omega)[16:]
    sums = S.diagonal()[:, None] + S.diagonal()
    assert torch.allclose(omega[16:].view(4, 4), (1 - 2 * gamma * h * sums) ** steps * A, atol=1e-12)


def test_training_is_replayed_where_it_was_not_kept():
    torch.manual_seed(0)
    options = dict(steps=23, width=8, latents=2, batch=8, dtype=f64)
    x, z, q = torch.randn(40, 3, dtype=f64), torch.randn(5, 2, dtype=f64), torch.randn(5, 3, dtype=f64)
    whole, thin = train_gan(x, keep="all", **options), train_gan(x, keep=9, **options)
    for k in (0, 4, 9, 17, 23):
        for one, other in zip(states_at(whole, k), states_at(thin, k), strict=True):
            assert all(torch.allclose(one[name], other[name], atol=1e-12) for name in one)
        (moving, judging), (again, told) = states_at(whole, k), states_at(thin, k)
        assert torch.allclose(whole.generated(z, moving), thin.generated(z, again), atol=1e-12)
        assert torch.allclose(whole.score(q, judging), thin.score(q, told), atol=1e-12)


@pytest.fixture(scope="module")
def trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train_gan(torch.randn(60, 2), steps=40, width=6, latents=2, batch=16)


def test_eigenvalues_by_products_are_those_of_the_matrix(trained, monkeypatch):
    whole = game_spectrum(trained, points=32)
    assert whole.info["dense"]
    monkeypatch.setattr("kernelscope.generative.games.spectra.DENSE", 10)
    found = game_spectrum(trained, points=32, count=5)
    # A pair of eigenvalues may be cut in two.
    assert torch.allclose(found.eigenvalues.norm(dim=1), whole.eigenvalues[:5].norm(dim=1), rtol=1e-8)
    assert torch.allclose(found.players[:4], whole.players[:4], atol=1e-6)
    assert found.check().rows[0].status == "pass"


def test_the_field_is_the_gradient_of_each_players_own_loss(trained):
    x, z = trained.points.double(), torch.randn(7, 2, dtype=f64)
    moving, judging = states_at(trained, 40)
    omega = torch.cat([t.double().flatten() for part in (moving, judging) for t in part.values()])
    generator, judged = (run.network.module(()).double() for run in (trained.generator, trained.critic))
    states = [{name: t.double().requires_grad_() for name, t in part.items()} for part in (moving, judging)]
    fake = torch.func.functional_call(generator, states[0], (z,))
    softplus = nn.functional.softplus
    outputs = lambda points: torch.func.functional_call(judged, states[1], (points,))
    of_real, of_fake = outputs(x), outputs(fake)[:, 0]
    first = torch.autograd.grad(softplus(-of_fake).mean(), list(states[0].values()), retain_graph=True)
    loss = softplus(-of_real[:, 0]).mean() + softplus(of_fake).mean() + 0.05 * of_real[:, 1].mean()
    second = torch.autograd.grad(loss, list(states[1].values()))
    expected = -torch.cat([g.flatten() for g in (*first, *second)])
    assert torch.allclose(vector_field(trained, x, z)(omega), expected, atol=1e-12)


def test_a_spectrum_is_kept_drawn_and_told(trained, tmp_path):
    result = game_spectrum(trained, points=32)
    loaded = Result.load(result.save(tmp_path / "kept"))
    assert isinstance(loaded, GameSpectrum)
    assert torch.equal(loaded.eigenvalues, result.eigenvalues)
    assert "turn" in repr(result)
    assert len(result.to_frame()) == len(result.eigenvalues) <= DENSE
    assert len(result.along_chord()) == 31
    for show in ("spectrum", "chord"):
        assert result.plot(show=show).get_title(loc="left")
    # The lengths and angles are those of the motion at these places.
    assert float(result.angles.abs().max()) <= 1 + 1e-12


def test_what_is_no_game_is_refused(trained):
    for asked in (game_spectrum, critic_geometry):
        with pytest.raises(DataError, match="game"):
            asked(trained.critic)
    with pytest.raises(DataError, match="order"):
        update_matrix(dirac_jacobian(), 0.1, 1, "both")
    with pytest.raises(DataError, match="which"):
        game_spectrum(trained, which="SM")
