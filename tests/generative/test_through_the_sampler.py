"""A sample is exactly what each draw of training added to it through each stage of the sampler."""

from __future__ import annotations

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.generative.denoising.noise import schedule
from kernelscope.generative.denoising.reading import DiffusionRun
from kernelscope.generative.denoising.sampling import sample
from kernelscope.generative.stages.result import DiffusionExplanation
from kernelscope.generative.stages.sampler_result import SamplerExplanation
from kernelscope.generative.stages.stages import SHUFFLES, explain_diffusion
from tests.generative.denoisers import RATE, SPREAD, LinearCore, at, draws, gradient, mlp, points, recorded

LEVELS = schedule(4, lowest=0.05, highest=5.0)


def latents(q: int = 2, d: int = 3) -> torch.Tensor:
    return torch.randn(q, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def told(run, **options) -> SamplerExplanation:
    return explain_diffusion(run, latents(), **{"through": "sampler", "levels": LEVELS, "bins": 3, "progress": False,
                                                **options})


def generated(run, theta, z, method="heun"):
    """The sample of one latent where each stage has parameters of its own, written out."""
    reader = DiffusionRun(run)

    def denoised(x, k, stage):
        level = LEVELS[k]
        a, b = reader.coefficients(level[None])
        return a * x + b * at(run, 0, x, level, theta[stage])

    x = LEVELS[0] * z
    for k in range(len(LEVELS)):
        d = denoised(x, k, k)
        if k + 1 == len(LEVELS):
            return d
        slope, down = (x - d) / LEVELS[k], LEVELS[k + 1] - LEVELS[k]
        if method == "heun":
            ahead = x + down * slope
            # The second evaluation of a step belongs to the stage where the step begins.
            slope = (slope + (ahead - denoised(ahead, k + 1, k)) / LEVELS[k + 1]) / 2
        x = x + down * slope


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "decay"])
@pytest.mark.parametrize("quadrature", ["gonzalez", pytest.param("gonzalez3", marks=pytest.mark.slow), "gauss8"])
def test_stages_add_up_to_the_sample(optimizer, quadrature):
    run = recorded(mlp(), points(), optimizer)
    why = told(run, quadrature=quadrature)
    # Both samples come from the sampler alone, so that the ledger is compared with something else.
    reader = DiffusionRun(run)
    ends = [sample(lambda y, s, p=p: reader.denoised(y, s, p), latents(), LEVELS).final
            for p in (run.parameters(run.start), run.parameters())]
    moved = ends[1] - ends[0]
    total = why.tensor.sum((1, 3, 4)) + sum(part.sum(1) for part in why.channels.values())
    assert float(moved.norm(dim=1).min()) > 1e-3
    assert float((total - moved).norm(dim=1).max() / moved.norm(dim=1).min()) <= 1e-10
    assert why.completeness()[0] <= 1e-10
    assert why.check().ok
    assert torch.allclose(why.toward("bin").sum((1, 2)) + _others(why), torch.ones(2).double(), atol=1e-10)


def _others(why):
    """What the other channels hold of the sample's change, in units of it."""
    along = why.displacement / why.displacement.square().sum(-1, keepdim=True)
    return sum(torch.einsum("qm,qkm->q", along, part) for name, part in why.channels.items())


@pytest.mark.parametrize("method", ["heun", "euler"])
@pytest.mark.parametrize("quadrature", ["gonzalez", pytest.param("gauss2", marks=pytest.mark.slow)])
def test_a_sample_is_split_as_three_nested_loops_split_it(method, quadrature):
    run = recorded(mlp(), points(), "sgd", steps=3)
    why = told(run, method=method, quadrature=quadrature)
    expected, stages = torch.zeros_like(why.tensor), len(LEVELS)
    nodes = {"gonzalez": [0.5], "gauss2": [0.5 - 12**-0.5, 0.5 + 12**-0.5]}[quadrature]
    for k in range(len(run)):
        here, later = run.parameters(k), run.parameters(k + 1)
        step = torch.cat([(later[name] - here[name]).flatten() for name in here])
        own = [draw for draw in draws(run) if draw[0] == k]
        of_draws = [gradient(run, k, lambda p, k=k, y=y, s=s, t=t: (at(run, k, y, s, p) - t).square().mean(), here)
                    for _, _, y, s, t, _ in own]
        for q, z in enumerate(latents()):
            for c in range(3):
                parts = []
                for stage in range(stages):
                    found = torch.zeros_like(step)
                    for node in nodes:
                        theta = {name: here[name] + node * (later[name] - here[name]) for name in here}

                        def value(p, theta=theta, stage=stage, z=z, c=c):
                            copies = [p if j == stage else theta for j in range(stages)]
                            return generated(run, copies, z, method)[c]

                        found = found + gradient(run, k, value, theta) / len(nodes)
                    parts.append(found)
                if quadrature == "gonzalez":
                    change = (generated(run, [later] * stages, z, method) -
                              generated(run, [here] * stages, z, method))[c]
                    missed = change - sum(parts) @ step
                    parts = [p + missed / stages * step / (step @ step) for p in parts]
                for stage, p in enumerate(parts):
                    for (_, i, _, sigma, _, count), g in zip(own, of_draws, strict=True):
                        expected[q, stage, c, int((sigma > why.edges).sum()), i] -= RATE / count * (p @ g)
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(why.tensor, expected, atol=1e-12)


