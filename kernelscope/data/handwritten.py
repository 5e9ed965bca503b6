"""1,797 handwritten digits, 8 × 8 grey pixels each, that come with the package.

They are the test set of *Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49), under CC BY 4.0; ``digits.txt`` beside this file says how the copy
was made.
"""

from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

import numpy as np
import torch
from torch.utils.data import TensorDataset

from ..arguments import what_came
from ..errors import DataError

TEST_SIZE = 360
WHITE = 16  # a pixel counts the ink in a block of 4 × 4


class Digits(TensorDataset):
    """Handwritten digits as a data set of pairs (x, y), with the names that a report needs.

    Attributes:
        class_names: The name of each class.
        image_shape: The height and the width of an image.
        ids: The place of each image in the whole set, with shape :math:`(n,)`.
        split: ``"train"``, ``"test"`` or ``"all"``.
    """

    class_names = tuple("0123456789")
    image_shape = (8, 8)

    def __init__(self, x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, split: str) -> None:
        super().__init__(x, y)
        self.ids = ids
        self.split = split

    @property
    def x(self) -> torch.Tensor:
        """The images, with shape :math:`(n, 64)` or :math:`(n, 1, 8, 8)`, ink between 0 and 1."""
        return self.tensors[0]

    @property
    def y(self) -> torch.Tensor:
        """The digits, with shape :math:`(n,)`."""
        return self.tensors[1]

    def __repr__(self) -> str:
        height, width = self.image_shape
        return (
            f"Digits(split={self.split!r}, {len(self)} images of {height} × {width} pixels, "
            f"{len(self.class_names)} classes)"
        )


def digits(split: str = "train", seed: int = 0, flat: bool = True) -> Digits:
    r"""The handwritten digits, with inputs :math:`x \in [0, 1]` in float32 and targets :math:`y` in int64.

    The split is stratified and depends on ``seed`` alone: 360 test images, so many of each digit as its share of the
    whole, and 1,437 training images. Both keep the order of the whole set.

    Args:
        split: ``"train"``, ``"test"`` or ``"all"``.
        seed: Names one split among many.
        flat: Images with shape :math:`(n, 64)`; else :math:`(n, 1, 8, 8)`, as a convolution wants them.

    Raises:
        DataError: ``split`` is none of the three.

    References:
        | Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998)
        | https://doi.org/10.24432/C50P49

    Example:
        >>> train = digits("train")
        >>> len(train), train.x.shape, train.y[:5]
        (1437, torch.Size([1437, 64]), tensor([0, 1, 2, 3, 4]))
    """
    if not isinstance(split, str) or split not in ("train", "test", "all"):
        raise DataError(f"The digits have the splits 'train', 'test' and 'all'; {what_came(split)} is none of them.")
    images, labels = _stored()
    ids = np.arange(len(labels))
    if split != "all":
        ids = ids[_in_test(labels, seed) == (split == "test")]
    x = torch.from_numpy(images[ids]).to(torch.float32) / WHITE
    y = torch.from_numpy(labels[ids]).to(torch.int64)
    return Digits(x.flatten(1) if flat else x.unsqueeze(1), y, torch.from_numpy(ids), split)


@lru_cache(maxsize=1)
def _stored() -> tuple[np.ndarray, np.ndarray]:
    with (files(__package__) / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def _in_test(labels: np.ndarray, seed: int) -> np.ndarray:
    """Whether each image is a test image: in each class, the images with the smallest hashes of (seed, id)."""
    exact = np.bincount(labels) * TEST_SIZE / len(labels)
    counts = exact.astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: TEST_SIZE - counts.sum()]] += 1
    # A hash, and no generator: the split is the same for every version of every library.
    hashes = [sha256(f"{seed}/{i}".encode()).digest()[:8] for i in range(len(labels))]
    ranks = np.array([int.from_bytes(digest) for digest in hashes], np.uint64)
    chosen = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        chosen[members[np.argsort(ranks[members])[:count]]] = True
    return chosen
