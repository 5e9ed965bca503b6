r"""Local denoisers: the mean of each pixel over training patches, given the noisy patch around it.

A pixel p sees the window :math:`\Omega_p` centred at it. The *local* denoiser compares it with the same window of the
training images; the *equivariant* one with windows at other places too, as a convolution does, which does not know
where it is. A window that reaches beyond the border is cropped there. (For the local denoiser padding with zeros is
the same: what is padded is equal in both.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from ....arguments import as_choice, as_count
from ....errors import DataError
from .points import noisy, rows, training_points
from .posterior import posterior_mean

__all__ = ["EquivariantLocalDenoiser", "LocalDenoiser"]

#: How many entries the largest table of exponents has.
ENTRIES = 2**22


class _Patches:
    """Groups of pixels whose windows are compared with each other, and the mean of a pixel within its group."""

    def __init__(self, x: Tensor, side: int, window: int, channels: int = 1, dtype: torch.dtype = torch.float64):
        self.x = training_points(x, dtype)
        self.side, self.channels = as_count(side, "side", least=1), as_count(channels, "channels", least=1)
        self.window = as_count(window, "window", least=1)
        if not self.window % 2:
            raise DataError(f"A window is centred at its pixel, so its width is odd; {window} came. Pass window="
                            f"{window + 1}.")
        if self.x[0].numel() != self.channels * self.side**2:
            raise DataError(f"Points of {self.x[0].numel()} numbers are no images of {self.channels} x {self.side} x "
                            f"{self.side}. Pass side and channels of the images, which must be square.")
        self._groups = self.groups()

    @abstractmethod
    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Pixels with shape (g,), and the places in a padded image that each of them sees, with shape (g, m)."""

    def windows(self) -> tuple[Tensor, Tensor]:
        """What each pixel sees, with shape (pixels, window^2): places in a padded image, and which are inside."""
        half = self.window // 2
        wide = self.side + 2 * half
        at = torch.arange(self.side)
        pixels = (at[:, None] * wide + at).flatten()
        off = torch.arange(self.window)
        places = pixels[:, None] + (off[:, None] * wide + off).flatten()
        down, across = places // wide - half, places % wide - half
        return places, ((down >= 0) & (down < self.side) & (across >= 0) & (across < self.side))

    def __call__(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points, with the shape of ``y``."""
        x = self.x.to(y.device) if isinstance(y, Tensor) else self.x
        at, levels = noisy(y, sigma, x.shape[1:], x)
        parts, order = [], []
        for pixels, places in self._groups:
            # Queries by pixels, so that a table of exponents has a bounded number of entries.
            few = max(1, ENTRIES // (len(pixels) * max(len(pixels), 64)))
            found = [self._mean(part, level, x, pixels, places)
                     for part, level in zip(at.split(few), levels.split(few), strict=True)]
            parts.append(torch.cat(found) if found else at.new_zeros(0, self.channels, len(pixels)))
            order.append(pixels)
        denoised = torch.cat(parts, dim=2)[:, :, torch.cat(order).argsort()]
        return denoised.reshape(y.shape).to(y)

    def jacobian(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The Jacobian at each point, with shape (q, d, d): the covariance of a pixel and its window, by sigma^2."""
        return rows(self, y, sigma)

    def _mean(self, y: Tensor, sigma: Tensor, x: Tensor, pixels: Tensor, places: Tensor) -> Tensor:
        seen = self._seen(y, places).flatten(0, 1)
        mean = posterior_mean(seen, sigma.repeat_interleave(len(pixels)), self._blocks(x, pixels, places, len(seen)))
        return mean.view(len(y), len(pixels), self.channels).transpose(1, 2)

    def _blocks(self, x: Tensor, pixels: Tensor, places: Tensor, queries: int) -> Iterator[tuple[Tensor, Tensor]]:
        for part in x.flatten(1).split(max(1, ENTRIES // max(1, queries * len(pixels)))):
            centres = part.view(len(part), self.channels, -1)[:, :, pixels].transpose(1, 2)
            yield self._seen(part, places).flatten(0, 1), centres.flatten(0, 1)

    def _seen(self, images: Tensor, places: Tensor) -> Tensor:
        """The windows of images with shape (n, d), with shape (n, g, channels m)."""
        half = self.window // 2
        folded = images.reshape(len(images), self.channels, self.side, self.side)
        padded = torch.nn.functional.pad(folded, [half] * 4).flatten(2)
        return padded[:, :, places].transpose(1, 2).flatten(2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.x)} images of side {self.side}, window {self.window})"


class LocalDenoiser(_Patches):
    r"""The local denoiser LS of one window: for each pixel the mean over training images, given the window around it.

    .. math:: D(y, \sigma)[p] = \sum_i w_i^{\Omega_p} x_i[p], \qquad
              w_i^{\Omega_p} \propto \exp(-|y_{\Omega_p} - x_{i, \Omega_p}|^2 / 2\sigma^2)

    With a window that holds the whole image from every pixel, 2 side - 1, it is the :class:`OptimalDenoiser`.

    Args:
        x: The training images, with shape (n, \*), folded as (channels, side, side) or as vectors in that order.
        side: The height and width of an image.
        window: The width of the window, odd. At the border it is cropped.
        channels: The number of channels; a window holds all of them.
        dtype: The precision it computes in; answers are in that of the noisy points.

    Raises:
        DataError: If the points are no such images or the window is even; when called, if shapes do not go together
            or a noise level is not positive.
        NonFiniteError: If a number is NaN or infinite.

    References:
        "An Analytic Theory of Creativity in Convolutional Diffusion Models" (Kamb & Ganguli, 2025), section 3.

    Example:
        >>> images = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
        >>> local = LocalDenoiser(images, side=2, window=1)
        >>> local(torch.tensor([[0.1, 0.9, 0.1, 0.9]]), torch.tensor([0.1])).round(decimals=6)
        tensor([[0., 1., 0., 1.]])
    """

    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Each pixel is alone."""
        places, inside = self.windows()
        return [(torch.tensor([p]), places[p, inside[p]][None]) for p in range(len(places))]


class EquivariantLocalDenoiser(_Patches):
    r"""The equivariant local denoiser ELS of one window: it does not know where in the image a window is.

    .. math:: D(y, \sigma)[p] = \sum_{i, p'} w_{i p'} x_i[p'], \qquad
              w_{i p'} \propto \exp(-|y_{\Omega_p} - x_{i, \Omega_{p'}}|^2 / 2\sigma^2)

    Args:
        x: The training images, with shape (n, \*), folded as (channels, side, side) or as vectors in that order.
        side: The height and width of an image.
        window: The width of the window, odd.
        channels: The number of channels; a window holds all of them.
        dtype: The precision it computes in; answers are in that of the noisy points.
        borders: ``"cropped"`` compares a window that the border cuts with windows that it cuts in the same way, which
            is all that a convolution with padding can tell; ``"padded"`` pads with zeros and compares with all.

    Raises:
        DataError: If the points are no such images or the window is even; when called, if shapes do not go together
            or a noise level is not positive.
        NonFiniteError: If a number is NaN or infinite.

    References:
        "An Analytic Theory of Creativity in Convolutional Diffusion Models" (Kamb & Ganguli, 2025), section 3.

    Example:
        >>> images = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
        >>> equivariant = EquivariantLocalDenoiser(images, side=2, window=1)
        >>> equivariant(torch.tensor([[0.9, 0.1, 0.1, 0.1]]), torch.tensor([0.1])).round(decimals=6)
        tensor([[1., 0., 0., 0.]])
    """

    def __init__(self, x: Tensor, side: int, window: int, channels: int = 1, dtype: torch.dtype = torch.float64,
                 borders: str = "cropped"):
        self.borders = as_choice(borders, "borders", ("cropped", "padded"))
        super().__init__(x, side, window, channels, dtype)

    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """The pixels that the border cuts in the same way; or all."""
        places, inside = self.windows()
        if self.borders == "padded":
            return [(torch.arange(len(places)), places)]
        cuts, of = inside.unique(dim=0, return_inverse=True)
        return [(pixels, places[pixels][:, cut])
                for k, cut in enumerate(cuts) for pixels in [(of == k).nonzero().flatten()]]
