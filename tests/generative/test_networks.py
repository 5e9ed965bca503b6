"""Reference networks: shapes, counts, and that a folder describes them."""

import copy
import json

import pytest
import torch
from torch import nn

from kernelscope.architecture import describe, rebuild
from kernelscope.errors import DataError, UnsafeFile
from kernelscope.generative import Denoiser, Judged
from kernelscope.generative.networks import (
    NoiseConv,
    NoiseMLP,
    critic,
    critic_of_images,
    generator,
    generator_of_images,
    matched_width,
    parameters_of,
)

CASES = {
    "mlp": lambda: Denoiser(NoiseMLP(16, width=5), spread=0.7),
    "conv": lambda: Denoiser(NoiseConv(4, channels=1, width=3), spread=1),
    "judged": lambda: Judged(critic(16, 5)),
    "judged images": lambda: Judged(critic_of_images(4, width=3)),
    "generator": lambda: generator(3, 16, 5),
    "generator of images": lambda: generator_of_images(3, 4, width=2),
    "own core": lambda: Denoiser(nn.Sequential(nn.Linear(4, 4)), spread=2.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_a_description_gives_the_same_module(name, dtype):
    model = CASES[name]().to(dtype)
    model.eval() if name == "conv" else model.train()
    next(model.parameters()).requires_grad_(False)
    spec = json.loads(json.dumps(describe(model)))
    state = torch.get_rng_state()
    again = rebuild(spec, {key: p.shape for key, p in model.named_parameters()})
    assert torch.equal(torch.get_rng_state(), state)
    assert describe(again) == spec
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    again.load_state_dict(model.state_dict())
    if name in ("mlp", "conv"):
        x = torch.randn(2, 16, dtype=dtype), torch.tensor([0.3, 2.0], dtype=dtype)
        assert torch.equal(again(*x), model(*x))
    elif name != "own core":
        x = torch.randn(2, 16 if "judged" in name else 3, dtype=dtype)
        assert torch.equal(again(x), model(x))


class Impostor(NoiseMLP):
    """A module that has another forward."""


def test_what_could_be_told_from_its_description_has_none():
    assert describe(Denoiser(Impostor(4, 2), spread=1.0)) is None
    assert describe(Judged(Judged(nn.Linear(2, 1)))) is not None
    hooked = Denoiser(NoiseMLP(4, 2), spread=1.0)
    hooked.core.register_forward_hook(lambda *_: None)
    assert describe(hooked) is None
    changed = Denoiser(NoiseMLP(4, 2), spread=1.0)
    changed.core.middle = nn.Linear(2, 2, bias=False)
    assert describe(changed) is None
    impostor = type("NoiseMLP", (NoiseMLP,), {"__module__": "elsewhere"})
    assert describe(impostor(4, 2)) is None


@pytest.mark.parametrize("change", [
    lambda s: s.update(module="generative.networks.NoiseMLP"),
    lambda s: s.update(module="os.system"),
    lambda s: s["arguments"].update(spread="0.5"),
    lambda s: s["arguments"].update(spread=-1.0),
    lambda s: s["arguments"].update(core=3),
    lambda s: s.update(children=[]),
    lambda s: s.update(children=[["network", s["children"][0][1]]]),
    lambda s: s.update(children=s["children"] * 2),
    lambda s: s.update(children=[["core"]]),
    lambda s: s.update(children=7),
    lambda s: s.pop("children"),
    lambda s: s.update(frozen=["core.inner.weight"]),
    lambda s: s["children"][0][1]["arguments"].update(width=2**40),
    lambda s: s["children"][0][1]["arguments"].update(size=-4),
    lambda s: s["children"][0][1].update(children=[]),
    lambda s: s["children"].__setitem__(0, ["core", s]),
])
def test_hostile_descriptions_are_refused(change):
    spec = copy.deepcopy(describe(Denoiser(NoiseMLP(4, 2), spread=1.0)))
    change(spec)
    with pytest.raises(UnsafeFile):
        rebuild(spec)


def test_images_come_folded_or_as_vectors():
    x, c = torch.randn(3, 1, 8, 8), torch.zeros(3)
    net = NoiseConv(8, width=4)
    assert torch.equal(net(x, c).flatten(1), net(x.flatten(1), c))
    assert generator_of_images(5, 8, channels=3, width=4)(torch.zeros(2, 5)).shape == (2, 192)
    assert critic_of_images(8, channels=3, width=4)(torch.zeros(2, 192)).shape == (2, 1)
    with pytest.raises(DataError, match="even"):
        generator_of_images(5, 7)


@pytest.mark.parametrize("parameters", [2_000, 35_136, 200_000])
def test_widths_match_numbers_of_parameters(parameters):
    for make in (lambda w: generator(16, 64, w), lambda w: critic(64, w), lambda w: NoiseMLP(64, w),
                 lambda w: NoiseConv(8, width=w), lambda w: generator_of_images(16, 8, width=w)):
        width = matched_width(make, parameters)
        found = parameters_of(make(width))
        assert all(abs(parameters_of(make(w)) - parameters) >= abs(found - parameters)
                   for w in (width - 1, width + 1) if w > 0)
        assert width < 16 or abs(found / parameters - 1) < 0.05
