r"""EigenPro: preconditioned stochastic gradient descent in the kernel's space, with a model size of one's choice.

A step on a batch B of m points goes :math:`f \leftarrow f - \gamma P(\frac1m K(\cdot, B)\, w (f(B) - y) + \lambda f)`.
Where every point is a center that is a change of coefficients (EigenPro 2). Where centers are free it leaves their
span, and is brought back by a projection after each step (EigenPro 3) or after several (EigenPro 4).

What makes it end well is measured, not assumed. The step size is one over the largest eigenvalue that the
preconditioner leaves on batches of points it was not made from, at which a step on any batch shortens the distance to
whatever fits this batch. Steps go on in stages, which grow longer; the noise of constant steps is averaged out over
parts of a stage, and a pass at its end finds the best machine in the span of the last one, the averages and the best so
far. So the objective never rises from stage to stage, and a stage that ran away is taken back and repeated with half
the step.

References:
    | Kernel machines that adapt to GPUs for effective large batch training (Ma and Belkin, 2019; EigenPro 2)
    | Toward Large Kernel Models (Abedsoltan et al., 2023; EigenPro 3)
    | On the Nystrom approximation for preconditioning in kernel machines (Abedsoltan et al., 2024)
    | Fast training of large kernel models with delayed projections (Abedsoltan et al., 2024; EigenPro 4)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..arguments import as_count, as_part, as_seed, what_came
from ..errors import DataError
from ..progress import counting
from .base import Cost, Solver
from .candidates import Averages, best_of
from .flight import Flight
from .nystrom import PART, Nystrom
from .orthonormal import check_block
from .problem import Problem
from .projection import Projection
from .solution import Solution
from .watch import State, Watch

#: Points of the preconditioner's sample; more where the problem is large.
SAMPLE, LARGE_SAMPLE, LARGE = 1000, 2000, 1e9

#: How many batches the step size is measured on.
LOOKS = 3

#: A batch is one of so many parts of the critical one, at which half of each step is lost.
CRITICAL = 16

#: The smallest and the largest batch that are chosen without being asked for.
LEAST, MOST = 256, 4096

#: How often a stage that ran away is repeated with half the step.
RETREATS = 20

#: How many epochs and stages most problems take, for estimates.
EPOCHS, STAGES = 8, 4

#: As how many multiplications a kernel value counts.
ENTRY = 4

#: The largest part of its gain that a stage is taken to leave to the next one.
STEADY = 0.95

#: The most epochs of a stage.
LONGEST = 4

#: By how much a batch's error may exceed that of a machine that is nought before the stage is called off.
RUNAWAY = 100.0


@dataclass(frozen=True, eq=False)
class Plan:
    """What the steps are made of: fixed before the first one.

    Attributes:
        batch: Points of a step.
        delay: Steps between two projections.
        nought: The objective of each column where the machine is nought.
        floor: What rounding leaves of each column's objective where it is nought.
    """

    batch: int
    delay: int
    nought: Tensor
    floor: Tensor


@dataclass(eq=False)
class Course:
    """Where the stages stand.

    Attributes:
        best: The best coefficients so far, with shape (p, m).
        offset: What is added to each column.
        objective: Their objective.
        gain: By how much the last stage lowered it.
        rate: The step size of each column.
        pull: The coefficients of half the gradient at the best; ``None`` before the first stage.
        epochs: How many epochs of steps were made.
        passes: How many times all points were read.
        stages: How many stages ended.
        settled: Whether the last of them lowered the objective by next to nothing.
    """

    best: Tensor
    offset: Tensor
    objective: Tensor
    gain: Tensor
    rate: Tensor
    pull: Tensor | None = None
    epochs: int = 0
    passes: float = 0.0
    stages: int = 0
    retreats: int = 0
    history: list[float] = field(default_factory=list)
    settled: bool = False


class EigenPro(Solver):
    """Solves by EigenPro 2, 3 or 4.

    Args:
        variant: 2 where every point is a center; 3 projects after each step, 4 after several; ``None`` is 2 or 4.
        sample: Points that the preconditioner is made from.
        level: Directions that it makes smaller; as many as the sample can tell if it is ``None``.
        batch: Points of a step; by the critical batch size and the memory if it is ``None``.
        epochs: After how many epochs it is given up.
        tolerance: It ends after a stage that lowered the objective by less than this part of it, if as the gains of
            stages fell the ones to come would lower it by less than twice as much.
        seed: Of the sample and of the order of the points.

    Example:
        >>> from kernelscope.solvers import EigenPro
        >>> EigenPro()
        EigenPro()
    """

    def __init__(self, variant: int | None = None, *, sample: int | None = None, level: int | None = None,
                 batch: int | None = None, epochs: int = 64, tolerance: float = 2e-3, seed: int = 0):
        if isinstance(variant, bool) or variant not in (None, 2, 3, 4):
            raise DataError(f"variant must be 2, 3, 4 or None, which chooses; {what_came(variant)} came. Leave it out "
                            "if in doubt.")
        chosen = {"sample": sample, "level": level, "batch": batch}
        self.sample, self.level, self.batch = (None if value is None else as_count(value, name, 1)
                                               for name, value in chosen.items())
        self.variant, self.epochs = variant, as_count(epochs, "epochs", 1)
        self.tolerance, self.seed = as_part(tolerance, "tolerance", "2e-3"), as_seed(seed)

    def __repr__(self) -> str:
        return f"EigenPro({'' if self.variant is None else self.variant})"

    def cost(self, problem: Problem) -> Cost:
        n, p = problem.shape
        m, item, s = problem.outputs * len(problem.ridge), problem.y.dtype.itemsize, self._sample_size(problem)
        q = min(s, self.level or s // PART)
        # Every step multiplies by the machine and by the directions; what is looked at after a stage has more columns.
        steps = EPOCHS * n * p * (2.0 * q + 4.0 * m + 8.0 * max(m, ENTRY))
        compared = m * (Averages(m).parts + 1.0)
        looks = STAGES * n * p * 4.0 * (m + compared)
        held, prepared = (0.0, 0.0) if problem.square else Projection.cost(problem)
        # Where all points are centers, the values of what is compared are kept: block by block, and then joined.
        kept = 3.0 if problem.square else 1.0
        memory = item * (p * (kept * compared + 8.0 * m + q) + 2.0 * s * s) + held
        return Cost(steps + looks + 20.0 * s**3 + prepared, memory, EPOCHS + STAGES)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        watch = Watch() if watch is None else watch
        if self.variant == 2 and not problem.square:
            raise DataError(
                "EigenPro 2 fits machines whose centers are all the points. Leave centers out, or take variant 3 or 4, "
                "or None, for free centers."
            )
        # What an intercept takes up of the targets is kept out of sums, where it would be their rounding.
        mean = problem.mean() if problem.intercept else torch.zeros_like(problem.y[0])
        problem = replace(problem, y=problem.y - mean) if problem.intercept else problem
        ridges = torch.tensor(problem.ridge, dtype=problem.y.dtype, device=problem.y.device)
        ridges = ridges.repeat_interleave(problem.outputs)
        projection = None if problem.square else Projection(problem)
        plan, nystrom = self._prepared(problem, projection, ridges)
        course = (self._begin(problem, plan, nystrom, projection, ridges) if watch.kept is None else
                  _restored(watch.kept))
        notes = [] if projection is None else list(projection.notes)
        with counting(self.epochs, "fit", "epoch") as done:
            done(course.epochs)
            while course.epochs < self.epochs and not course.settled:
                before, length = course.objective, min(1 + course.stages // 3, LONGEST, self.epochs - course.epochs)
                went = self._stage(problem, plan, nystrom, projection, ridges, course, length)
                done(length if went else 0)
                if not went and course.retreats > RETREATS:
                    notes.append("Steps kept running away from the machine, so the best one so far is given. Take the "
                                 "solver 'cg' or 'direct'.")
                    break
                course.settled = self._settles(plan, course, before) if went else False
                if watch.heard(self._state(problem, course, mean)):
                    notes.append("Stopped early, as the watch asked.")
                    break
            if course.epochs >= self.epochs and not course.settled:
                notes.append(f"After {self.epochs} epochs the objective still fell. Raise epochs, or finish by 'cg'.")
        alpha, intercepts = self._coefficients(problem, course, mean)
        objective = tuple(float(part.sum()) for part in course.objective.view(len(problem.ridge), -1))
        return Solution(alpha, intercepts, objective, course.passes, tuple(course.history), tuple(notes))

    # -- before ------------------------------------------------------------------------------------------------------

    def _sample_size(self, problem: Problem) -> int:
        n, p = problem.shape
        return min(n, self.sample or (LARGE_SAMPLE if n * p > LARGE else SAMPLE))

    def _prepared(self, problem: Problem, projection: Projection | None, ridges: Tensor) -> tuple[Plan, Nystrom]:
        n, p = problem.shape
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        sample = order[:self._sample_size(problem)]
        nystrom = Nystrom(problem, projection, sample, self.level, ridges)
        batch = min(n, self.batch or self._critical(problem, projection, nystrom, ridges))
        delay = 1
        if projection is not None and self.variant != 3:
            # Centers beside cost as much as half of them would among the own ones. A projection takes some products for
            # each center and output; a kernel value costs many.
            delay = max(1, round(projection.width / batch * min(1.0, len(ridges) / ENTRY)))
        nought = _mean_squares(problem)
        return Plan(batch, delay, nought, 64 * torch.finfo(problem.y.dtype).eps * nought), nystrom

    def _drawn(self, problem: Problem, m: int, turn: int) -> Tensor:
        """The points of a batch of m that weigh something, as many as there are in most of them."""
        every = torch.arange(len(problem.x)) if problem.weights is None else (problem.weights > 0).nonzero()[:, 0].cpu()
        generator = torch.Generator().manual_seed((self.seed + turn) % 2**63)
        return every[torch.randperm(len(every), generator=generator)[:math.ceil(m * len(every) / len(problem.x))]]

    def _critical(self, problem: Problem, projection: Projection | None, nystrom: Nystrom, ridges: Tensor) -> int:
        """The batch from which on a larger one would not allow a step that is as much larger."""
        m = min(LEAST, len(problem.x))
        some = self._drawn(problem, m, 1)
        batch = problem.x.chosen(some.tolist())
        own = problem.kernel.diagonal(batch).to(problem.y.dtype)
        # On a batch of this size the largest eigenvalue holds the diagonal's part too.
        largest = nystrom.largest(problem, projection, some, m)
        seen = nystrom.seen(problem.block(batch))
        left = (own[:, None] - seen.square() @ nystrom.shares).clamp(min=0.0).max(0).values
        next_ = (largest - left / m).clamp(min=0.1 * largest) + ridges
        critical = int(min(float((left / next_.clamp(min=torch.finfo(left.dtype).tiny)).min()) + 1, 2.0**40))
        return max(LEAST, min(critical // CRITICAL, MOST, problem.height()))

    def _begin(self, problem: Problem, plan: Plan, nystrom: Nystrom, projection: Projection | None,
               ridges: Tensor) -> Course:
        largest = torch.stack([
            nystrom.largest(problem, projection, self._drawn(problem, plan.batch, turn), plan.batch)
            for turn in range(2, LOOKS + 2)]).max(0).values
        return Course(problem.y.new_zeros(len(problem.z), len(ridges)), torch.zeros_like(ridges), plan.nought,
                      plan.nought, 1 / (largest + ridges), history=[1.0])

    def _settles(self, plan: Plan, course: Course, before: Tensor) -> bool:
        """Whether the last stage lowered the objective by next to nothing, and so will those to come."""
        gain, little = before - course.objective, self.tolerance * course.objective + plan.floor
        # If each stage gains the same part of what the one before it did, this is still to come.
        part = (gain / course.gain.clamp(min=torch.finfo(gain.dtype).tiny)).clamp(min=0.0, max=STEADY)
        course.gain = gain
        return course.stages > 1 and bool(((gain <= little) & (gain * part / (1 - part) <= 2 * little)).all())

    # -- stages ------------------------------------------------------------------------------------------------------

    def _stage(self, problem: Problem, plan: Plan, nystrom: Nystrom, projection: Projection | None,
               ridges: Tensor, course: Course, epochs: int) -> bool:
        """Some epochs of steps from the best machine; says whether they were kept."""
        n, _ = problem.shape
        # A machine that is nought has this error, up to an offset.
        limit = RUNAWAY * plan.nought + plan.floor
        change, averages = torch.zeros_like(course.best), Averages(course.best.shape[1])
        flight = Flight(problem, nystrom, change, course.pull, ridges, course.rate)
        fine, flown = True, 0
        batches = [b for e in range(epochs) for b in self._order(n, course.epochs + e).split(plan.batch)]
        for i, numbers in enumerate(batches):
            error = flight.step(numbers)
            flown += 1
            fine = bool((error <= limit).all())
            if not fine:
                check_block(problem.block(problem.x.chosen(numbers.tolist())), numbers)
                break
            if flown == plan.delay or i == len(batches) - 1:
                change = flight.alpha if projection is None else flight.alpha + projection.solve(flight.gathered)
                flown = 0
                averages.add(change, i / len(batches))
                if i < len(batches) - 1:
                    flight = Flight(problem, nystrom, change, course.pull, ridges, course.rate)
        course.passes += epochs
        if fine and bool(change.isfinite().all()):
            machines = [change, *averages.means()] + ([course.best] if course.stages else [])
            found = best_of(problem, projection, machines, ridges)
            course.passes += 1
            if bool((found.objective <= course.objective * (1 + 1e-6) + plan.floor).all()):
                course.best, course.offset, course.objective = found.alpha, found.offset, found.objective
                course.pull = found.pull
                course.epochs += epochs
                course.stages += 1
                tiny = torch.finfo(found.start.dtype).tiny
                course.history.append(float((found.residual / found.start.clamp(min=tiny)).max()))
                return True
        course.rate = course.rate / 2
        course.retreats += 1
        return False

    def _order(self, n: int, epoch: int) -> Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed((1000 * self.seed + epoch + 2) % 2**63))

    # -- what is told ------------------------------------------------------------------------------------------------

    @staticmethod
    def _coefficients(problem: Problem, course: Course, mean: Tensor) -> tuple[Tensor, Tensor]:
        p, m = course.best.shape
        r = len(problem.ridge)
        return course.best.view(p, r, m // r).movedim(1, 0), mean + course.offset.view(r, m // r)

    def _state(self, problem: Problem, course: Course, mean: Tensor) -> State:
        objective = tuple(float(part.sum()) for part in course.objective.view(len(problem.ridge), -1))
        return State(course.passes, course.history[-1], objective, lambda: self._coefficients(problem, course, mean),
                     lambda: _kept(course))


def _mean_squares(problem: Problem) -> Tensor:
    """The mean square of each column's targets: the objective of a machine that is nought."""
    return problem.weighed(problem.y).mul(problem.y).mean(0, dtype=torch.float64).repeat(len(problem.ridge))


def _kept(course: Course) -> dict[str, Tensor]:
    counts = torch.tensor([course.epochs, course.passes, course.stages, course.retreats, course.settled],
                          dtype=torch.float64)
    held = {"best": course.best, "offset": course.offset, "objective": course.objective, "gain": course.gain,
            "rate": course.rate, "counts": counts, "history": torch.tensor(course.history, dtype=torch.float64)}
    return held if course.pull is None else {**held, "pull": course.pull}


def _restored(kept: dict[str, Tensor]) -> Course:
    epochs, passes, stages, retreats, settled = kept["counts"].tolist()
    return Course(kept["best"], kept["offset"], kept["objective"], kept["gain"], kept["rate"], kept.get("pull"),
                  int(epochs), passes, int(stages), int(retreats), kept["history"].tolist(), bool(settled))
