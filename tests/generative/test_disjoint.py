import pytest
import torch

from kernelscope import plots
from kernelscope.errors import DataError
from kernelscope.generative import Denoiser, WienerDenoiser, sample, schedule
from kernelscope.generative.networks import NoiseMLP
from kernelscope.generative.trials.disjoint import PAIRS, DisjointHalves, disjoint_halves
from kernelscope.report import Report
from kernelscope.result import Result


def points():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found():
    return disjoint_halves(lambda: Denoiser(NoiseMLP(3, width=6), 1.0), points(), (4, 20), steps=10, samples=30,
                           stages=6)


def test_closed_forms_are_those_of_two_sets_without_a_common_point(found):
    x, total = points(), 0.0
    z = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    one, other = (sample(WienerDenoiser(x[order[part]]), z, schedule(6)).final - x.mean(0)
                  for part in (slice(0, 20), slice(20, 40)))
    for a, b in zip(one, other, strict=True):
        total += float(a @ b / (a.norm() * b.norm())) / 30
    assert float(found.values["halves, Wiener"][1, 1]) == pytest.approx(total, abs=1e-5)
    assert all(bool((values.abs() <= 1 + 1e-6).all()) for values in found.values.values())


def made(halves, near, wiener=0.9):
    rows = {pair: torch.zeros(1, 3) for pair in PAIRS}
    rows |= {"halves": torch.tensor([halves]), "nearest training point": torch.tensor([near]),
             "halves, Wiener": torch.full((1, 3), wiener)}
    return DisjointHalves([4, 8, 16], rows)


def test_the_crossing_is_from_where_on_halves_agree_more():
    assert made([0.1, 0.6, 0.8], [0.5, 0.5, 0.5]).crossing == 8
    assert made([0.9, 0.4, 0.8], [0.5, 0.5, 0.5]).crossing == 16
    assert made([0.9, 0.9, 0.4], [0.5, 0.5, 0.5]).crossing is None
    assert "no more than Wiener" in made([0.1, 0.6, 0.8], [0.5, 0.5, 0.5]).said()
    above = made([0.1, 0.6, 0.8], [0.5, 0.5, 0.5], wiener=0.2).said()
    assert "is more than Wiener denoisers of the halves, 0.200, more than untrained" in above


def test_halves_are_kept_drawn_and_shown(found, tmp_path):
    again = Result.load(found.save(tmp_path / "halves"))
    assert isinstance(again, DisjointHalves)
    assert repr(again) == repr(found)
    assert len(found.to_frame()) == 2 * len(PAIRS)
    assert "Wiener" in plots.title(found)
    assert "What halves of the data agree on" in Report("Halves", [found]).html()
    with pytest.raises(DataError, match="Halves have from 2 to 20 of 40 points"):
        disjoint_halves(lambda: Denoiser(NoiseMLP(3, width=6), 1.0), points(), (21,))
