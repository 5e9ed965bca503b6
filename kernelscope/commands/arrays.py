"""Samples, targets and test points from the arrays of an ``.npz`` file, of which nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import as_path
from ..errors import DataError, NonFiniteError, UnsafeFile

#: What a file holds, and how one is made.
MAKING = 'Save one with numpy.savez("data.npz", x=x, y=y), and x_test=, y_test= if there are test points.'

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
    """

    x: Tensor
    targets: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: list[int] | None


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
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{path} holds {found}, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
                        f"missing. {MAKING}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        alone, other = ("x_test", "y_test") if "x_test" in arrays else ("y_test", "x_test")
        raise DataError(f"{path} holds {alone} and no {other}. Save both, or neither.")
    x, y = _points(arrays["x"], "x", path, dtype), _targets(arrays["y"], "y", path)
    _check_counts(x, y, "", path)
    if "x_test" in arrays:
        x_test, y_test = _points(arrays["x_test"], "x_test", path, dtype), _targets(arrays["y_test"], "y_test", path)
        _check_counts(x_test, y_test, "_test", path)
        if x_test.shape[1:] != x.shape[1:] or y_test.shape[1:] != y.shape[1:]:
            raise DataError(f"In {path} a sample has shapes {tuple(x.shape[1:])} and {tuple(y.shape[1:])}, and a test "
                            f"point {tuple(x_test.shape[1:])} and {tuple(y_test.shape[1:])}. Save points of one kind.")
    else:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        kept = round(test_share * len(x))
        if kept >= len(x):
            raise DataError(f"Of {len(x)} samples, {kept} would be test points, and none be left. Take a smaller "
                            "--test-share, or more samples.")
        test, rest = order[:kept].sort().values, order[kept:].sort().values
        x, y, x_test, y_test = x[rest], y[rest], x[test], y[test]
    if y.is_floating_point():
        return Samples(x, y.to(dtype).view(len(y), -1), x_test, y_test.to(dtype).view(len(y_test), -1), None)
    return _classified(x, y, x_test, y_test.to(y.dtype), path, dtype)


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        DataError: If there is no such file, or it is cut short or of another kind.
        UnsafeFile: If an array holds Python objects, which only unpickling could read.
    """
    file = as_path(path, "The data", '"data.npz"')
    if not file.is_file():
        raise DataError(f"There is no file {path}. {MAKING}")
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path} is no .npz file, or was cut short. {MAKING}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: _array(archive, name, path) for name in ("x", "y", "x_test", "y_test")
                    if name in archive.files} or {name: np.empty(0) for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} cannot be read: it was cut short or changed ({error}). Save it again.") from error
    except MemoryError as error:
        raise DataError(f"The arrays of {path} do not fit into memory. Save fewer samples.") from error


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
    found = torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("="))).to(dtype)
    _check_finite(found, name, path)
    return found[:, None] if found.ndim == 1 else found


def _targets(values: np.ndarray, name: str, path: str) -> Tensor:
    _check_numbers(values, name, path)
    if values.ndim > 2 or (values.ndim == 2 and not values.shape[1]):
        raise DataError(f"{name} in {path} has shape {values.shape}; targets have shape (n,) for labels, and (n,) or "
                        "(n, c) for quantities. Save one row of numbers for each sample.")
    whole = values.dtype.kind in "bui"
    if whole and values.ndim == 2 and values.shape[1] > 1:
        whole = False
    found = torch.from_numpy(values.astype(np.int64 if whole else np.float64))
    _check_finite(found, name, path)
    return found.view(-1) if whole else found


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


def _classified(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, path: str, dtype: torch.dtype) -> Samples:
    """Labels as centred columns of ones and noughts."""
    labels, numbers = y.unique(return_inverse=True)
    c = len(labels)
    if c == 1 or c * EACH > len(y):
        raise DataError(f"y in {path} holds whole numbers, which are labels, and {len(y):,} samples have {c:,} of "
                        "them. Save quantities as real numbers, y.astype(float).")
    targets = torch.nn.functional.one_hot(numbers, c).to(dtype) - 1 / c
    places = torch.searchsorted(labels, y_test).clamp(max=c - 1)
    known = torch.where(labels[places] == y_test, places, -1)
    return Samples(x, targets, x_test, known, labels.tolist())


def as_images(x: Tensor, path: str) -> Tensor:
    """Points for a network that looks at pixels, with shape (n, channels, h, w); grey images need no axis of channels.

    Raises:
        DataError: If they have another shape.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise DataError(f"Such a network takes images, with shape (n, channels, h, w) or (n, h, w), and those of {path} "
                        f"have shape {tuple(x.shape)}. Use x.reshape(len(x), channels, h, w), or --kernel fc3.")
    if x.shape[1] not in CHANNELS and x.shape[3] in CHANNELS:
        raise DataError(f"Images have shape (n, channels, h, w), and those of {path} have shape {tuple(x.shape)}. Save "
                        "x.transpose(0, 3, 1, 2).")
    return x


def stem_of(path: str) -> str:
    """The name of a file, without folder and ending."""
    return Path(path).stem
