import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError


def test_the_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    ours = ks.data.digits("all")
    np.testing.assert_array_equal(ours.x.numpy() * 16, theirs.data)
    np.testing.assert_array_equal(ours.y.numpy(), theirs.target)
    assert ours.class_names == tuple(str(name) for name in theirs.target_names)


@pytest.mark.parametrize("seed", [0, 1])
def test_train_and_test_are_disjoint_and_make_the_whole(seed):
    train, test = (ks.data.digits(split, seed=seed) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    both = torch.cat([train.ids, test.ids])
    assert torch.equal(both.sort().values, torch.arange(1797))
    whole = ks.data.digits("all")
    assert torch.equal(whole.x[test.ids], test.x)
    assert torch.equal(whole.y[train.ids], train.y)


def test_every_class_keeps_its_share_in_the_test_set():
    whole, test = ks.data.digits("all"), ks.data.digits("test")
    exact = torch.bincount(whole.y) * 360 / 1797
    assert (torch.bincount(test.y) - exact).abs().max() < 1


def test_the_split_depends_on_the_seed_alone():
    # Written down once: a change of any library, or of the code, must not move a single image.
    assert ks.data.digits("test").ids[:8].tolist() == [10, 16, 28, 31, 34, 35, 38, 39]
    assert ks.data.digits("test", seed=1).ids.tolist() != ks.data.digits("test").ids.tolist()


def test_an_item_is_an_input_and_a_target():
    x, y = ks.data.digits("train")[0]
    assert (x.dtype, x.shape, y.dtype, y.shape) == (torch.float32, (64,), torch.int64, ())
    image, _ = ks.data.digits("train", flat=False)[0]
    assert image.shape == (1, 8, 8)
    assert torch.equal(image.flatten(), x)
    assert 0 <= x.min() < x.max() <= 1


def test_changing_what_was_given_changes_nothing_for_the_next():
    first = ks.data.digits("test")
    first.x.zero_()
    assert ks.data.digits("test").x.max() == 1


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="'train', 'test' and 'all'; 'validation' is none"):
        ks.data.digits("validation")


def test_the_file_is_small_and_names_its_source_and_licence():
    folder = files("kernelscope.data")
    assert len((folder / "digits.npz").read_bytes()) < 80_000
    sidecar = (folder / "digits.txt").read_text(encoding="utf-8")
    assert "10.24432/C50P49" in sidecar
    assert "CC BY 4.0" in sidecar


def test_the_digits_need_no_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import kernelscope as ks; print(len(ks.data.digits('all')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "1797"
