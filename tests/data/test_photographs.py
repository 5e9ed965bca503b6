"""Windows of photographs: what they show, and that no pixel is on both sides of a split."""

import builtins
import sys

import pytest
import torch
from sklearn.datasets import load_sample_images

import kernelscope as ks
from kernelscope.data import photographs
from kernelscope.data.photographs import SYMMETRIES, patches
from kernelscope.data.points import as_points
from kernelscope.errors import DataError


def pixels(image, row, column, k):
    """The luma of a window, and the chroma of its middle before it is scaled, one pixel after the other."""
    picture = load_sample_images().images[image] / 255
    luma = [[float(picture[row + i, column + j] @ [0.299, 0.587, 0.114]) for j in range(k)] for i in range(k)]
    middle = picture[row + k // 2, column + k // 2]
    bright = float(middle @ [0.299, 0.587, 0.114])
    return torch.tensor(luma), torch.tensor([middle[2] - bright, middle[0] - bright])


def test_a_window_shows_its_pixels_and_its_target_is_the_color_of_the_middle():
    data = patches("all", count=40, window=5)
    raw = []
    for place, x in zip(data.places.tolist(), data.x, strict=True):
        luma, chroma = pixels(*place[:3], 5)
        assert torch.allclose(x.view(5, 5), luma.to(x), atol=1e-6)
        raw.append(chroma)
    # Targets are the chroma values up to a shift and a factor for each of the two.
    for mine, theirs in zip(data.y.T.double(), torch.stack(raw).T, strict=True):
        assert float(torch.corrcoef(torch.stack([mine, theirs]))[0, 1]) > 1 - 1e-9


def test_targets_have_mean_nought_and_variance_one():
    y = patches("all", window=1).y.double()
    assert len(y) == 2 * 427 * 640
    assert y.mean(0).abs().max() < 1e-4
    assert (y.std(0) - 1).abs().max() < 1e-4


@pytest.mark.parametrize(("window", "seed"), [(1, 0), (9, 0), (9, 3)])
def test_no_pixel_is_on_both_sides(window, seed):
    seen = {}
    for split in ("train", "test"):
        seen[split] = torch.zeros(2, 427, 640, dtype=torch.bool)
        image, row, column, _ = patches(split, window=window, seed=seed).places.unbind(1)
        for i in range(window):
            for j in range(window):
                seen[split][image, row + i, column + j] = True
    assert not bool((seen["train"] & seen["test"]).any())
    assert 0.15 < float(seen["test"].float().mean()) < 0.25
    assert bool(seen["test"].flatten(1).any(1).all())


def test_there_are_half_a_million_windows_and_eight_times_as_many_with_their_mirror_images():
    assert len(patches("all", window=9)) == 2 * 419 * 632
    assert len(patches("all", window=9, augment=True)) == SYMMETRIES * 2 * 419 * 632 > 4_000_000
    for split, least in (("train", 350_000), ("test", 60_000)):
        assert len(patches(split, window=9)) > least


def test_the_eight_copies_of_a_window_are_its_turns_and_mirror_images():
    data = patches("test", window=5, augment=True)
    image, row, column, _ = data.places[0].tolist()
    own = (data.places[:, :3] == torch.tensor([image, row, column])).all(1).nonzero()[:, 0]
    part = data.chosen(own.tolist()).part(0, SYMMETRIES)
    found = {tuple(x.tolist()) for x in part.args[0]}
    plain = patches("test", window=5)
    at = (plain.places[:, :3] == torch.tensor([image, row, column])).all(1).nonzero()[0]
    square = plain.x[at].view(5, 5)
    ways = [torch.rot90(s, turn) for s in (square, square.flip(0)) for turn in range(4)]
    assert found == {tuple(way.flatten().tolist()) for way in ways}
    assert len(found) == len(own) == SYMMETRIES
    # Turning leaves the middle where it is.
    assert bool((part.targets == part.targets[0]).all())


def test_points_are_read_in_parts_and_are_the_same_in_any_order():
    data = patches("train", count=300, window=5, augment=True, seed=4)
    assert as_points(data) is data
    whole = data.x
    assert torch.equal(torch.cat([data.part(i, i + 7).args[0] for i in range(0, 300, 7)]), whole)
    assert torch.equal(data.chosen([5, 2, 200]).part(0, 3).args[0], whole[[5, 2, 200]])
    assert torch.equal(data.part(10, 20).targets, data.y[10:20])
    assert torch.equal(patches("train", count=300, window=5, augment=True, seed=4).x, whole)
    assert not torch.equal(patches("train", count=300, window=5, augment=True, seed=5).x, whole)


def test_reading_some_of_millions_cuts_out_only_these(monkeypatch):
    data = patches("train", window=9, augment=True)
    cut = []
    monkeypatch.setattr(photographs, "_turned", lambda windows, way: cut.append(len(windows)) or windows)
    data.part(0, 50)
    assert sum(cut) <= 50


def test_a_kernel_takes_patches_as_points():
    data = patches("train", count=20, window=3)
    k = ks.kernels.Gaussian().fitted(data)
    assert torch.allclose(k(data), k(data.x))


@pytest.mark.parametrize(("arguments", "words"), [
    ({"window": 4}, "odd number"), ({"window": 65}, "odd number"), ({"count": 10**7}, "augment=True"),
    ({"split": "valid"}, "split must be"), ({"count": 0}, "count must be"), ({"augment": 1}, "augment must be")])
def test_what_cannot_be_cut_is_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        patches(**arguments)


def test_without_scikit_learn_an_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **named)

    photographs._photographs.cache_clear()
    for name in [name for name in sys.modules if name.startswith("sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="pip install"):
        patches("test", count=3)
