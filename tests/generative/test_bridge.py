"""The bridge between a critic and a denoiser, on models whose directions are known."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.generative.comparing.bridging import Bridge, bridge, nearest
from kernelscope.generative.denoising.closed_forms import WienerDenoiser
from kernelscope.generative.denoising.denoiser import Denoiser, along
from kernelscope.generative.denoising.reading import DiffusionRun
from kernelscope.generative.training import train_diffusion, train_gan
from kernelscope.result import Result

from .small_games import Quadratic, linear, played, with_covariance

f64 = torch.float64


class Nothing(nn.Module):
    """A core that gives 0, so that its denoiser is the Wiener denoiser of isotropic points."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(1, dtype=f64))

    def forward(self, y, c):
        return 0 * y + self.level


def denoising(spread, x):
    """A run of the denoiser of isotropic points, which never moves."""
    denoiser = Denoiser(Nothing(), spread)
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ks.record(denoiser, (x, x), loss=nn.functional.mse_loss,
                       notes={"generative": "diffusion", "law": [-1.2, 1.2]}) as recording:
            sigma = torch.ones(len(x), dtype=f64)
            y = x + along(sigma, x)
            recording.deliver((y, denoiser.target(x, y, sigma)), list(range(len(x))))
            nn.functional.mse_loss(denoiser(y, sigma), denoiser.target(x, y, sigma)).backward()
            optimizer.step()
    return recording.run


def valley(A, x, d=3):
    """A game with the critic x'Ax and a generator that gives its latents."""
    return played(linear(torch.eye(d, dtype=f64)), Quadratic(A), x, torch.randn(12, d, dtype=f64))


X = with_covariance([0.49, 0.49, 0.49])
ONE = torch.eye(3, dtype=f64)


def test_a_critic_whose_slope_points_home_is_a_denoiser():
    found = bridge(denoising(0.7, X), valley(-0.5 * ONE, X), levels=[0.1, 1.0], count=20)
    # Both go straight to the mean, whatever the noise.
    assert torch.allclose(found.generated["critic, denoiser"], torch.ones(2, 20, dtype=f64), atol=1e-12)
    assert torch.allclose(found.generated["denoiser, Wiener"], torch.ones(2, 20, dtype=f64), atol=1e-12)
    # Neither was trained, so nothing is told of them.
    assert found.verdict.startswith("No verdict")
    assert [row.status for row in found.check().rows] == ["warn"] * 3
    assert torch.allclose(found.noisy["critic"], found.noisy["denoiser"], atol=1e-12)


def test_a_critic_whose_slope_points_away_is_none():
    found = bridge(denoising(0.7, X), valley(0.5 * ONE, X), levels=[0.1, 1.0], count=20)
    assert torch.allclose(found.generated["critic, denoiser"], -torch.ones(2, 20, dtype=f64), atol=1e-12)
    assert "is not a denoiser" not in found.verdict


def test_a_critic_that_turns_every_step_by_a_right_angle_has_nothing_in_common():
    # The slope (A + A')x of this critic is at a right angle to x on the whole plane z = 0.
    swap = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=f64)
    at = torch.tensor([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.5, 0.0]], dtype=f64)
    found = bridge(denoising(0.7, X), valley(swap, X), levels=[0.5], points=at, count=10)
    assert float(found.generated["critic, denoiser"].abs().max()) < 1e-15
    assert found.info["points"] == "given"


@pytest.fixture(scope="module")
def models():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(80, 5)
        return (train_diffusion(x, steps=40, width=8, batch=16), train_gan(x, steps=40, width=8, latents=3, batch=16),
                torch.randn(30, 5))


@pytest.fixture(scope="module")
def found(models):
    return bridge(models[0], models[1], levels=[0.2, 0.5, 0.9], count=80)


def turned(found, **means):
    """The same bridge, had the cosines other means; what is not named is nought."""
    noise = 0.05 * torch.randn(3, 80, dtype=f64, generator=torch.Generator().manual_seed(0))
    noise = noise - noise.mean(1, keepdim=True)
    words = {"own": "critic, denoiser", "two": "denoiser, Wiener", "elsewhere": "critic, denoiser elsewhere",
             "critic0": "untrained critic, denoiser", "denoiser0": "critic, untrained denoiser",
             "begun": "untrained critic, denoiser elsewhere"}
    at = {name: torch.as_tensor(means.get(word, 0.0), dtype=f64).expand(3)[:, None] + i * noise
          for i, (word, name) in enumerate(words.items())}
    noisy = {"denoiser": noise + means.get("back", 0.8), "untrained denoiser": 0.5 * noise,
             "critic": 2 * noise + means.get("critic_back", 0.1)}
    return dataclasses.replace(found, generated=found.generated | at, noisy=found.noisy | noisy)


