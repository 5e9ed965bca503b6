"""Every generative result has a section on a page, a drawing and a sentence."""

import pkgutil
from importlib import import_module

import pytest
import torch

import kernelscope as ks
from kernelscope import generative
from kernelscope.generative import train_diffusion, train_gan
from kernelscope.plots import drawing_of
from kernelscope.report.glossaries import GLOSSARIES, HEADINGS
from kernelscope.report.sections import SECTIONS
from kernelscope.result import Result

X = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))


def kinds():
    """Every class of results in the rooms of generative models."""
    names = [found.name for found in pkgutil.walk_packages(generative.__path__, f"{generative.__name__}.")]
    modules = [import_module(name) for name in names]
    return sorted({value for module in modules for value in vars(module).values()
                   if isinstance(value, type) and issubclass(value, Result)
                   and value.__module__.startswith(generative.__name__)}, key=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def results():
    """One small result of each class, but for those that train many networks, which have tests of their own."""
    run = train_diffusion(X, width=6, steps=12, batch=8, seed=0)
    game = train_gan(X, width=6, latents=3, steps=6, batch=8, seed=0)
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    latents = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    return [
        generative.explain_diffusion(run, z, levels=generative.schedule(5), bins=3),
        generative.explain_optimal(X.double(), z.double()),
        generative.noise_kernel(run, levels=4, points=6),
        generative.noise_localisation(run, points=8, bins=3),
        generative.explain_gan(game, latents),
        generative.witness(game, X[:4]),
        generative.critic_geometry(game),
        generative.game_spectrum(game),
        generative.bridge(run, game, count=20),
        generative.denoiser_fit(run, X[:6]),
        generative.jacobian_geometry(run, X[:6]),
        generative.compare(run, game, samples=16, points=8, paths=False),
    ]


def test_every_class_has_a_section_a_heading_words_and_a_drawing():
    found = kinds()
    assert len(found) >= 14
    for kind in found:
        assert kind in SECTIONS, f"{kind.__name__} has no section"
        assert kind.__name__ in HEADINGS, f"{kind.__name__} has no heading"
        assert any(kind in of for of, _ in GLOSSARIES), f"{kind.__name__} has no words explained"
        assert drawing_of(object.__new__(kind)) is not None, f"{kind.__name__} has no drawing"


def test_each_is_shown_with_a_sentence_and_a_drawing(results):
    for result in results:
        page = ks.Report("One of them", [("A heading", result)]).html()
        body = page.partition("A heading")[2]
        assert "<svg" in body, type(result).__name__
        sentence = body.partition("<p>")[2].partition("</p>")[0]
        # No name of a class, and a whole sentence.
        assert type(result).__name__ not in sentence
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith("."), sentence
        assert "nan" not in sentence.lower().split()
