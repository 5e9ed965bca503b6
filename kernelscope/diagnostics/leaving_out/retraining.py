r"""The recorded network, trained again on subsets of its samples.

What leaving samples out does is a fact that can be measured: train without them. The recipe of the run (its rule, its
rates, its number of steps) is followed on each subset, by many networks at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from ...arguments import as_choice, as_count, as_seed, as_switch, what_came
from ...decomposition.query_side import QuerySide
from ...decomposition.questions import as_queries, checked_memory, checked_place, checked_run
from ...decomposition.stochastic.derivatives import Tree
from ...decomposition.stochastic.ensemble import side_of, trained_in
from ...decomposition.stochastic.population import population_of
from ...decomposition.stochastic.recipe import ALIKE, recipe_of
from ...decomposition.stochastic.sampling import sampling_of
from ...decomposition.stochastic.stacked import train
from ...errors import DataError, NonFiniteError, OutOfBudget, RuleError
from ...network import MISFITS, cast, undisturbed
from ...progress import counting, telling
from ...result import as_float64
from ...run.run import Run
from .batches import batches_of
from .starts import drawn_start, why_not_drawn
from .subsets import as_members

__all__ = ["Retrained", "Retraining", "retrain"]

#: What is said of losses whose batches are not weighed by their size alone.
WEIGHED = (
    "The recorded loss of a batch is not a fixed multiple of the mean over its samples (class weights, ignored "
    "targets, or a sum), so its recipe tells nothing of batches that the run did not have. Train with a mean loss of "
    "all samples alike."
)
SUMMED = (
    "Gradients were multiplied by {size}, the number of samples of a batch, as by a loss that is summed; of a smaller "
    "batch another factor would have come. Train with a mean loss."
)

#: How many bytes of networks a CPU trains together: with more they leave its cache, and none is done before all are.
TOGETHER = 2**26

#: What a network starts from.
STARTS = ("own", "anew")


class Retrained:
    """Networks that were trained on subsets.

    Attributes:
        parameters: Their final parameters that moved, each with shape (seeds, subsets, *), on the CPU.
        members: Whether each sample is in each subset, with shape (subsets, n).
        seeds: The seeds.
        start: ``"own"`` where all began as the run did, ``"anew"`` where each seed drew its initial parameters.
        batches: How their batches were drawn, in words.
    """

    def __init__(self, setting: Retraining, parameters: Tree, members: Tensor, seeds: list[int], start: str):
        self._setting = setting
        self.parameters = parameters
        self.members = members
        self.seeds = seeds
        self.start = start
        self.batches = setting.batches.said()

    def __len__(self) -> int:
        return len(self.seeds) * len(self.members)

    def __repr__(self) -> str:
        begun = "as the run did" if self.start == "own" else "with parameters drawn anew"
        return (f"Retrained({len(self.members)} subsets, {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, begun "
                f"{begun}, {self._setting.batches.steps} steps each: {self.batches})")

    def state(self, seed: int, subset: int) -> Tree:
        """The parameters of one network by name, for ``load_state_dict(..., strict=False)``.

        Args:
            seed: The place of its seed.
            subset: The place of its subset.
        """
        return {name: t[seed, subset] for name, t in self.parameters.items()}

    def outputs(self, x: Any, output: Any = None, targets: Any = None) -> Tensor:
        """What the networks answer, in float64, with shape (seeds, subsets, q, c).

        Args:
            x: The queries, as :func:`kernelscope.decompose` takes them.
            output: What is asked of them, likewise.
            targets: Their targets, where the output needs them.

        Raises:
            DataError: If the network cannot take such queries, or targets are missing.
        """
        with undisturbed(self._setting.place):
            ask = self._setting.asking(x, output, targets)
            size = max(1, self._setting.together)
            flat = {name: t.flatten(0, 1) for name, t in self.parameters.items()}
            parts = [ask({name: t[a:a + size].to(self._setting.place) for name, t in flat.items()})
                     for a in range(0, len(self), size)]
        return torch.cat(parts).unflatten(0, (len(self.seeds), len(self.members)))


class Asking:
    """What networks answer to some queries.

    Args:
        setting: The networks.
        side: The queries.
        buffers: The buffers they are read with.
        words: What is asked of them, in words.
    """

    def __init__(self, setting: Retraining, side: QuerySide, buffers: Tree, words: str):
        self.side, self.buffers, self.words, self._setting = side, buffers, words, setting

    @property
    def names(self) -> list[str]:
        """A word for each number that is asked of a query."""
        return self.side.functional.names

    def __len__(self) -> int:
        """How many numbers are asked of all queries."""
        return len(self.side) * len(self.names)

    def known_among(self, inputs: tuple[Tensor, ...]) -> int:
        """How many of the queries are among these samples, entry by entry."""
        found = torch.zeros(len(self.side), dtype=torch.bool)
        for i in range(len(self.side)):
            same = [(t == x[i]).reshape(len(t), -1).all(1) for t, x in zip(inputs, self.side.inputs, strict=True)]
            found[i] = bool(torch.stack(same).all(0).any())
        return int(found.sum())

    def one(self, theta: Tree) -> Tensor:
        """The answers of one network, with shape (q, c)."""
        side = self.side
        surroundings = self._setting.recipe.gradients.surroundings
        return side.functional(side.network({**surroundings, **theta}, self.buffers, side.inputs),
                               side.functional.side)

    def __call__(self, theta: Tree) -> Tensor:
        """The answers of stacked networks in float64, with shape (S, q, c)."""
        with torch.no_grad():
            try:
                return as_float64(vmap(self.one)(theta))
            # A function of the user's own may be one that torch.func cannot vectorise.
            except MISFITS:
                rows = len(next(iter(theta.values())))
                return as_float64(torch.stack([self.one({name: t[s] for name, t in theta.items()})
                                               for s in range(rows)]))


class Retraining:
    """How a run is trained again on subsets.

    Args:
        run: The run.
        dtype: The precision to train in.
        place: Where to train.
        memory: About how many bytes may be used.
        sampling: How batches were drawn, where the run does not tell.

    Raises:
        DataError: If it cannot be trained again, with the reason, as :func:`recipe_of` and its kin raise.
        ModelError: Likewise.
        RuleError: Likewise.
    """

    def __init__(self, run: Run, dtype: torch.dtype, place: torch.device, memory: int, sampling: str | None = None):
        self.run, self.dtype, self.place = run, dtype, place
        unseen = (~run.samples.seen).nonzero().flatten()
        if len(unseen):
            raise DataError(f"Subsets are drawn of all {run.size} training samples, and training never drew "
                            f"{len(unseen)} of them, the first {run.samples.ids[int(unseen[0])]}, so their content is "
                            "unknown. Record with a Subset of those that are drawn, or train for an epoch or more.")
        self.population = population_of(run, None, dtype, place)
        if not len(self.population):
            raise DataError("The run holds no training sample to leave out. Record with the training set.")
        self.recipe = recipe_of(run, self.population, dtype, place, memory)
        recorded = [self.population.of_step(run.step(k)) for k in range(len(run))]
        self.batches = batches_of(sampling_of(recorded, len(self.population), sampling), recorded)
        self._check_mean()
        self.why_not_anew = why_not_drawn(run, self.recipe)
        rows = self.population.rows(torch.arange(min(self.batches.size, len(self.population))))
        size = sum(t.nbytes for t in self.recipe.start.values())
        # The parameters, their momentum, the states behind a preconditioner, and what a step makes of them.
        each = self.recipe.gradients.bytes_per_network(self.recipe.start, *rows) + 6 * size
        self.together = max(1, min(memory, TOGETHER if place.type == "cpu" else 2**31) // max(each, 1))

    def _check_mean(self) -> None:
        """Whether the loss of any batch is the same multiple of the mean over its samples.

        Raises:
            RuleError: If it is not, so that other batches than those recorded would have been weighed otherwise.
        """
        n, size, gradients = len(self.population), self.batches.size, self.recipe.gradients
        if size > 1 and abs(gradients.factor / size - 1) <= ALIKE:
            raise RuleError(SUMMED.format(size=size))
        source = torch.Generator().manual_seed(0)
        theta = {**gradients.surroundings, **self.recipe.start}
        ratios = []
        for count in 8 * (min(size, n), min(max(size // 2, 1), n)):
            inputs, targets = self.population.rows(torch.randperm(n, generator=source)[:count])
            outputs = self.run.network(theta, gradients.buffers, inputs)
            each = self.run.loss(outputs, targets).double().mean()
            ratios.append(self.run.loss.mean(outputs, targets).double() / each)
        found = torch.stack(ratios).detach()
        found = found[found.isfinite()]
        if len(found) and float((found - found.median()).abs().max()) > ALIKE * float(found.median().abs()):
            raise RuleError(WEIGHED)

    def asking(self, x: Any, output: Any, targets: Any) -> Asking:
        """The queries, to be put to networks.

        Raises:
            DataError: If the network cannot take them.
        """
        queries = cast(as_queries(x, tuple(self.run.samples.inputs)), self.dtype, self.place)
        if not len(queries[0]):
            raise DataError("There is no query to ask trained networks about. Pass at least one.")
        word = "outputs" if output is None else f"output {output}" if isinstance(output, int) else \
            output if isinstance(output, str) else getattr(output, "__name__", "output")
        return Asking(self, *side_of(self.run, queries, output, targets, self.dtype, self.place), word)

    def each(self, members: Tensor, seeds: Sequence[int], start: str) -> Iterator[tuple[list[tuple[int, int]], Tree]]:
        """Trains a network for each seed and subset, and gives them some at a time.

        Args:
            members: The subsets.
            seeds: The seeds.
            start: ``"own"`` or ``"anew"``.

        Yields:
            The places of seed and subset of each network, and their stacked final parameters.

        Raises:
            NonFiniteError: If training on a subset ends at NaN or infinite parameters.
        """
        groups: dict[int, list[tuple[int, int]]] = {}
        # All seeds of a subset come one after the other, so that what was done of it is soon all of it.
        for j, size in enumerate(members.sum(1).tolist()):
            for s in range(len(seeds)):
                groups.setdefault(size, []).append((s, j))
        starts = [self.recipe.start if start == "own" else drawn_start(self.run, self.recipe, seed) for seed in seeds]
        chunks = [group[i * len(group) // count:(i + 1) * len(group) // count]
                  for group in groups.values() for count in [-(-len(group) // self.together)] for i in range(count)]
        with counting(len(chunks) * len(self.recipe), "retrain", "step") as done:
            for chunk in chunks:
                begun = {name: torch.stack([starts[s][name] for s, _ in chunk]) for name in self.recipe.start}
                theta = train(self.recipe, self.population, self._rows(chunk, members, seeds, done),
                              start=begun)
                lost = next((i for i in range(len(chunk))
                             if not all(bool(t[i].isfinite().all()) for t in theta.values())), None)
                if lost is not None:
                    s, j = chunk[lost]
                    raise NonFiniteError(f"Training on subset {j} with seed {seeds[s]} ended at NaN or infinite "
                                         "parameters. Train with a smaller learning rate.")
                yield chunk, theta

    def _rows(self, chunk: list[tuple[int, int]], members: Tensor, seeds: Sequence[int], done: Any) -> Iterator[Tensor]:
        held = [self.batches.of(members[j].nonzero().flatten(), seeds[s], j) for s, j in chunk]
        if self.batches.scheme == "everything":
            # The same tensor at each step, which is gathered once.
            rows = torch.stack([next(batches) for batches in held])
            for _ in range(self.batches.steps):
                yield rows
                done(1)
            return
        for batch in zip(*held, strict=True):
            yield torch.stack(batch)
            done(1)


def retrain(
    run: Run,
    subsets: Any,
    *,
    seeds: int | Sequence[int] = 1,
    start: str = "own",
    sampling: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
) -> Retrained:
    r"""Trains the recorded network again on subsets of its samples, by the recorded recipe.

    .. math:: \theta^S_{k+1} = \text{rule}_k\Big(\theta^S_k, \tfrac1{|B_k|}\sum_{i \in B_k} \nabla\ell_i\Big), \qquad
              B_k \subseteq S

    Each network takes **as many steps** as the run did, with the rates of its steps. A run that took all samples at
    each step takes all of the subset; one of batches draws them anew from the subset in the way in which it had drawn
    them, as large as they were, so that there are more epochs over fewer samples. A run tells what its loop did: a
    limit for clipping that none of its gradients reached cannot be known, and is not used on subsets either.

    Args:
        run: The recorded run, from its start on.
        subsets: For each subset the places of its samples, or a table of True and False with shape (subsets, n).
        seeds: How many seeds, or a list of them. A seed draws batches, and with ``start="anew"`` initial parameters.
        start: ``"own"``: all begin with the parameters that the run began with. ``"anew"``: those of a seed are drawn
            by the ``reset_parameters`` of the modules.
        sampling: How batches were drawn, where the run does not tell: ``"reshuffling"``, ``"independent"`` or
            ``"replacement"``.
        dtype: The precision; that of the run if not given.
        device: Where to train; where the model was when it was recorded or loaded, if not given.
        memory: About how many bytes may be used, as a number or as ``"1GB"``; it sets how many train together.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Retrained` networks.

    ``Ctrl-C`` keeps the subsets that were trained with all seeds, and says how many; ``members`` says which.

    Raises:
        DataError: If subsets are not of its samples, or another seed would change nothing.
        ModelError: If the network draws random numbers, mixes samples or writes buffers in training, or initial
            parameters cannot be drawn anew.
        RuleError: If its optimizer, or what its loop did to gradients, cannot be done again.
        OutOfBudget: If the parameters of all networks take more than ``memory``.
        NonFiniteError: If a training diverges.

    References:
        "Datamodels: Predicting Predictions from Training Data" (Ilyas et al., 2022), section 2.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.randn(8, 3); y = x @ torch.ones(3, 1)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> without_the_first = ks.retrain(recording.run, [range(8), range(1, 8)])
        >>> without_the_first.outputs(torch.ones(1, 3)).shape                # seeds, subsets, queries, outputs
        torch.Size([1, 2, 1, 1])
        >>> torch.allclose(without_the_first.state(0, 0)["weight"], model.weight.detach(), atol=1e-5)
        True
    """
    run = checked_run(run)
    dtype, memory = trained_in(run, dtype), checked_memory(memory)
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    quiet = None if progress is None else as_switch(progress, "progress")
    as_choice(start, "start", STARTS)
    listed = as_seeds(seeds)
    with undisturbed(place), telling(quiet):
        members = as_members(subsets, run.size)
        setting = Retraining(run, dtype, place, memory, sampling)
        check_seeds(setting, len(listed), start)
        held = len(listed) * len(members) * sum(t.nbytes for t in setting.recipe.start.values())
        if held > memory:
            raise OutOfBudget(f"The parameters of {len(listed) * len(members)} networks take {held / 2**20:.0f} MiB, "
                              f"and memory is {memory / 2**20:.0f} MiB. Pass more memory, or fewer subsets at a time.")
        ends = {name: t.new_empty(len(listed), len(members), *t.shape, device="cpu")
                for name, t in setting.recipe.start.items()}
        done = torch.zeros(len(listed), len(members), dtype=torch.bool)
        try:
            for places, theta in setting.each(members, listed, start):
                s, j = torch.tensor(places).T
                for name, t in theta.items():
                    ends[name][s, j] = t.cpu()
                done[s, j] = True
        except KeyboardInterrupt:
            if not keeps(done, 1, 3):
                raise
    whole = done.all(0)
    return Retrained(setting, {name: t[:, whole] for name, t in ends.items()}, members[whole], listed, start)


def keeps(done: Tensor, least: int, level: int) -> bool:
    """Says how much is kept of the work that ``Ctrl-C`` broke off, and whether it is enough to say something.

    Args:
        done: Whether each network was trained, with shape (seeds, subsets).
        least: With how few subsets, trained with all seeds, something can be said.
        level: How many calls above is the line that is told of.
    """
    whole = int(done.all(0).sum())
    kept = f"{whole} subsets were trained with all seeds and are kept" if whole >= least else (
        f"fewer than {least} subsets were trained with all seeds, and nothing of them is kept")
    warnings.warn(f"Ctrl-C was pressed after {int(done.sum())} of {done.numel()} networks: {kept}.", stacklevel=level)
    return whole >= least


def as_seeds(seeds: Any) -> list[int]:
    """The seeds, from their number or from a list of them.

    Raises:
        DataError: If there are none, or one is there twice.
    """
    if isinstance(seeds, list | tuple | range):
        found = [as_seed(seed, "a seed") for seed in seeds]
        if not found or len(set(found)) < len(found):
            raise DataError(f"seeds must be different numbers, at least one; {what_came(seeds)} came.")
        return found
    return list(range(as_count(seeds, "seeds", 1)))


def check_seeds(setting: Retraining, count: int, start: str) -> None:
    """Whether initial parameters can be drawn, if they are to be, and several seeds differ.

    Raises:
        DataError: If they do not.
    """
    if start == "anew" and setting.why_not_anew:
        raise DataError(f"Initial parameters cannot be drawn anew: {setting.why_not_anew}. Pass start=\"own\".")
    if start == "own" and count > 1 and not setting.batches.random:
        raise DataError(f"With the run's own start and {setting.batches.said()} nothing is drawn, so {count} seeds "
                        'would end at the same parameters. Pass seeds=1, or start="anew".')
