r"""The recording of a GAN: two runs of one game.

Both are ordinary runs, so that everything which is asked of a run is asked of them too. The critic's run is one of
:class:`Judged`, whose samples are the real points i (place i), their penalties (place n + i, where there are any) and
the places of generated points in a batch (after these). The generator's run is one of the generator, whose samples are
the places in a batch of latents and whose targets are the critic's field at what was generated.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_path, as_switch
from ...decomposition.wording import counted
from ...errors import DataError, StoreCorrupt
from ...network import Parameters, cast, undisturbed
from ...run.run import Run
from ...run.samples import MOST
from .adversary import KINDS, Adversary

__all__ = ["CRITIC", "GENERATOR", "GANRun"]

#: The folders of the two runs.
CRITIC, GENERATOR = "critic", "generator"


#: What to do where a critic's buffers change.
STILL = (
    "Train a critic whose buffers stay: in place of spectral normalisation with the penalty R1, record_gan(..., "
    "r1=...), or with vectors that stay (critic.eval() before the loop); in place of running statistics with "
    "nn.GroupNorm or nn.LayerNorm."
)


@dataclass(frozen=True, eq=False)
class GANRun:
    """A recorded game.

    Attributes:
        generator: The generator's run.
        critic: The critic's run.
        game: The losses.
        real: The number n of real points.
        seen: For each step of the generator the number of steps of the critic's run before it, with shape (T,).

    Example:
        >>> from kernelscope.generative.training import train_gan
        >>> game = train_gan(torch.randn(20, 4), latents=2, width=8, steps=5, batch=4)
        >>> game.score(game.generated(torch.randn(3, 2))).shape, game.seen
        (torch.Size([3]), tensor([1, 2, 3, 4, 5]))
    """

    generator: Run
    critic: Run
    game: Adversary
    real: int
    seen: Tensor

    @classmethod
    def of(cls, generator: Run, critic: Run) -> GANRun:
        """The game of two runs that were recorded side by side.

        Of an interrupted recording those steps of the generator are left out whose critic was not stored. Slices are
        taken as well, where that of the critic begins no later than that of the generator.

        Raises:
            DataError: If one of them is no part of a game, or a slice of the critic begins too late.
            StoreCorrupt: If they are not those of one game.
        """
        about = [_notes(generator), _notes(critic)]
        if about[0] != about[1]:
            differing = next(key for key in about[0] if about[0][key] != about[1][key])
            raise StoreCorrupt(
                f"The runs of generator and critic are not those of one game: {differing} is {about[0][differing]!r} "
                f"of one and {about[1][differing]!r} of the other. Restore the folder from a copy, or record again."
            )
        kind, r1, real = about[0]["kind"], about[0]["r1"], about[0]["real"]
        if critic.size <= real * (2 if r1 else 1):
            raise StoreCorrupt(f"The critic's run has {critic.size} samples, too few for {real} real points, their "
                               "penalties and generated points. Restore the folder from a copy, or record again.")
        seen: list[int] = []
        for k in range(len(generator)):
            before = generator[k].seen
            if before is None or seen and before - critic.start < seen[-1]:
                raise StoreCorrupt(f"Step {k} of the generator does not say how many steps the critic had made before "
                                   "it. Restore the folder from a copy, or record again.")
            before -= critic.start
            if before < 0:
                raise DataError(f"The critic's slice begins with its step {critic.start}, and the generator's with one "
                                f"that came after {before + critic.start} of the critic's. Let the generator's slice "
                                "begin later, or the critic's earlier.")
            if before > len(critic):
                break
            seen.append(before)
        generator = generator if len(seen) == len(generator) else generator[:len(seen)]
        return cls(generator, critic, Adversary(kind, r1), real, torch.tensor(seen, dtype=torch.int64))

    def __repr__(self) -> str:
        return (f"GANRun({self.game.kind}: {counted(len(self.generator), 'step')} of a generator with "
                f"{self.generator.parameter_count} parameters, {len(self.critic)} of a critic with "
                f"{self.critic.parameter_count}, {counted(self.real, 'real point')})")

    @property
    def points(self) -> Tensor:
        """The real points as the critic saw them first, with shape (n, *); NaN where training never drew one."""
        samples = self.critic.samples
        drawn = samples.seen[:self.real]
        (x,), _ = samples.batch(drawn.nonzero().flatten())
        points = torch.full((self.real, *x.shape[1:]), torch.nan, dtype=x.dtype)
        points[drawn] = x
        return points

    def generated(self, z: Tensor, parameters: Parameters | None = None) -> Tensor:
        """What the generator makes of latents, at the end of its run or at other parameters."""
        return _at(self.generator, z, parameters)

    def score(self, x: Tensor, parameters: Parameters | None = None) -> Tensor:
        """The critic's scores of points, with shape (q,), at the end of its run or at other parameters."""
        return _at(self.critic, x, parameters)[:, 0]

    def slope(self, x: Tensor, parameters: Parameters | None = None) -> Tensor:
        """The gradient of the critic's score by the point, with the shape of ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(_at(self.critic, x, parameters, graph=True)[:, 0].sum(), x)[0]

    def info(self) -> dict[str, Any]:
        """The game in plain data, with that of both runs."""
        return {"kind": self.game.kind, "r1": self.game.r1, "real": self.real, "generator": self.generator.info(),
                "critic": self.critic.info()}

    def fingerprint(self) -> str:
        """A hash of everything the game holds."""
        words = [self.generator.fingerprint(), self.critic.fingerprint(), str(self.seen.tolist())]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Copies both recordings into the folder ``path``, where :func:`kernelscope.generative.load` finds them."""
        folder = as_path(path, "The folder of a game", 'game.save("runs/gan")')
        overwrite = as_switch(overwrite, "overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        self.critic.save(folder / CRITIC, overwrite=overwrite)
        self.generator.save(folder / GENERATOR, overwrite=overwrite)
        return folder


def game_of(run: Run) -> Adversary:
    """The losses of the game that a run is a part of.

    Raises:
        DataError: If it is no part of one.
        StoreCorrupt: If its notes do not tell which.
    """
    notes = _notes(run)
    return Adversary(notes["kind"], notes["r1"])


def _notes(run: Run) -> dict[str, Any]:
    """What a run says of its game, looked at."""
    notes = run.meta.get("notes") or {}
    if notes.get("generative") != "gan":
        raise DataError(f"{run!r} is no part of a recorded game. Record generator and critic with "
                        "kernelscope.generative.record_gan.")
    kind, r1, real = (notes.get(key) for key in ("kind", "r1", "real"))
    plain = isinstance(r1, int | float) and isinstance(real, int) and not isinstance(r1, bool) and real is not True
    if kind not in tuple(KINDS) or not plain or not 0 <= r1 < float("inf") or not 0 < real <= MOST:  # type: ignore[operator]
        raise StoreCorrupt(
            f"The notes of {run!r} do not tell the game: kind is {str(kind)[:100]!r}, r1 {str(r1)[:100]!r} and real "
            f"{str(real)[:100]!r}. They were changed; restore the folder from a copy, or record again."
        )
    # Earlier recordings have no name in common.
    name = str(notes.get("game"))[:100]
    return {"kind": kind, "r1": float(r1), "real": real, "game": name}  # type: ignore[arg-type]


def _at(run: Run, x: Tensor, parameters: Parameters | None, graph: bool = False) -> Tensor:
    held = run.parameters() if parameters is None else parameters
    with undisturbed(x.device), torch.set_grad_enabled(graph):
        held = cast({**run.network.parameters, **held}, x.dtype, x.device)
        return run.network(held, cast(run.buffers(run.stop), x.dtype, x.device), (x,))