def test_a_linear_sampler_passes_stages_on_by_its_product():
    # One number and one weight w, no noise word: Euler's sampler is a product of factors f_k(w).
    run = recorded(LinearCore(1), points(12, 1), "sgd", steps=1)
    z = latents(1, 1)
    why = explain_diffusion(run, z, through="sampler", levels=LEVELS, method="euler", bins=1, progress=False,
                            quadrature="gauss9")
    reader = DiffusionRun(run)
    a, b = reader.coefficients(LEVELS)
    scale = (LEVELS**2 + SPREAD**2).rsqrt()
    w0, w1 = (float(next(iter(run.parameters(k).values()))) for k in (0, 1))
    ratio = torch.cat([LEVELS[1:], LEVELS.new_zeros(1)]) / LEVELS
    factor = lambda w: ratio + (1 - ratio) * (a + b * scale * w)
    slope = (1 - ratio) * b * scale
    expected = torch.zeros(len(LEVELS), dtype=torch.float64)
    count = 1000  # midpoints, of order 2
    for w in w0 + (w1 - w0) * (torch.arange(count, dtype=torch.float64) + 0.5) / count:
        f = factor(w)
        expected += LEVELS[0] * z[0, 0] * slope * f.prod() / f * (w1 - w0) / count
    assert torch.allclose(why.change[0, :, 0] * why.directions[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("weights", ["average", "average apart"])
def test_samples_of_averaged_weights_are_complete_too(weights):
    why = told(recorded(mlp(), points(), "momentum", average=True), weights=weights)
    assert why.completeness()[0] <= 1e-10
    assert ("average" in why.channels) == (weights == "average apart")


def test_a_stiff_sampler_leaves_a_residual_that_is_printed():
    # A step of Heun from noise s down to t divides by t, so that few stages over many decades magnify what differs.
    stiff = torch.tensor([50.0, 0.05, 0.0005], dtype=torch.float64)
    run = recorded(mlp(), points(), "adam")
    left = {}
    for nodes in (1, 5, 12):
        why = told(run, levels=stiff, quadrature=f"gauss{nodes}")
        left[nodes] = why.completeness()[0]
        row = next(row for row in why.check().rows if row.name == "completeness")
        assert row.status == ("pass" if row.value <= row.limit else "warn")
        assert f"{left[nodes]:.1e} of the change" in row.sentence
    assert left[1] > 1e-4
    assert 1e-9 < left[5] < 1e-6
    assert left[12] < 1e-10
    # Few nodes are complete too where they are corrected, and say how much that was.
    why = told(run, levels=stiff)
    assert why.completeness()[0] <= 1e-10
    assert float(why.missed.max()) > 1e-4


def test_the_correction_leaves_what_it_does_not_need_to_touch():
    run = recorded(mlp(), points(), "adam")
    fine, rough, corrected = (told(run, quadrature=rule) for rule in ("gauss9", "gauss2", "gonzalez2"))
    away = lambda why: float((why.tensor - fine.tensor).norm() / fine.tensor.norm())
    # The correction is no larger than what was missed, and both are small of two nodes.
    assert away(corrected) < 2 * away(rough) + float(rough.missed.max())
    assert away(corrected) < 1e-3


def test_one_direction_is_the_projection_of_every_number():
    run = recorded(mlp(), points(), "adam")
    whole, one = told(run), told(run, directions="displacement")
    projected = torch.einsum("qmd,qkdbn->qkmbn", one.directions, whole.tensor)
    assert torch.allclose(projected, one.tensor, atol=1e-12)
    assert torch.allclose(whole.toward("bin"), one.toward("bin"), atol=1e-12)


def test_both_forms_are_one_where_there_is_one_stage():
    run = recorded(mlp(), points(), "adam")
    # As close as these stages are, the first one moves the point by 1e-5 of itself.
    one = schedule(2, lowest=4.9999, highest=5.0)
    through = told(run, levels=one, quadrature="gauss9")
    along_the_way = told(run, levels=one, through="trajectory", quadrature="gauss9")
    last = through.tensor[:, -1] - along_the_way.tensor[:, -1]
    assert float(last.norm() / along_the_way.tensor[:, -1].norm()) < 1e-4
    assert isinstance(through, SamplerExplanation)
    assert type(along_the_way) is DiffusionExplanation
    assert "through the sampler" in repr(through)
    assert "held fixed" in repr(along_the_way)


def test_shuffled_draws_hold_the_same_sum():
    for through in ("sampler", "trajectory"):
        why = told(recorded(mlp(), points(), "adam"), through=through)
        assert why.shuffled.shape[3:] == (SHUFFLES, 3)
        assert torch.allclose(why.shuffled.sum(-1), why.tensor.sum((-2, -1))[..., None].expand(-1, -1, -1, SHUFFLES))
        own, null = why.localisation()
        assert own.shape == (4,)
        assert null.shape == (SHUFFLES, 4)


def test_the_explanation_draws_speaks_and_is_kept(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    why = told(recorded(mlp(), points(), "adam"))
    why.save(tmp_path / "why")
    again = DiffusionExplanation.load(tmp_path / "why")
    assert torch.equal(again.tensor, why.tensor)
    assert torch.equal(again.began, why.began)
    assert repr(again) == repr(why)
    assert "shuffled draws" in why.said_of_noise()
    assert why.verdict().startswith(("memorised", "composed"))
    assert len(why.to_frame()) == 8
    why.plot()
    assert "through the sampler" in ks.Report("A sample", [("Why", why)]).html()
    # Without a stage, images are ranked by what they added to the whole sample.
    found = why.top(k=12)
    change = why.displacement[0]
    whole = (change / change.norm()) @ why.tensor[0].sum((0, 2))
    assert found["group"][0] == f"image {int(whole.argmax())}"
    assert bool(found["share"].isna().all()) != why.divisible()


def test_questions_that_cannot_be_answered_say_why():
    run = recorded(mlp(), points(), "sgd", steps=1)
    with pytest.raises(DataError, match="through"):
        told(run, through="noise")
    with pytest.raises(DataError, match="quadrature"):
        told(run, quadrature="simpson")
