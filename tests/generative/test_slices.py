"""A slice of a run is a run: what is said of it is what its own steps did."""

from __future__ import annotations

import pytest
import torch

from kernelscope.errors import DataError
from kernelscope.generative.comparing.sides import DiffusionSide, GANSide, tangent
from kernelscope.generative.denoising.noise import schedule
from kernelscope.generative.denoising.reading import DiffusionRun
from kernelscope.generative.games.game import GANRun
from kernelscope.generative.games.geometry import states_at
from kernelscope.generative.games.witnessing import witness
from kernelscope.generative.stages.localisation import noise_localisation
from kernelscope.generative.stages.noise_kernels import noise_kernel
from kernelscope.generative.stages.stages import explain_diffusion
from kernelscope.generative.training import train_diffusion, train_gan
from kernelscope.run.run import Run
from tests.generative.denoisers import RATE, SPREAD, LinearCore, mlp, points, recorded

LEVELS = schedule(4, lowest=0.05, highest=5.0)


def latents() -> torch.Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def told(run, **options):
    return explain_diffusion(run, latents(), levels=LEVELS, bins=3, progress=False, **options)


@pytest.mark.parametrize("through", ["trajectory", "sampler"])
@pytest.mark.parametrize("ends", [(0, 3), (2, 6), (3, 5), (5, 6)])
def test_the_explanation_of_a_slice_is_complete(through, ends):
    run = recorded(mlp(), points(), "adam")[slice(*ends)]
    why = told(run, through=through)
    assert max(why.completeness()) <= 1e-10
    assert why.check().rows[0].status == "pass"


