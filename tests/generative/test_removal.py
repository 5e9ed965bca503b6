import math

import pytest
import torch

from kernelscope import plots
from kernelscope.errors import DataError
from kernelscope.generative.denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.denoising.noise import NoiseLaw
from kernelscope.generative.networks import NoiseMLP
from kernelscope.generative.trials.attributions import damped, end_features, optimal_influence, wiener_influence
from kernelscope.generative.trials.many import train_many
from kernelscope.generative.trials.questions import ask
from kernelscope.generative.trials.removal import PIXELS, SubsetTrial, subset_trial
from kernelscope.generative.trials.retraining import Halves, half_subsets, path_contribution, record_member
from kernelscope.report import Report
from kernelscope.result import Result


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halves(count, n, seed=0):
    source = torch.Generator().manual_seed(seed)
    members = torch.zeros(count, n, dtype=torch.bool)
    for row in members:
        row[torch.randperm(n, generator=source)[:n // 2]] = True
    return members


def noisy_trial(noise, subsets=64, seeds=4, q=30, n=40):
    """Answers that are the sum of known effects, and noise of so many times their spread."""
    effects, members = normal(q, n, seed=1), halves(subsets, n)
    answers = members.double() @ effects.T
    measured = answers + noise * answers.std(0) * normal(seeds, subsets, q, seed=2)
    scores = {"effects": ("influence", effects), PIXELS: ("baseline", normal(q, n, seed=3)),
              "random": ("null", normal(q, n, seed=4))}
    return subset_trial(scores, members, measured)


def test_the_ceiling_of_noiseless_retraining_is_one_and_known_effects_reach_it():
    found = noisy_trial(0.0)
    assert found.ceiling == 1.0
    assert found.interval("effects").mean == 1.0
    assert found.order[0] == "effects"


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_known_effects_are_at_the_ceiling_of_noisy_retraining(noise):
    found = noisy_trial(noise)
    # Of 30 queries over 64 subsets a correlation is known to 1 / sqrt(63 * 30) = 0.023, and so both to about that.
    assert found.ceiling < 0.95
    assert abs(found.interval("effects").mean - found.ceiling) < 0.06
    # It is the root of what the law of averages says of four seeds; ranks have up to 0.02 less than a linear law.
    assert abs(found.ceiling - math.sqrt(1 / (1 + noise**2 / 4))) < 0.07


def test_the_ceiling_rises_with_seeds():
    few, many = (noisy_trial(2.0, seeds=seeds).ceiling for seeds in (2, 8))
    assert few < many - 0.1


def test_random_scores_are_near_nought_within_their_interval():
    found = noisy_trial(0.5).interval("random")
    assert found.low < 0 < found.high
    # Over 64 subsets a rank correlation has the deviation 1 / sqrt(63); queries are not independent, so up to that.
    assert abs(found.mean) < 2 / math.sqrt(63)


def test_answers_of_noise_alone_have_no_ceiling_and_are_refused():
    members = halves(40, 30)
    scores = {PIXELS: ("baseline", normal(20, 30)), "random": ("null", normal(20, 30, seed=9))}
    # Seeds that answer in the opposite way agree less than chance.
    answers = normal(1, 40, 20, seed=5)
    found = subset_trial(scores, members, torch.cat([answers, -answers]))
    assert found.ceiling == 0.0
    assert not found.check().ok
    assert "without a noise ceiling" in repr(found)
    with pytest.raises(DataError, match="without a noise ceiling"):
        plots.draw(found)


def test_scores_without_the_pixel_baseline_are_refused():
    members = halves(16, 20)
    effects = normal(3, 20)
    found = subset_trial({"effects": ("influence", effects)}, members, (members.double() @ effects.T).expand(2, 16, 3))
    assert not found.check().ok
    assert PIXELS in repr(found)
    with pytest.raises(DataError, match="without the trivial baseline"):
        found.plot()
    with pytest.raises(DataError, match="without the trivial baseline"):
        Report("Trial", [found]).html()


def test_too_few_subsets_or_seeds_are_refused():
    scores = {PIXELS: ("baseline", normal(3, 20))}
    with pytest.raises(DataError, match="at least 8 subsets and 2 seeds"):
        subset_trial(scores, halves(7, 20), normal(2, 7, 3))
    with pytest.raises(DataError, match="at least 8 subsets and 2 seeds"):
        subset_trial(scores, halves(8, 20), normal(1, 8, 3))
    with pytest.raises(DataError, match="must be finite, with a row for each of 3 queries"):
        subset_trial({PIXELS: ("baseline", normal(3, 19))}, halves(8, 20), normal(2, 8, 3))
    with pytest.raises(DataError, match="role"):
        subset_trial({PIXELS: ("share", normal(3, 20))}, halves(8, 20), normal(2, 8, 3))
    with pytest.raises(DataError, match="members"):
        subset_trial(scores, halves(9, 20), normal(2, 8, 3))


def test_results_are_kept_drawn_and_shown(tmp_path):
    found = noisy_trial(0.5)
    again = Result.load(found.save(tmp_path / "trial"))
    assert isinstance(again, SubsetTrial)
    assert repr(again) == repr(found)
    assert set(found.to_frame()["score"]) == {"effects", PIXELS, "random"}
    assert "effects" in plots.title(found)
    assert "ceiling of noise" in Report("Trial", [found]).html()
    assert "<table" in found._repr_html_()


def denoiser(width=5, d=3):
    torch.manual_seed(0)
    return Denoiser(NoiseMLP(d, width=width), 1.0).double()


@pytest.mark.parametrize("kind", ["loss", "output"])
@pytest.mark.parametrize("closed", ["optimal", "wiener"])
def test_closed_influences_are_differences_of_denoisers_with_other_weights(kind, closed):
    x, model = normal(12, 3, seed=1), denoiser()
    question = ask(model, normal(2, 3, seed=2), kind, levels=3)
    given = optimal_influence(x, model, question) if closed == "optimal" else wiener_influence(x, model, question)
    a, b = (c[:, None] for c in model.coefficients(question.sigma))

    def answer(weights):
        """The answer of the denoiser of weighted points, by its formula."""
        w = weights / weights.sum()
        if closed == "wiener":
            mean = w @ x
            covariance = (x - mean).T @ (w[:, None] * (x - mean))
            d = WienerDenoiser.from_moments(mean, covariance)(question.y, question.sigma)
        else:
            v = OptimalDenoiser(x).weights(question.y, question.sigma) * w
            d = v / v.sum(1, keepdim=True) @ x
        return question((d - a * question.y) / b)

    h, even = 1e-5, torch.full((12,), 1 / 12, dtype=torch.float64)
    for i in range(12):
        off = torch.zeros(12, dtype=torch.float64)
        off[i] = h / 12
        slope = (answer(even + off) - answer(even - off)) / (2 * h)
        # The steps of a weight are h / 12: what one point's weight of 1/12 gains, of which Wiener's are twelve times.
        expected = given[:, i].double() / (12 if closed == "wiener" else 1)
        # Central differences of step 1e-5 are good to 1e-9; influences are kept in float32.
        torch.testing.assert_close(expected, slope, rtol=1e-4, atol=1e-6)


def test_damped_products_are_those_of_the_matrix():
    rows, asked, train = normal(6, 9, seed=1), normal(2, 9, seed=2), normal(4, 9, seed=3)
    gram = rows @ rows.T / 6
    level = 0.3 * float(gram.diagonal().mean())
    whole = rows.T @ rows / 6 + level * torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(damped(asked, rows, train, 0.3), level * asked @ torch.linalg.solve(whole, train.T))


@pytest.mark.parametrize("kind", ["loss", "output"])
def test_gradients_are_those_of_autograd(kind):
    x, model = normal(4, 3, seed=1), denoiser()
    question = ask(model, normal(2, 3, seed=2), kind, levels=3)
    found = end_features(model, x, question, levels=4, probes=2)
    answers = question(model(question.y, question.sigma))
    for q in range(2):
        expected = torch.autograd.grad(answers[q], list(model.parameters()), retain_graph=True)
        torch.testing.assert_close(found.asked[q], torch.cat([part.flatten() for part in expected]))
    assert found.probes.shape == (8, found.losses.shape[1])


def test_probes_have_the_second_moment_of_the_gauss_newton_matrix():
    x, model = normal(1, 3, seed=1), denoiser(width=2)
    question = ask(model, normal(1, 3, seed=2), levels=1)
    # One point at one noise level, drawn alike for each copy; its signs are drawn anew.
    many = 4000
    draws = end_features(model, x.expand(many, 3), question, levels=1, probes=1)
    sigma = torch.tensor(NoiseLaw().edges(2)[:1], dtype=torch.float64)
    noise = torch.randn(many, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    total = 0
    for k in range(0, many, 40):
        y = x + sigma * noise[k]
        jacobian = torch.autograd.functional.jacobian(
            lambda *held, y=y: torch.func.functional_call(
                model, dict(zip(dict(model.named_parameters()), held, strict=True)), (y, sigma)),
            tuple(model.parameters()))
        j = torch.cat([part.reshape(3, -1) for part in jacobian], 1)
        total = total + 2 / 3 * j.T @ j / (many // 40)
    # Traces of so many draws agree to a few per cent.
    trace = draws.probes.square().sum(1).mean()
    assert abs(float(trace / total.trace()) - 1) < 0.1


def test_exact_contributions_add_up_to_what_training_changed():
    x, plan = normal(10, 3, seed=1).float(), Halves(steps=12, batch=4, levels=3)
    make = lambda: Denoiser(NoiseMLP(3, width=4), 1.0)
    run = record_member(make, x, plan, NoiseLaw())
    model = run.network.module(())
    model.load_state_dict(run.parameters(), strict=False)
    for kind in ("loss", "output"):
        question = ask(model, normal(2, 3, seed=2).float(), kind, levels=3)
        contributions = path_contribution(run, question)["contribution, exact path"][1]
        first, last = (run.network(run.parameters(k), {}, (question.y, question.sigma)) if k is not None else
                       run.network(run.parameters(), {}, (question.y, question.sigma)) for k in (0, None))
        # Adam from rest has no decay and no momentum at the start: samples are all there is.
        torch.testing.assert_close(contributions.sum(1), question(last) - question(first), rtol=1e-4, atol=1e-5)


def test_the_recorded_network_is_the_member_that_is_trained_together():
    x, plan = normal(10, 3, seed=1).float(), Halves(steps=12, batch=4)
    make = lambda: Denoiser(NoiseMLP(3, width=4), 1.0)
    run = record_member(make, x, plan, NoiseLaw())
    many = train_many(make, x, [torch.arange(10)], [0], steps=12, batch=4)
    for name, value in run.parameters().items():
        torch.testing.assert_close(value, many.parameters[name][0], rtol=1e-4, atol=1e-5)


def test_the_whole_trial_keeps_contribution_and_influence_apart():
    x = normal(30, 3, seed=1).float()
    small = Halves(subsets=8, seeds=2, steps=15, batch=8, levels=2)
    found = half_subsets(lambda: Denoiser(NoiseMLP(3, width=6), 1.0), x[:20], x[20:25], x[25:],
                         asked=("loss", "output"), halves=small)
    assert set(found) == {"loss", "output"}
    for trial in found.values():
        for name, role in zip(trial.names, trial.roles, strict=True):
            assert ("contribution" in name) == (role == "contribution")
        assert PIXELS in trial.names
        assert "null" in trial.roles
    with pytest.raises(DataError, match="also a tuning point"):
        half_subsets(lambda: Denoiser(NoiseMLP(3), 1.0), x[:20], x[20:25], x[24:], halves=small)
    with pytest.raises(DataError, match="also a training point"):
        half_subsets(lambda: Denoiser(NoiseMLP(3), 1.0), x[:20], x[19:25], x[25:], halves=small)
