r"""Recording a loop that trains a denoiser, without changing it.

The loop draws noise levels and noise itself. A sample's id is its place in the data set, and its input (the noisy point
and the noise level) and its target are kept with each step, because both are others at every draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...arguments import as_function, as_path, what_came
from ...errors import DataError, RecordingError, StoreExists
from ...run.recorder import record
from ...run.recording import Recording
from ...storage.manifest import exists
from .noise import NoiseLaw

__all__ = ["record_diffusion"]


def record_diffusion(
    denoiser: nn.Module,
    loader: DataLoader[Any] | Tensor | Sequence[Tensor],
    *,
    out: str | Path | None = None,
    keep: int | str = "all",
    average: nn.Module | None = None,
    law: NoiseLaw | None = None,
    clean: Callable[[Any], Tensor] | None = None,
    loss: Callable[..., Tensor] = F.mse_loss,
    commit_every: float = 1.0,
    overwrite: bool = False,
    resume: bool = False,
    notes: dict[str, Any] | None = None,
) -> Recording:
    r"""Records the training of a denoiser inside the ``with`` block.

    The loop calls the denoiser on noisy points y and noise levels :math:`\sigma`, and minimises a loss between its
    output and ``denoiser.target(x, y, sigma)``, the number that is regressed:

    .. math:: o_\theta(y, \sigma) \approx \frac{x - a(\sigma)\, y}{b(\sigma)}, \qquad y = x + \sigma n

    For :class:`~kernelscope.generative.Denoiser` and the mean square this is the loss of EDM, with its weight
    :math:`1/b^2` of the squared error of D. Of a loop that minimises another one the first gradient tells, and a
    warning says so.

    Args:
        denoiser: The module that the loop calls, as ``denoiser(y, sigma)``; it has ``coefficients`` and ``target`` as
            :class:`~kernelscope.generative.Denoiser` has.
        loader: The loader that the loop iterates, whose batches are clean points or begin with them; or all clean
            points in one tensor, for a loop that calls ``recording.batch(ids)`` before each forward pass.
        out: The folder to record into; ``None`` keeps the run in memory.
        keep: Which parameters are stored, as in :func:`kernelscope.record`.
        average: A module with averaged weights that the loop updates.
        law: The law that the loop draws noise levels from, to be kept with the run; if not given it is told from those
            that were drawn.
        clean: ``batch -> x``, the clean points as the loop noises them, where they are not the first part of a batch.
        loss: The loss between output and target.
        commit_every: Seconds after which recorded steps are brought to the disk.
        overwrite: Whether a run in ``out`` may be replaced.
        resume: Whether the run in ``out`` is taken up again.
        notes: Plain data to keep with the run.

    Returns:
        A context manager; ``recording.run`` is the :class:`~kernelscope.Run` after the block.

    Raises:
        RecordingError: If the loop and the recording do not fit together; the message says what to do.
        DataError: If a batch does not begin with clean points.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), table 1.

    Example:
        >>> import torch
        >>> from kernelscope.generative.denoising.denoiser import Denoiser, along
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> from torch.utils.data import TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.randn(12, 4)), batch_size=4, shuffle=True)
        >>> denoiser, law = Denoiser(NoiseMLP(4, width=8), spread=1.0), NoiseLaw()
        >>> optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
        >>> with record_diffusion(denoiser, loader, law=law) as recording:
        ...     for (x,) in loader:
        ...         sigma = law.draw(len(x))
        ...         y = x + along(sigma, x) * torch.randn_like(x)
        ...         optimizer.zero_grad()
        ...         F.mse_loss(denoiser(y, sigma), denoiser.target(x, y, sigma)).backward()
        ...         optimizer.step()
        >>> recording.run
        Run(in memory: 3 steps of SGD, 12 samples, 276 parameters)
    """
    refuse_game(out)
    target: Any = getattr(denoiser, "target", None)
    if not callable(target) or not callable(getattr(denoiser, "coefficients", None)):
        raise RecordingError(
            f"A denoiser must say what it is regressed on, by its methods coefficients(sigma) and target(x, y, sigma); "
            f"{what_came(denoiser)} came. Wrap the network: kernelscope.generative.Denoiser(network, spread=...)."
        )
    choose = first_part if clean is None else as_function(clean, "clean", "of a batch that gives the clean points")

    def targets(inputs: tuple[Tensor, ...], given: Tensor) -> Tensor:
        if len(inputs) != 2:
            raise RecordingError(f"A denoiser is called with noisy points and noise levels; {len(inputs)} inputs came. "
                                 "Call it as denoiser(y, sigma).")
        y, sigma = inputs
        if given.shape != y.shape:
            raise DataError(
                f"The noisy points have the shape {tuple(y.shape)} and the clean ones of the batch "
                f"{tuple(given.shape)}. Pass clean=lambda batch: ... that gives the points as the loop noises them."
            )
        return target(given.to(y), y, sigma)

    if law is not None and not isinstance(law, NoiseLaw):
        raise DataError(f"law must be a NoiseLaw, the law that noise levels are drawn from; {what_came(law)} came. "
                        "Pass kernelscope.generative.NoiseLaw(-1.2, 1.2), or leave it out.")
    points = (loader, loader) if isinstance(loader, Tensor) else loader
    if not isinstance(points, DataLoader) and isinstance(points, list | tuple) and len(points) == 1:
        points = (points[0], points[0])
    about = {"generative": "diffusion", **({} if law is None else {"law": [law.mean, law.deviation]}), **(notes or {})}
    return record(denoiser, points, loss=loss, out=out, keep=keep, average=average, commit_every=commit_every,
                  overwrite=overwrite, resume=resume, notes=about, targets=targets,
                  batch=lambda batch: (None, choose(batch)))


def refuse_game(out: str | Path | None) -> None:
    """Refuses a folder that holds the two runs of a game, for a run.

    Raises:
        StoreExists: If ``out`` is one.
    """
    if out is None:
        return
    folder = as_path(out, "out, the folder to record into,", 'out="runs/diffusion"')
    if any(exists(folder / name) for name in ("generator", "critic")):
        raise StoreExists(f"{folder} already holds a recorded game; it is intact. Choose another folder.")


def first_part(batch: Any) -> Tensor:
    """The points of a loader's batch: the batch itself, or the first part of it.

    Raises:
        DataError: If that is no tensor.

    Example:
        >>> import torch
        >>> first_part([torch.zeros(2, 3), torch.tensor([0, 1])]).shape
        torch.Size([2, 3])
    """
    points = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
    if not isinstance(points, Tensor):
        raise DataError(f"A batch must be points, or begin with them; {what_came(points)} came. Let the loader give "
                        "tensors with one row for each sample.")
    return points
