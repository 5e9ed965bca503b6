import torch

from kernelscope import plots
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.networks import NoiseMLP
from kernelscope.generative.trials.memorisation import MemorisationTransition, memorisation_transition
from kernelscope.report import Report
from kernelscope.result import Result


def test_transitions_are_kept_drawn_and_shown_beside_nulls_that_copy_and_do_not(tmp_path):
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    found = memorisation_transition(lambda: Denoiser(NoiseMLP(4, width=6), 1.0), x[:40], x[40:], (5, 40), steps=10)
    # The last stage of the sampler is far below the distance of any two points.
    assert float(found.null("optimal denoiser", "memorised").min()) == 1.0
    assert float(found.null("optimal denoiser", "train error").max()) < float(
        found.null("optimal denoiser", "held-out error").min())
    again = Result.load(found.save(tmp_path / "transition"))
    assert isinstance(again, MemorisationTransition)
    assert repr(again) == repr(found)
    assert len(found.to_frame()) == 2 * 5
    assert "copies" in plots.title(found)
    assert "optimal denoiser" in Report("Transition", [found]).html()
    for measure in found.values:
        plots.draw(found, measure=measure)


def test_shorter_trainings_are_those_trained_alone_and_stand_beside_the_long_one(tmp_path):
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))

    def transition(**given):
        return memorisation_transition(lambda: Denoiser(NoiseMLP(4, width=6), 1.0), x[:40], x[40:], (5, 40),
                                       seeds=[0], stages=5, **given)

    found, alone = transition(steps=10, shorter=(4,)), transition(steps=4)
    for own, table in zip(alone.values.values(), found.shorter["4"], strict=True):
        torch.testing.assert_close(own, table, rtol=1e-5, atol=1e-6)
    assert list(found.turns) == [4, 10]
    assert "after 4 steps, " in found.said()
    assert repr(Result.load(found.save(tmp_path / "both"))) == repr(found)
    assert "network, 4 steps" in set(found.to_frame()["of"])
    plots.draw(found)
