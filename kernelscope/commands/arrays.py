"""Samples, targets and test points from the arrays of an ``.npz`` file, of which nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import as_path
from ..errors import DataError, NonFiniteError, UnsafeFile

#: What a file holds, and how one is made.
MAKING = 'Save one with numpy.savez("data.npz", x=x, y=y), and x_test=, y_test= if there are test points.'

#: The arrays that are read; the first two have to be there.
NAMES = ("x", "y", "x_test", "y_test")

#: Of whole numbers, how many samples a class has on average at least.
EACH = 2

#: The axes that count colours.
CHANNELS = (1, 3)


@dataclass(frozen=True, eq=False)
class Samples:
    """What a machine is fitted to, and what it is tested on.

    Attributes:
        x: The samples, with shape (n, *).
        targets: What is fitted, with shape (n, c): for classes 1 − 1/c in the column of the class, else −1/c.
        x_test: The test points, with shape (q, *); q may be 0.
        y_test: Their targets; for classes, the number of the class, −1 for one that no sample has.
        classes: The labels, ascending, one for each column; ``None`` where targets are quantities.
        asked: How the samples of the file are written as points of the machine, where x is what the file holds.
    """

    x: Tensor
    targets: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: list[int] | None
    asked: str = "x"

    def on(self, device: torch.device) -> Samples:
        """The same on a device."""
        x, targets, x_test, y_test = (t.to(device) for t in (self.x, self.targets, self.x_test, self.y_test))
        return replace(self, x=x, targets=targets, x_test=x_test, y_test=y_test)

    def as_images(self, path: str) -> Samples:
        """The same, with points of shape (n, channels, h, w)."""
        x, x_test = images(self.x, path), images(self.x_test, path)
        return replace(self, x=x, x_test=x_test, asked=self.asked if x.ndim == self.x.ndim else "x[:, None]")

    def apart(self, share: float) -> tuple[Samples, tuple[Tensor, Tensor]]:
        """The samples without a random share of them, and those with their targets.

        Raises:
            DataError: If there are too few.
        """
        count = round(share * len(self.x))
        if not count:
            raise DataError(f"A share of {share:g} of {len(self.x)} samples is kept apart to see when to stop, and "
                            "that is none. Leave out --patience, or take more samples.")
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1)).to(self.x.device)
        some, rest = order[:count].sort().values, order[count:].sort().values
        return (replace(self, x=self.x[rest], targets=self.targets[rest]), (self.x[some], self.targets[some]))

    def said(self) -> str:
        """What there is, in words."""
        c = self.targets.shape[1]
        what = f"{c} output{'s' * (c != 1)}" if self.classes is None else f"{c} classes"
        return (f"{len(self.x):,} samples of shape {tuple(self.x.shape[1:])}, {what}, {len(self.x_test):,} test "
                f"point{'s' * (len(self.x_test) != 1)}")


def samples_of(path: str, test_share: float, dtype: torch.dtype) -> Samples:
    """Reads a file; without test points of its own, a random share of the samples is kept apart.

    Args:
        path: The file, with arrays x and y, and x_test and y_test if it has test points.
        test_share: The share of samples that become test points where the file has none.
        dtype: The precision of points and targets.

    Raises:
        DataError: If the file is none, lacks an array, or they do not fit together.
        NonFiniteError: If a number is NaN or infinite.
        UnsafeFile: If an array holds Python objects.
    """
    arrays = read(path)
    if ("x_test" in arrays) != ("y_test" in arrays):
        alone, other = ("x_test", "y_test") if "x_test" in arrays else ("y_test", "x_test")
        raise DataError(f"{path} holds {alone} and no {other}. Save both, or neither.")
    x, y = _points(arrays["x"], "x", path, dtype), _targets(arrays["y"], "y", path, dtype)
    _check_counts(x, y, "", path)
    if "x_test" in arrays:
        x_test, y_test = _points(arrays["x_test"], "x_test", path, dtype), _targets(arrays["y_test"], "y_test", path,
                                                                                           dtype)
        _check_counts(x_test, y_test, "_test", path)
        if y.is_floating_point() != y_test.is_floating_point():
            raise DataError(f"In {path} one of y and y_test holds whole numbers, which are labels, and the other real "
                            "ones, which are quantities. Save both in one type.")
        if x_test.shape[1:] != x.shape[1:] or y_test.shape[1:] != y.shape[1:]:
            raise DataError(f"In {path} a sample has shapes {tuple(x.shape[1:])} and {tuple(y.shape[1:])}, and a test "
                            f"point {tuple(x_test.shape[1:])} and {tuple(y_test.shape[1:])}. Save points of one kind.")
    if not y.is_floating_point():
        _check_labels(y, path)
    if "x_test" not in arrays:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        kept = round(test_share * len(x))
        if kept >= len(x):
            raise DataError(f"Of {len(x)} samples, {kept} would be test points, and none be left. Take a smaller "
                            "--test-share, or more samples.")
        test, rest = order[:kept].sort().values, order[kept:].sort().values
        x, y, x_test, y_test = x[rest], y[rest], x[test], y[test]
    if y.is_floating_point():
        found = Samples(x, y.to(dtype), x_test, y_test.to(dtype), None)
    else:
        found = _classified(x, y, x_test, y_test, path, dtype)
    return replace(found, asked="x[:, None]") if arrays["x"].ndim == 1 else found


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of a file that are asked for.

    Raises:
        DataError: If there is no such file, or it is cut short or of another kind, or lacks samples or targets.
        UnsafeFile: If an array holds Python objects, which only unpickling could read.
    """
    file = as_path(path, "The data", '"data.npz"')
    if not file.is_file():
        raise DataError(f"There is no file {path}. {MAKING}")
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path} is no .npz file, or was cut short. {MAKING}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = archive.files
            arrays = {name: _array(archive, name, path) for name in NAMES if name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, NotImplementedError, ValueError,
            SyntaxError, TokenError) as error:
        raise DataError(f"{path} cannot be read: it was cut short or changed ({error}). Save it again.") from error
    except MemoryError as error:
        raise DataError(f"The arrays of {path} do not fit into memory. Save fewer samples.") from error
    missing = [name for name in NAMES[:2] if name not in arrays]
    if missing:
        raise DataError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}, and {' and '.join(missing)} "
                        f"{'is' if len(missing) == 1 else 'are'} missing. {MAKING}")
    return arrays