def test_the_verdict_turns_with_the_numbers(found):
    near = "The critic points where the denoiser does"
    assert turned(found, own=0.6, two=0.9).verdict == near
    assert turned(found, own=[0.6, 0.6, 0.1], two=0.9).verdict == f"{near} at 2 of 3 noise levels"
    assert turned(found, own=0.1, two=0.9).verdict == "The critic is not a denoiser"
    # An interval that holds a half of what two denoisers have in common tells of neither.
    assert turned(found, own=0.455, two=0.9).verdict == "The critic is not shown to be a denoiser"
    for null in ("elsewhere", "critic0", "denoiser0"):
        assert turned(found, own=0.6, two=0.9, **{null: 0.6}).verdict == "The critic is not shown to be a denoiser"
    assert "no better than untrained" in turned(found, own=0.6, two=0.9, back=0.005).verdict


def test_checks_pass_where_leads_are_sure_and_no_trifles(found):
    status = lambda **means: {row.name: row.status for row in turned(found, **means).check().rows}
    assert status(own=0.3)["elsewhere"] == "pass"
    assert status(own=0.3, elsewhere=0.3)["elsewhere"] == "warn"
    # A slope that is untrained has the same lead.
    assert status(own=0.3, critic0=0.3)["elsewhere"] == "warn"
    assert status(own=0.3, critic0=0.3, begun=0.3)["elsewhere"] == "pass"
    assert status()["denoiser"] == "pass"
    assert status(back=0.005)["denoiser"] == "warn"
    exact = torch.zeros(3, 80, dtype=f64)
    assert not found.above(exact + 1e-9).any()
    assert found.above(exact + 0.02).all()


def test_networks_that_never_learned_make_no_claim():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    idle = bridge(train_diffusion(x, steps=1, rate=1e-12, width=8, batch=32),
                  train_gan(x, steps=2, rate=1e-12, width=8, latents=3, batch=32), levels=4, count=60)
    assert idle.verdict.startswith("No verdict")
    assert [row.status for row in idle.check().rows] == ["warn"] * 3
    assert "no better than an untrained" in idle.plot(show="noisy").get_title(loc="left").replace("\n", " ")


def test_the_drawing_of_the_way_back_turns_with_the_numbers(found):
    title = lambda **means: turned(found, **means).plot(show="noisy").get_title(loc="left").replace("\n", " ")
    assert "The critic points back less than the denoiser at every noise level" in title()
    assert "is not told from the denoiser" in title(critic_back=0.8)


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


def test_each_cosine_is_that_of_its_two_directions(models):
    run, game, fresh = models
    made = torch.randn(6, 5, dtype=f64)
    found = bridge(run, game, levels=[0.2, 0.9], points=made, held_out=fresh)
    denoiser, x, first = DiffusionRun(run), game.points.double(), game.critic.parameters(0)
    for row, level in enumerate((0.2, 0.9)):
        for i, point in enumerate(made):
            sigma = torch.tensor([level], dtype=f64)
            step = (denoiser.denoised(point[None], sigma) - point)[0]
            begun = (denoiser.denoised(point[None], sigma, run.parameters(0)) - point)[0]
            wiener = (WienerDenoiser(x)(point[None], sigma) - point)[0]
            slope, flat = game.slope(point[None])[0], game.slope(point[None], first)[0]
            near = x[int((x - point).norm(dim=1).argmin())] - point
            other = fresh.double()[int((fresh.double() - point).norm(dim=1).argmin())] - point
            expected = {"critic, denoiser": cosine(slope, step), "critic, untrained denoiser": cosine(slope, begun),
                        "untrained critic, denoiser": cosine(flat, step), "critic, Wiener": cosine(slope, wiener),
                        "denoiser, Wiener": cosine(step, wiener), "critic, nearest": cosine(slope, near),
                        "denoiser, nearest": cosine(step, near), "critic, nearest held out": cosine(slope, other)}
            for name, value in expected.items():
                assert float(found.generated[name][row, i]) == pytest.approx(value, abs=1e-10), name


def test_the_elsewhere_null_is_the_same_steps_at_other_points(models):
    run, game, _ = models
    made = torch.randn(6, 5, dtype=f64)
    found = bridge(run, game, levels=[0.5], points=made)
    sigma = torch.full((6,), 0.5, dtype=f64)
    steps, slopes = DiffusionRun(run).denoised(made, sigma) - made, game.slope(made)
    expected = [cosine(slopes[i], steps[i - 1]) for i in range(6)]
    assert found.generated["critic, denoiser elsewhere"][0].tolist() == pytest.approx(expected, abs=1e-10)


def test_two_denoisers_of_one_point_each_differ_by_these_points(models):
    run, game, _ = models
    # At little noise each denoiser gives its nearest point.
    made = torch.randn(6, 5, dtype=f64)
    found = bridge(run, game, levels=[1e-3], points=made, seed=3)
    ideal = found.generated["critic, two denoisers"][0]
    x, slopes = game.points.double(), game.slope(made)
    source = torch.Generator().manual_seed(3)
    torch.randperm(len(x), generator=source)
    others = game.generated(torch.randn(len(x), 3, generator=source).double())
    expected = [cosine(slopes[i], nearest(made, x)[i] - nearest(made, others)[i]) for i in range(6)]
    assert ideal.tolist() == pytest.approx(expected, abs=1e-9)


