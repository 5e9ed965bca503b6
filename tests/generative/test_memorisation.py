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
