"""What cannot be meant is refused by a sentence that says what was needed, what came and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kernelscope.errors import KernelscopeError
from kernelscope.generative.denoising.noise import NoiseLaw, schedule
from kernelscope.generative.denoising.recording import record_diffusion
from kernelscope.generative.stages.localisation import noise_localisation
from kernelscope.generative.stages.noise_kernels import noise_kernel
from kernelscope.generative.stages.stages import explain_diffusion, explain_optimal
from kernelscope.generative.training import train_diffusion, train_gan
from tests.generative.denoisers import mlp, points, recorded

NAN, INF = float("nan"), float("inf")


def refused(asked, *words: str) -> None:
    with pytest.raises(KernelscopeError) as caught:
        asked()
    text = str(caught.value)
    assert all(word in text for word in words), text
    # What was needed and what to do are sentences of their own.
    assert text.count(". ") >= 1, text
    assert text.endswith("."), text


@pytest.mark.parametrize("asked", [{"rho": 0}, {"rho": NAN}, {"rho": -1.0}, {"rho": "a"}, {"rho": INF},
                                   {"lowest": NAN}, {"highest": INF}, {"levels": 2.5}, {"rho": 1e300}])
def test_schedules(asked):
    refused(lambda: schedule(**asked), next(iter(asked)))


@pytest.mark.parametrize(("asked", "word"), [
    (("a",), "mean"), ((NAN,), "mean"), ((0.0, -1.0), "deviation"), ((0.0, 0.0), "deviation"),
    ((0.0, INF), "deviation"), ((0.0, None), "deviation"), ((True,), "mean")])
def test_laws(asked, word):
    refused(lambda: NoiseLaw(*asked), word)


def test_bins_and_counts_of_a_law():
    refused(lambda: NoiseLaw().edges("a"), "bins")
    refused(lambda: NoiseLaw().edges(0), "bins")
    refused(lambda: NoiseLaw().draw(-1), "count")


@pytest.mark.parametrize(("asked", "word"), [
    ({"levels": "x"}, "levels"), ({"levels": [1.0, NAN]}, "levels"), ({"levels": [1.0]}, "levels"),
    ({"levels": [0.5, 1.0]}, "levels"), ({"bins": "x"}, "bins"), ({"bins": torch.tensor([NAN])}, "bins"),
    ({"bins": [2.0, 1.0]}, "bins"), ({"bins": {}}, "bins"), ({"directions": torch.randn(3)}, "directions"),
    ({"directions": torch.randn(2, 5)}, "directions"), ({"directions": [[NAN, 1.0, 1.0]]}, "directions"),
    ({"directions": {}}, "directions"), ({"directions": 10**6}, "directions=1000000"), ({"held_out": [1]}, "held_out"),
    ({"held_out": torch.randn(4, 5)}, "held_out"), ({"held_out": torch.zeros(0, 3)}, "held_out"),
    ({"names": ["a", "b"]}, "names"), ({"labels": ["a"]}, "labels"), ({"through": "x"}, "through"),
    ({"weights": "x"}, "weights"), ({"method": "x"}, "method"), ({"memory": "x"}, "memory")])
def test_explanations(asked, word):
    run = recorded(mlp(), points(), steps=2)
    refused(lambda: explain_diffusion(run, torch.ones(1, 3), **{"levels": schedule(3), **asked}), word)


@pytest.mark.parametrize("z", [torch.full((1, 3), 1e30), torch.full((1, 3), NAN), torch.full((1, 3), INF),
                               torch.zeros(0, 3), torch.ones(1, 4), torch.ones(1, 3).long(), "z", None])
def test_latents(z):
    run = recorded(mlp(), points(), steps=2)
    refused(lambda: explain_diffusion(run, z, levels=schedule(3)), "z ")
    refused(lambda: explain_optimal(points(), z), "z ")


def test_levels_of_the_optimal_denoiser():
    refused(lambda: explain_optimal(points(), torch.ones(1, 3), levels="x"), "levels")
    refused(lambda: explain_optimal(points(), torch.ones(1, 3), labels=["a"]), "labels")


def test_levels_of_localisations_and_kernels():
    run = recorded(mlp(), points(), steps=2)
    for levels in ("x", [1.0, NAN], [2.0, 1.0], {}):
        refused(lambda levels=levels: noise_localisation(run, points=4, bins=2, levels=levels), "levels")
        refused(lambda levels=levels: noise_kernel(run, points=4, levels=levels), "levels")


@pytest.mark.parametrize(("asked", "word"), [
    ({"rate": -1}, "rate"), ({"rate": "a"}, "rate"), ({"rate": NAN}, "rate"), ({"rate": 0}, "rate"),
    ({"width": -3}, "width"), ({"width": 0}, "width"), ({"width": 2.5}, "width"), ({"dtype": torch.int32}, "dtype"),
    ({"dtype": "float"}, "dtype"), ({"average": 2}, "average"), ({"optimizer": "x"}, "optimizer"),
    ({"network": "x"}, "network"), ({"network": 3}, "network"), ({"seed": -1}, "seed")])
def test_training(asked, word):
    few = {"steps": 2, "batch": 2}
    refused(lambda: train_diffusion(points(), **few, **asked), word)
    refused(lambda: train_gan(points(), **few, **asked), word)


@pytest.mark.parametrize("law", [3, "x", (0.0, 1.0), 0])
def test_laws_of_training(law):
    refused(lambda: train_diffusion(points(), steps=2, law=law), "law", "NoiseLaw")
    module = train_diffusion(points(), width=4, steps=1).network.module(())
    refused(lambda: record_diffusion(module, points(), law=law), "law", "NoiseLaw")


@pytest.mark.parametrize("network", [(nn.Linear(16, 3),), (), (nn.Linear(16, 3), 4), (nn.Linear(16, 3),) * 3])
def test_players(network):
    refused(lambda: train_gan(points(), network=network, steps=2), "network=(generator, critic)")


def test_points_to_train_on():
    for x in (torch.full((5, 3), NAN), torch.ones(5), "x"):
        refused(lambda x=x: train_diffusion(x, steps=2), "points")
        refused(lambda x=x: train_gan(x, steps=2), "points")
    refused(lambda: train_diffusion(torch.ones(5, 3), steps=2), "the same")
