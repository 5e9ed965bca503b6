r"""How a run was trained, as far as another network can be trained likewise.

A recipe holds the initial parameters, the rule and its numbers at each step, and the loss: all but the batches. Runs
that other batches would not train in the same way are refused, each by the name of what stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError, ModelError, RuleError
from ...run.numbers import as_held
from ...run.rules import Hyper, Linear, Muon, Rule, find_rule
from ...run.run import Run
from ..training_side import rows_of
from ..trajectory import Trajectory
from .derivatives import Tree
from .gradients import StackedGradients
from .population import Population, population_of

#: How far the factors that gradients were multiplied by may differ, relative.
ALIKE = 1e-3

#: At how many recorded steps gradients are computed again together, at most.
TOGETHER = 256


@dataclass(frozen=True, eq=False)
class Recipe:
    """All of a training run but its batches.

    Attributes:
        start: The initial values of the parameters that move.
        rule: The rule of the optimizer.
        numbers: For each step the numbers of each parameter that moves at it.
        gradients: The gradients of the loss.
    """

    start: Tree
    rule: Rule
    numbers: list[dict[str, Hyper]]
    gradients: StackedGradients

    def __len__(self) -> int:
        return len(self.numbers)

    def forms(self) -> list[dict[str, Linear]]:
        """The coefficients of each step, where they are numbers.

        Raises:
            RuleError: If they depend on the gradients.
        """
        nought = torch.zeros((), dtype=torch.float64)
        ages: dict[str, int] = {}
        momenta: dict[str, Tensor | None] = {}
        states: dict[str, dict[str, Tensor]] = {}
        steps = []
        for numbers in self.numbers:
            forms: dict[str, Linear] = {}
            for name, hyper in numbers.items():
                ages[name] = ages.get(name, 0) + 1
                state = states.setdefault(name, self.rule.initial(hyper, nought))
                forms[name] = form = self.rule.linear(hyper, ages[name], nought, nought, momenta.get(name), state)
                if form.before is not None or form.after is not None:
                    raise RuleError(
                        f"The terms along a path need steps whose weights are numbers, and those of "
                        f"{self.rule.optimizer} depend on the gradients. Pass terms=False, or train with SGD, with or "
                        "without momentum."
                    )
                momenta[name] = form.displacement(nought, nought, momenta.get(name))[1]
            steps.append(forms)
        return steps


def recipe_of(run: Run, population: Population, dtype: torch.dtype, device: torch.device,
              memory: int = 2**29) -> Recipe:
    """The recipe of a run.

    Args:
        run: The run.
        population: Its samples.
        dtype: The precision to train in.
        device: Where to train.
        memory: About how many bytes may be used to look through the recorded steps.

    Raises:
        RuleError: If its optimizer, or what its loop did to gradients, cannot be done again.
        ModelError: If its network draws random numbers, mixes samples or writes buffers in training.
        DataError: If it has no steps, is a slice, or saw samples in changing forms.
    """
    _check_whole(run)
    rule = _rule(run)
    _check_passes(run)
    training = run.step(0).batches[0].training
    trajectory = Trajectory(run, dtype, device)
    _check_buffers(run, training)
    moving = {name for k in range(len(run)) for name in _moving(run, k)}
    everything = trajectory.at(0)
    surroundings = {name: p for name, p in everything.items() if name not in moving}
    _check_targets(run, population)
    at_once = max(1, min(TOGETHER, memory // (8 * run.parameter_count * dtype.itemsize)))
    # The recorded batches are those of the samples that the run holds, whatever batches are drawn from.
    factor = _factor(run, population_of(run, None, dtype, device), trajectory, training, at_once)
    gradients = StackedGradients(run.network, run.loss, surroundings, trajectory.buffers(0), training, factor)
    numbers = []
    for k in range(len(run)):
        step = run.step(k)
        numbers.append({name: held for group, held in zip(step.groups, map(as_held, step.groups), strict=True)
                        for name in group["names"] if name not in step.without})
    return Recipe({name: everything[name] for name in run.names if name in moving}, rule, numbers, gradients)


def _moving(run: Run, k: int) -> list[str]:
    step = run.step(k)
    return [name for group in step.groups for name in group["names"] if name not in step.without]


def _check_whole(run: Run) -> None:
    if run.start != 0:
        raise DataError(
            f"Networks are trained again from the run's start, and this is a slice that begins at step {run.start}. "
            "Pass the run itself, or a slice from 0 on."
        )
    if not len(run) or not any(_moving(run, k) for k in range(len(run))):
        raise DataError("Networks are trained again as the run was, and it has no step that moves a parameter. Record "
                        "a loop with at least one step.")


def _rule(run: Run) -> Rule:
    restarts = [k for k in run.restarts if k != 0]
    if restarts:
        raise RuleError(
            f"Networks are trained again by one optimizer from the start on, and at step {restarts[0]} of this run "
            f"another one began, or the recording was taken up. Pass run[:{restarts[0]}]."
        )
    if not _fresh(run.states(0) or {}):
        raise RuleError(
            "Networks are trained again with a fresh optimizer, and that of this run brought states from steps before "
            "the recording. Record from the first step on."
        )
    rule = find_rule(run.step(0).optimizer)
    if isinstance(rule, Muon):
        raise RuleError("Many networks are trained at once by rules that act on each entry alone, and Muon multiplies "
                        "matrices. Train with SGD or Adam.")
    return rule


def _fresh(states: dict[str, Tensor]) -> bool:
    """Whether no step is behind these states; some optimizers make theirs before the first one."""
    return all(float(states.get(f"{key.rpartition('|')[0]}|step", 1.0)) == 0.0 for key in states)


def _check_passes(run: Run) -> None:
    first = run.step(0).batches[0]
    for k in range(len(run)):
        for batch in run.step(k).batches:
            if batch.at != k:
                raise RuleError(f"Step {k} used a gradient that was taken before step {batch.at}, at older parameters; "
                                "such steps are not trained again. Let each step use its own gradient.")
            if batch.autocast:
                raise RuleError(f"Step {k} ran under autocast in {batch.autocast}, whose rounding is not met again. "
                                "Train without autocast.")
            if batch.drawn is not None:
                raise DataError("The network saw some samples in more than one form, as under augmentation, and other "
                                "draws of them are not known. Train without augmentation.")
            if batch.random is not None:
                raise ModelError("In training the network drew random numbers, as dropout does, so its outputs vary "
                                 "by more than the order of its batches. Train without them.")
            if batch.training != first.training:
                raise ModelError(f"The network's submodules were in other modes at step {k} than at step 0. Keep them "
                                 "in one mode for the whole run.")


def _check_buffers(run: Run, training: tuple[str, ...]) -> None:
    if run.network.couples(training):
        raise ModelError("In training the network mixes the samples of a batch, as batch normalisation does, so the "
                         "noise of a batch is no sum over its samples. Use nn.LayerNorm or nn.GroupNorm, or freeze the "
                         "statistics with .eval().")
    before, after = run.buffers(0), run.buffers(run.stop)
    written = next((name for name, b in after.items() if not torch.equal(b, before[name])), None)
    if written is not None:
        raise ModelError(f"Training wrote the buffer {written!r}, and networks that are trained again keep theirs. "
                         "Leave buffers as they are in training.")


def _check_targets(run: Run, population: Population) -> None:
    targets = population.targets
    if run.loss.name == "cross_entropy" and not targets.is_floating_point() and bool((targets < 0).any()):
        raise DataError("Some targets are negative, which this loss ignores, so that the mean of a batch is over fewer "
                        "of its samples. Leave these samples out of the training set.")


def _factor(run: Run, population: Population, trajectory: Trajectory, training: tuple[str, ...],
            at_once: int) -> float:
    """What gradients were multiplied by, from the recorded norms; 1 where it is as near as rounding.

    Raises:
        RuleError: If it changes, or the recorded gradients are those of another loss.
    """
    fixed = {name: p for name, p in trajectory.at(0).items() if name not in run.names}
    gradients = StackedGradients(run.network, run.loss, fixed, trajectory.buffers(0), training)
    factors: list[Tensor] = []
    for some, rows, parameters in _by_kind(run, population, at_once):
        moving = _moving(run, some[0])
        theta = _named(run, parameters.to(trajectory.device, trajectory.dtype))
        again = gradients(theta, *population.rows(rows))
        norms = torch.stack([rows_of(again[name]).double().norm(dim=1).cpu() for name in moving], 1)
        recorded = torch.stack([run.step(k).norms.double()[[run.names.index(name) for name in moving]] for k in some])
        factor = recorded.norm(dim=1) / norms.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        apart = (recorded - factor[:, None] * norms).norm(dim=1)
        odd = (apart > ALIKE * recorded.norm(dim=1)).nonzero().flatten()
        if len(odd):
            raise RuleError(
                f"The gradient of step {some[int(odd[0])]} is not that of the mean of the recorded loss over its "
                "batch, times a number: another loss was minimised, single entries were clipped, or passes were "
                "weighed otherwise than by their sizes. Record the loss that is minimised, and clip all gradients "
                "together or not at all."
            )
        factors.append(factor[recorded.norm(dim=1) > 0])
    together = torch.cat(factors)
    if not len(together):
        return 1.0
    middle = float(together.median())
    if float((together / middle - 1).abs().max()) > ALIKE:
        raise RuleError(
            "Gradients were multiplied by factors that change from step to step, from "
            f"{float(together.min()):.3g} to {float(together.max()):.3g} (clipping, class weights, or a loss that is "
            "summed over batches of changing sizes), and that of another batch is not known. Train with a mean loss "
            "and without clipping."
        )
    return 1.0 if abs(middle - 1) <= ALIKE else middle


def _by_kind(run: Run, population: Population, at_once: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Recorded steps with batches of one size and the same parameters moving, their samples, and their parameters."""
    for a in range(0, len(run), at_once):
        b = min(a + at_once, len(run))
        # Steps that were not stored are computed again from those before, so all of a stretch are asked for at once.
        parameters = run.trajectory(a, b - 1)
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for k in range(a, b):
            if _moving(run, k):
                alike.setdefault((len(population.of_step(run.step(k))), tuple(_moving(run, k))), []).append(k)
        for some in alike.values():
            rows = torch.stack([population.of_step(run.step(k)) for k in some])
            yield some, rows, torch.stack([parameters[k - a] for k in some])


def _named(run: Run, vectors: Tensor) -> Tree:
    """Parameter vectors, with shape (S, P), as stacked tensors by name."""
    pieces = vectors.split([shape.numel() for shape in run.shapes], 1)
    return {name: piece.reshape(len(vectors), *shape)
            for name, piece, shape in zip(run.names, pieces, run.shapes, strict=True)}
