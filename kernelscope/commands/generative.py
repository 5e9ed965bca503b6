"""Generative runs on the command line: two runs of a game in one folder, and losses that a run's notes tell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataError

#: The file in which a folder says what it holds.
MANIFEST = "manifest.json"

#: The runs of a game, by the names of their folders.
PARTS = ("generator", "critic")


def is_game(folder: Path) -> bool:
    """Whether a folder holds the two runs of a game."""
    return not (folder / MANIFEST).exists() and all((folder / part / MANIFEST).exists() for part in PARTS)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of one run, or of one game."""
    return (folder / MANIFEST).exists() or is_game(folder)


def known_loss(meta: dict[str, Any]) -> Callable[..., Any] | None:
    """The loss of one side of a game, from the notes of its run; ``None`` for other runs."""
    from ..generative.games.adversary import Adversary, field_loss

    notes = meta.get("notes") or {}
    if notes.get("generative") != "gan":
        return None
    if (meta.get("fingerprint") or {}).get("model") != "Judged":
        return field_loss
    try:
        return Adversary(notes["kind"], notes["r1"]).critic_loss
    except (KeyError, DataError):
        return None  # notes that do not tell the game


def refuse(folder: Path, meta: dict[str, Any] | None = None) -> None:
    """Refuses what the questions of classifiers and regressions cannot be asked about, with the way to ask.

    Args:
        folder: The folder.
        meta: What the run in it says of itself; that in the folder if not given.

    Raises:
        DataError: If the folder holds a game, a side of one, or the run of a denoiser.
    """
    from ..run.opening import run_store

    where = os.fspath(folder)
    if is_game(folder):
        raise DataError(
            f"{where} holds a GAN, which gives points and no answers. kernelscope compare {where} OTHER writes a page "
            f"about it beside another generative run; in Python: kernelscope.generative.explain_gan("
            f'kernelscope.generative.load("{where}"), latents).')
    kind = ((meta if meta is not None else run_store(folder, verify="size").meta).get("notes") or {}).get("generative")
    if kind == "diffusion":
        raise DataError(
            f"{where} holds a denoiser, which gives points and no answers. kernelscope compare {where} OTHER writes a "
            f"page about it beside another generative run; in Python: kernelscope.generative.explain_diffusion("
            f'kernelscope.generative.load("{where}"), latents).')
    if kind == "gan":
        around = folder.resolve().parent
        raise DataError(
            f"{where} is one side of the GAN in {around}, and its outputs are no answers. Ask about the game in "
            f'Python: kernelscope.generative.explain_gan(kernelscope.generative.load("{around}"), latents); a ledger '
            "of this side alone is kernelscope.decompose(game.critic, x, output=0).")
