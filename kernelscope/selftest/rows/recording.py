"""F1: processes that are killed at any moment, and go on in the same folder."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

from ...decomposition.exact import decompose
from ...run.opening import load
from ...run.recorder import record
from ...run.run import Run
from ..deeds import every_pass, one_step
from ..exactness import tools
from ..kept import checkpoint_of, digest, passes
from ..row import Done, Lost, Row, Silent, Trial, same
from ..traps import Child, forks

OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
}


class Killed(Row):
    """F1."""

    id, sentence = "F1", "The process is killed while it records or fits, and the work is taken up in the same folder."
    steps, kills, recordings, fits = 12, 2, 44, 16

    def prepare(self, folder: Path) -> None:
        forks()
        self.whole = {}
        for name in OPTIMIZERS:
            for keep in ("all", 4):
                place = folder / f"{name}-{keep}"
                self.record(place, name, keep, lambda line: None)
                self.whole[name, keep] = self.said(load(place))
        with every_pass():
            self.fitted = checkpoint_of(None)

    def trials(self) -> Iterator[Trial]:
        for seed in range(self.recordings):
            name, keep = list(self.whole)[seed % 4]
            yield Trial(f"{name}, keep={keep}: killed {self.kills} times", partial(self._recorded, name, keep, seed))
        for seed in range(self.fits):
            yield Trial("a fit is killed", partial(self._fitted, self.recordings + seed))

    def record(self, place: Path, name: str, keep: Any, say: Any) -> None:
        """The training, from where its last checkpoint stands to its end."""
        model, x, y = tools()
        optimizer, beside, first = OPTIMIZERS[name](model.parameters()), place.with_suffix(".pt"), 0
        if beside.exists():
            kept = torch.load(beside, weights_only=True)
            model.load_state_dict(kept["model"])
            optimizer.load_state_dict(kept["optimizer"])
            first = kept["step"]
        # Before its first checkpoint a loop has nothing to go on with, and begins anew.
        with record(model, (x, y), loss=mse_loss, out=place, commit_every=0, keep=keep, resume=first > 0,
                    overwrite=not first) as recording:
            held, told = {}, first
            for k in range(first, self.steps):
                held[k] = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": k})
                known = recording.acknowledged
                if known > told and known in held:
                    # A checkpoint of the loop's own, of a step that the recording has.
                    part = beside.with_suffix(".part")
                    torch.save(held[known], part)
                    os.replace(part, beside)
                    say(f"step {known}")
                    told = known
                one_step(recording, model, optimizer, x, y, k)
                time.sleep(0.004)  # the writer gets a turn

    def said(self, run: Run) -> dict[str, str]:
        """What must be the same however often the recording was taken up."""
        why = decompose(run, run.samples.inputs[0][:2], progress=False)
        if not why.completeness() <= 1e-12:
            raise Silent(f"the sum of the machines misses the network by {why.completeness():.1e}")
        every = [run.step(k) for k in range(len(run))]
        steps = [(s.optimizer, s.groups, [(b.columns, b.at, b.training) for b in s.batches]) for s in every]
        return {"steps": digest(steps), "contributions": digest([why.contributions, why.final]),
                "parameters": digest(list(run.trajectory(0, len(run))))}

    def _recorded(self, name: str, keep: Any, seed: int, folder: Path) -> Done | None:
        dice, place, told = self.dice(seed), folder / "run", 0
        for turn in range(self.kills):
            child = Child(folder / f"log-{turn}", lambda say: self.record(place, name, keep, say))
            if dice.random() < 0.8:
                child.until("step")
            time.sleep(dice.uniform(0, 0.05))
            told = max([told, *(int(line.split()[1]) for line in child.kill())])
            if told:
                run = load(place)
                if len(run) < told:
                    raise Lost(f"{told} steps were acknowledged, and {len(run)} are there", told - len(run))
        self.record(place, name, keep, lambda line: None)
        found = self.said(load(place))
        for what, true in self.whole[name, keep].items():
            same(found[what], true, f"the checksum of {what}")
        return Done(counts={"kills": self.kills, "acknowledged": told})

    def _fitted(self, seed: int, folder: Path) -> Done | None:
        dice, place = self.dice(seed), folder / "checkpoint"
        with every_pass():
            child = Child(folder / "log", lambda say: passes(place))
            time.sleep(dice.uniform(0, 0.08))
            child.kill()
            same(checkpoint_of(place), self.fitted, "the checksum of the coefficients")
        return Done(counts={"kills": 1})


ROWS = (Killed,)