def test_a_slice_of_a_linear_denoiser_is_split_by_products_of_its_points():
    whole = recorded(LinearCore(3), points(), "sgd")
    run = whole[2:5]
    why = told(run)
    scale = lambda sigma: (sigma**2 + SPREAD**2).rsqrt()
    expected = torch.zeros_like(why.tensor)
    for k in (2, 3, 4):
        batch = whole[k].batches[0]
        (y, sigma), target = whole.samples.read(batch)
        matrix = whole.parameters(k)["core.map.weight"]
        for j, i in enumerate(batch.columns.tolist()):
            bin_ = int((sigma[j] > why.edges).sum())
            error = 2 / 3 * (matrix @ (scale(sigma[j]) * y[j]) - target[j])
            for q in range(len(why)):
                for s, level in enumerate(why.levels):
                    product = scale(sigma[j]) * scale(level) * (y[j] @ why.points[q, s])
                    expected[q, s, :, bin_, i] -= level * SPREAD * scale(level) * RATE / len(y) * error * product
    assert float(expected.abs().max()) > 1e-5
    assert torch.allclose(why.tensor, expected, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_what_two_slices_changed_adds_up_at_the_same_point(optimizer, cut):
    run = recorded(mlp(), points(), optimizer)
    first, second = run[:cut], run[cut:]
    # The way is that of the second slice and of the whole run; the first stage of the first is the same point.
    whole, late, early = told(run), told(second), told(first)
    assert torch.equal(whole.points, late.points)
    assert torch.allclose(early.change[:, 0] + late.change[:, 0], whole.change[:, 0], atol=1e-14)
    assert torch.allclose(late.initial[:, 0], early.denoised[:, 0], atol=1e-14)
    if optimizer == "sgd":
        # Without a memory of earlier gradients each step's draws add what they add in the whole run.
        assert torch.allclose(early.tensor[:, 0] + late.tensor[:, 0], whole.tensor[:, 0], atol=1e-14)
    assert float(early.tensor[:, 0].abs().max()) > 1e-4


def test_a_slice_that_ends_with_the_run_keeps_its_averaged_weights_apart():
    run = recorded(mlp(), points(), "sgd", average=True)
    why = told(run[2:], weights="average apart")
    assert max(why.completeness()) <= 1e-10
    assert float(why.channels["average"].abs().max()) > 1e-4
    for part in (run[2:], run[:4]):
        with pytest.raises(DataError, match="slice"):
            told(part, weights="average")


def test_noise_levels_of_a_slice_are_those_of_its_steps(monkeypatch):
    run = recorded(mlp(), points())
    assert torch.equal(DiffusionRun(run[2:5]).levels(1), DiffusionRun(run).levels(3))
    monkeypatch.setattr(Run, "meta", property(lambda self: {**self.store.meta, "notes": {}}))
    drawn = torch.cat([DiffusionRun(run).levels(k) for k in (3, 4, 5)]).log()
    assert DiffusionRun(run[3:]).law.mean == pytest.approx(float(drawn.mean()), abs=1e-12)
    with pytest.raises(DataError, match="no step"):
        DiffusionRun(run[2:2])


@pytest.mark.parametrize("ends", [(2, 6), (3, 5)])
def test_where_a_slice_is_local_in_noise_closes(ends):
    found = noise_localisation(recorded(mlp(), points(), "adam")[slice(*ends)], points=8, bins=3, progress=False)
    assert float((found.pooled.sum(-1) + found.others - 1).abs().max()) < 1e-10


def test_the_untrained_kernel_of_a_slice_is_the_one_it_began_with():
    run = recorded(mlp(), points(), "adam")
    asked = {"levels": 3, "points": 6, "null": "untrained"}
    late, early = noise_kernel(run[3:], points(), **asked), noise_kernel(run[:3], points(), **asked)
    assert torch.allclose(late.untrained, early.cosine, atol=1e-12)
    assert float((late.untrained - early.untrained).abs().max()) > 1e-6


def test_sides_of_slices_count_their_own_steps():
    run = train_diffusion(points(), width=4, steps=6, batch=4, dtype=torch.float64)
    uneven = DiffusionSide(run[4:])
    assert uneven.presented() == 8
    one, other = tangent(run[2:], 1), tangent(run, 3)
    at = (points()[:3], torch.ones(3, dtype=torch.float64))
    assert torch.equal(one(at), other(at))


def game() -> GANRun:
    return train_gan(points(), latents=2, width=4, steps=6, critic_steps=2, batch=4, dtype=torch.float64)


def test_a_game_of_slices_asks_the_critics_that_its_steps_saw():
    whole = game()
    part = GANRun.of(whole.generator[2:5], whole.critic[4:])
    assert whole.seen.tolist() == [2, 4, 6, 8, 10, 12]
    assert part.seen.tolist() == [2, 4, 6]
    for k in (1, 2):
        for mine, other in zip(states_at(part, k), states_at(whole, k + 2), strict=True):
            assert all(torch.equal(mine[name], other[name]) for name in other)
    # Its beginning is that of both slices; of a slice of the generator alone it is the critic that its first step saw.
    began = states_at(part, 0)[1]
    assert all(torch.equal(p, whole.critic.parameters(4)[name]) for name, p in began.items())
    alone = states_at(GANRun.of(whole.generator[2:], whole.critic), 0)[1]
    assert all(torch.equal(p, whole.critic.parameters(6)[name]) for name, p in alone.items())
    assert GANSide(part).presented() == 4 * 8


def test_slices_that_do_not_fit_together_are_refused():
    whole = game()
    with pytest.raises(DataError, match="begin later"):
        GANRun.of(whole.generator, whole.critic[4:])
    with pytest.raises(DataError, match="first step on"):
        witness(GANRun.of(whole.generator[2:], whole.critic[4:]), points()[:2])


def test_the_first_part_of_a_game_is_explained_to_its_own_end():
    whole = game()
    part = GANRun.of(whole.generator[:3], whole.critic[:6])
    found = witness(part, points()[:3])
    assert torch.allclose(found.final, whole.score(points()[:3], whole.critic.parameters(6)), atol=1e-14)
    assert found.check().rows[0].status == "pass"
