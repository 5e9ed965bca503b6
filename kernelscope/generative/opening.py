"""A generative run opened from its folder: a denoiser's, or the two of a game."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..arguments import as_path
from ..errors import DataError, StoreError
from ..run.opening import load as open_run
from ..run.opening import run_store
from ..run.run import Run
from ..storage.manifest import NAME
from .games.adversary import Judged, field_loss
from .games.game import CRITIC, GENERATOR, GANRun, game_of

__all__ = ["load"]


def load(path: str | Path, model: nn.Module | None = None, *, loss: Callable[..., Tensor] | None = None,
         generator: nn.Module | None = None, critic: nn.Module | None = None) -> Run | GANRun:
    """Opens what :func:`record_diffusion` or :func:`record_gan` wrote; nothing is ever unpickled.

    Networks that are made of plain torch layers, and those of this package, are described by the folder itself. Of
    others pass modules of the trained architecture; their values do not matter, and they are not changed.

    Args:
        path: The folder.
        model: The denoiser.
        loss: The loss of the denoiser's loop, if it is none of ``torch.nn.functional``.
        generator: The generator of a game.
        critic: The score network of a game.

    Returns:
        A :class:`~kernelscope.Run`, or a :class:`GANRun` of a folder that holds a game.

    Raises:
        StoreError: If the folder is neither, or not the bytes that were written.
        ModelError: If a network is needed, or has other parameters than the recorded one.
        DataError: If the folder holds a run that is not generative.

    Example:
        >>> import torch
        >>> from kernelscope.generative.training import train_diffusion
        >>> _ = train_diffusion(torch.randn(20, 4), width=8, steps=5, batch=4, out="runs/diffusion")
        >>> len(load("runs/diffusion"))
        5
    """
    path = as_path(path, "The folder of a generative run", 'kernelscope.generative.load("runs/diffusion")')
    if os.path.isdir(path) and not os.path.lexists(path / NAME):
        return _game(path, generator, critic)
    run = open_run(path, model=model, loss=loss) if _kind(path) == "diffusion" else None
    if run is None:
        raise DataError(
            f"{path} holds one run, and it is not that of a denoiser. Open the folder around the two runs of a game, "
            f"or any other run with kernelscope.load({str(path)!r})."
        )
    return run


def _game(path: Path, generator: nn.Module | None, critic: nn.Module | None) -> GANRun:
    missing = [name for name in (GENERATOR, CRITIC) if not os.path.lexists(path / name / NAME)]
    if missing:
        whole = len(missing) == 2
        raise StoreError(
            f"{path} is no generative run: "
            + ("there is neither a run nor a game in it. Name the folder that record_diffusion or record_gan wrote."
               if whole else f"of the two runs of a game there is no {missing[0]} in it. Restore it from a copy, or "
               "record again.")
        )
    for name in (GENERATOR, CRITIC):
        if _kind(path / name) != "gan":
            raise DataError(f"{path / name} is a run, and none of a recorded game. Open it with kernelscope.load.")
    made = open_run(path / GENERATOR, model=generator, loss=field_loss)
    judged = None if critic is None else Judged(critic)
    return GANRun.of(made, open_run(path / CRITIC, model=judged, loss=game_of(made).critic_loss))


def _kind(path: Path) -> Any:
    notes = run_store(path, verify="size").meta.get("notes")
    return notes.get("generative") if isinstance(notes, dict) else None