def _array(archive: Any, name: str, path: str) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise UnsafeFile(f"{name} in {path} holds Python objects, which only unpickling could read, and a pickle may "
                         f"run code. Save numbers: {name}=numpy.stack({name}).") from error


def _points(values: np.ndarray, name: str, path: str, dtype: torch.dtype) -> Tensor:
    _check_numbers(values, name, path)
    found = _single(torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("="))), name, path, dtype)
    return found[:, None] if found.ndim == 1 else found


def _single(values: Tensor, name: str, path: str, dtype: torch.dtype) -> Tensor:
    """Numbers in a precision, finite there."""
    _check_finite(values, name, path)
    found = values.to(dtype)
    if not bool(found.isfinite().all()):
        raise NonFiniteError(f"{name} in {path} holds {float(values.double().abs().max()):.1e}, which is too large for "
                             "single precision. Pass --float64, or save smaller numbers.")
    return found


def _targets(values: np.ndarray, name: str, path: str, dtype: torch.dtype) -> Tensor:
    _check_numbers(values, name, path)
    if values.ndim > 2 or (values.ndim == 2 and not values.shape[1]):
        raise DataError(f"{name} in {path} has shape {values.shape}; targets have shape (n,) for labels, and (n,) or "
                        "(n, c) for quantities. Save one row of numbers for each sample.")
    whole = values.dtype.kind in "bui"
    if whole and values.ndim == 2 and values.shape[1] > 1:
        if bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all()):
            values = values.argmax(1)
        else:
            whole = False
    if whole and values.dtype.kind == "u" and int(values.max()) >= 2**63:
        raise DataError(f"{name} in {path} holds the label {int(values.max())}, and labels are below 2^63. Number "
                        "them: numpy.unique(y, return_inverse=True)[1].")
    if whole:
        return torch.from_numpy(values.astype(np.int64)).view(-1)
    # The machine has quantities in the precision of points.
    found = torch.from_numpy(values.astype(np.float64))
    _single(found, name, path, dtype)
    return found.view(len(found), -1)


def _check_numbers(values: np.ndarray, name: str, path: str) -> None:
    if values.dtype.kind not in "buif" or not values.ndim or not values.size:
        raise DataError(f"{name} in {path} is {values.dtype} of shape {values.shape}, and real numbers with a row for "
                        "each sample are needed. " + ("Number the labels: numpy.unique(y, return_inverse=True)[1]."
                                                      if values.dtype.kind in "US" else MAKING))


def _check_finite(values: Tensor, name: str, path: str) -> None:
    bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
    if len(bad):
        raise NonFiniteError(f"Row {int(bad[0])} of {name} in {path} holds NaN or an infinite value. Remove such rows, "
                             "or mend them.")


def _check_counts(x: Tensor, y: Tensor, end: str, path: str) -> None:
    if len(x) != len(y):
        raise DataError(f"In {path} x{end} has {len(x):,} rows, and y{end} {len(y):,}. Save one row of each for each "
                        "point.")


def _check_labels(y: Tensor, path: str) -> None:
    c = len(y.unique())
    if c == 1 or c * EACH > len(y):
        raise DataError(f"y in {path} holds whole numbers, which are labels, and {len(y):,} samples have {c:,} of "
                        "them. Save quantities as real numbers, y.astype(float).")


def _classified(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, path: str, dtype: torch.dtype) -> Samples:
    """Labels as centred columns of ones and noughts."""
    labels, numbers = y.unique(return_inverse=True)
    c = len(labels)
    if c == 1:
        raise DataError(f"All samples of {path} that are not kept apart for the test have the label {int(labels[0])}. "
                        "Save more samples, or take a smaller --test-share.")
    targets = torch.nn.functional.one_hot(numbers, c).to(dtype) - 1 / c
    places = torch.searchsorted(labels, y_test).clamp(max=c - 1)
    known = torch.where(labels[places] == y_test, places, -1)
    return Samples(x, targets, x_test, known, labels.tolist())


def images(x: Tensor, path: str) -> Tensor:
    """Points for a network that looks at pixels, with shape (n, channels, h, w); grey images need no axis of channels.

    Raises:
        DataError: If they have another shape.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise DataError(f"Such a network takes images, with shape (n, channels, h, w) or (n, h, w), and x of {path} "
                        f"has shape {_shape(x)}. Use x.reshape(len(x), channels, h, w), or --kernel fc3.")
    if x.shape[1] not in CHANNELS and x.shape[3] in CHANNELS:
        raise DataError(f"Images have shape (n, channels, h, w), and those of {path} have shape {_shape(x)}. Save "
                        "x.transpose(0, 3, 1, 2).")
    return x


def _shape(x: Tensor) -> str:
    """The shape of points, whatever share of them this is."""
    return f"(n, {', '.join(map(str, x.shape[1:]))})"