def test_a_denoiser_of_images_meets_a_critic_of_the_same_images_as_vectors():
    x = torch.randn(40, 1, 4, 4)
    images = train_diffusion(x, network="conv", width=4, steps=3, batch=8)
    vectors = train_gan(x.flatten(1), steps=3, width=4, latents=2, batch=8)
    at = torch.randn(3, 16, dtype=f64)
    found = bridge(images, vectors, levels=[0.5], points=at)
    steps = DiffusionRun(images).denoised(at.view(3, 1, 4, 4), torch.full((3,), 0.5, dtype=f64)).flatten(1) - at
    expected = [cosine(slope, step) for slope, step in zip(vectors.slope(at), steps, strict=True)]
    assert found.generated["critic, denoiser"][0].tolist() == pytest.approx(expected, abs=1e-10)


def test_the_mean_of_random_directions_is_within_chance(models):
    run, game, _ = models
    found = bridge(run, game, levels=[0.5], count=40)
    assert found.chance() == pytest.approx(1.96 / (5 * 40) ** 0.5)
    generator = torch.Generator().manual_seed(1)
    random, fixed = torch.randn(4000, 40, 5, generator=generator), torch.randn(40, 5, generator=generator)
    means = nn.functional.cosine_similarity(random, fixed, dim=2).mean(1)
    # Of 4000 means 5 % are beyond it, within four standard errors (and the mean of 40 is all but normal).
    share = float((means.abs() > found.chance()).double().mean())
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / 4000) ** 0.5
    assert float(means.std()) == pytest.approx(1 / (5 * 40) ** 0.5, rel=0.05)


def test_intervals_are_those_of_the_mean(models):
    run, game, _ = models
    found = bridge(run, game, levels=3, count=12)
    values = found.generated["critic, denoiser"]
    mean, off = found.mean("critic, denoiser")
    assert mean.tolist() == pytest.approx([float(row.mean()) for row in values])
    assert off.tolist() == pytest.approx([1.96 * float(row.std()) / 12**0.5 for row in values])
    assert len(found.levels) == 3
    assert bool((found.levels.diff() > 0).all())
    assert float(found.levels[1].log()) == pytest.approx(-1.2)


def test_it_is_kept_drawn_and_told(models, tmp_path):
    run, game, fresh = models
    state = torch.get_rng_state()
    found = bridge(run, game, levels=[0.1, 0.5, 2.0], held_out=fresh, count=16)
    assert torch.equal(torch.get_rng_state(), state)
    loaded = Result.load(found.save(tmp_path / "kept"))
    assert isinstance(loaded, Bridge)
    assert loaded.summary() == found.summary()
    assert loaded.to_frame().equals(found.to_frame())
    for show in ("generated", "noisy"):
        assert found.plot(show=show).get_title(loc="left")
    frame = found.to_frame()
    assert set(frame.points) == {"generated", "noisy"}
    assert len(frame) == 3 * (len(found.generated) + len(found.noisy))
    assert {row.name for row in found.check().rows} == {"denoiser", "elsewhere", "two denoisers"}
    ks.Report("A bridge", [found]).save(tmp_path / "page.html")
    assert "Critic and denoiser at the same points" in (tmp_path / "page.html").read_text()


def test_what_does_not_fit_is_refused(models):
    run, game, _ = models
    for given, words in (((run, run), "as the game"), ((game.critic, game), "diffusion run")):
        with pytest.raises(DataError, match=words):
            bridge(*given)
    for options, words in (({"levels": "all"}, "levels must be"), ({"levels": ["a"]}, "levels must be"),
                           ({"levels": torch.tensor(1.0)}, "levels must be"), ({"points": "real"}, "points must be"),
                           ({"levels": [0.0]}, "levels must be"), ({"held_out": torch.zeros(3, 2)}, "held_out must"),
                           ({"count": 1}, "count must be")):
        with pytest.raises(DataError, match=words):
            bridge(run, game, **options)
    with pytest.raises(DataError, match="Nothing called"):
        bridge(run, game, levels=[1.0], count=4).mean("critic, dragon")
    other = train_diffusion(torch.randn(20, 4), steps=2, width=4, batch=8)
    with pytest.raises(DataError, match="same kind of points"):
        bridge(other, game)


@pytest.mark.slow
def test_the_experiments_tell_their_numbers_with_their_nulls():
    from analysis.generative import models
    from analysis.generative.bridging import Settings, e8_geometry, e10

    made, small = models.Settings(steps=6, batch=16, width=8), Settings(points=32, eigenvalues=2)
    run = models.game(made)
    numbers, results = e8_geometry(small, {"R1": run})
    assert [type(result).__name__ for result in results] == ["CriticGeometry", "GameSpectrum"]
    assert {"R1: slope rank", "R1: slope rank, untrained", "R1: turning", "R1: witness, shuffled"} <= set(numbers)
    numbers, found = e10(small, models.denoiser(made), run)
    low, high = found.range("critic, denoiser")
    assert (numbers["generated: critic, denoiser, least"], numbers["generated: critic, denoiser, most"]) == (low, high)
    assert "generated: untrained critic, denoiser, most" in numbers
