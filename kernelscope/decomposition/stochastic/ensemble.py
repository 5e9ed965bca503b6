r"""Many networks trained as a recorded one was, each on its own draw of the batches.

What a run ended at is one draw of its training noise. An ensemble trains the same network again from the same start,
with other batches drawn in the same way, and has the mean and the spread of what comes out. With ``terms`` it also adds
up, along each seed's own path, the terms of the formula for that mean, so that the difference between what was measured
and what is predicted is taken seed by seed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import stdtrit
from torch import Tensor
from torch.func import vmap

from ...arguments import as_choice, as_count, as_part, as_seed, as_switch, what_came
from ...errors import DataError, NonFiniteError
from ...network import MISFITS, cast, undisturbed
from ...progress import counting, telling
from ...result import Check, CheckRow, Result, as_float64
from ...run.run import Run
from ..output import output_functional
from ..query_side import QuerySide
from ..questions import as_queries, as_targets, checked_memory, checked_place, checked_run, in_order
from ..trajectory import Trajectory
from .derivatives import Tree
from .local_terms import ALL, LocalTerms, Setting
from .population import Population, population_of
from .recipe import Recipe, recipe_of
from .sampling import SCHEMES, Sampling, sampling_of
from .second_order import SecondOrder
from .stacked import train

if TYPE_CHECKING:
    import pandas as pd

#: The terms of a prediction, from the first on: what each word adds to those before it.
UPTO = {"path": ("path",), "curvature": ("path", "curvature"), "noise": ("path", "curvature", "noise", "drift")}

#: Beyond how many standard deviations the recorded run is called odd.
ODD = 4.0

#: How far from the recorded outputs its own batches may lead again, relative to how far training moved them.
AGAIN = 1e-2

#: What to do without second derivatives.
WITHOUT = "Leave out terms=True for the networks alone."


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Result):
    """The outputs of many networks that differ by the batches they drew.

    Attributes:
        outputs: The final outputs of each seed, with shape (S, q, c).
        initial: The outputs that all began with, with shape (q, c).
        recorded: The final outputs of the recorded run, with shape (q, c).
        terms: The terms along each seed's path, each with shape (S, q, c): ``path``, ``curvature``, ``noise``, with
            reshuffling ``drift``, else ``martingale``, and ``variance``; empty where they were not asked for.
        sampling: How batches were drawn.
        output_names: A word for each of the c numbers.
        info: Steps, seeds, seconds, and notes.
    """

    outputs: Tensor
    initial: Tensor
    recorded: Tensor
    terms: dict[str, Tensor]
    sampling: str
    output_names: list[str]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def mean(self) -> Tensor:
        """The mean final outputs, with shape (q, c)."""
        return self.outputs.mean(0)

    @property
    def std(self) -> Tensor:
        """How far single seeds lie from their mean, with shape (q, c)."""
        return self.outputs.std(0)

    @property
    def standard_error(self) -> Tensor:
        """How far the mean may lie from that of all seeds there are, with shape (q, c)."""
        return self.std / len(self) ** 0.5

    def of_queries(self, rows: Tensor) -> Ensemble:
        """The outputs of some of the queries, given by their places."""
        return replace(self, outputs=self.outputs[:, rows], initial=self.initial[rows], recorded=self.recorded[rows],
                       terms={name: term[:, rows] for name, term in self.terms.items()})

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of an interval that holds the expected outputs in this share of cases, each with shape (q, c)."""
        reach = self.quantile(level) * self.standard_error
        return self.mean - reach, self.mean + reach

    def quantile(self, level: float) -> float:
        """How many standard errors an interval of this level reaches to either side: Student's, for so many seeds."""
        return float(stdtrit(len(self) - 1, 0.5 + as_part(level, "level", "0.95") / 2))

    def bias(self, upto: str = "noise", controlled: bool = False) -> tuple[Tensor, Tensor]:
        """By how much the measured change of the outputs exceeds the predicted one, and its standard error.

        Args:
            upto: The last of the terms that are counted: ``"path"``, ``"curvature"`` or ``"noise"``.
            controlled: Whether the martingale, whose mean is zero, is taken off each seed, which narrows the error.

        Returns:
            Two tensors with shape (q, c).

        Raises:
            DataError: If there are no such terms.
        """
        return self._mean_and_error(self._apart(upto, controlled))

    def covered(self, upto: str = "noise", controlled: bool = False, level: float = 0.95) -> float:
        """The share of outputs for which the interval around :meth:`bias` holds 0."""
        bias, error = self.bias(upto, controlled)
        return float((bias.abs() <= self.quantile(level) * error).double().mean())

    def _apart(self, upto: str, controlled: bool) -> Tensor:
        as_choice(upto, "upto", UPTO)
        if not self.terms:
            raise DataError("This ensemble holds no terms to predict from. Make it with ks.ensemble(..., terms=True).")
        predicted = torch.stack([self.terms[name] for name in UPTO[upto] if name in self.terms]).sum(0)
        if as_switch(controlled, "controlled"):
            if "martingale" not in self.terms:
                raise DataError("With reshuffling the batches of an epoch know of each other, and no martingale is "
                                "kept. Leave controlled=False.")
            predicted = predicted + self.terms["martingale"]
        return self.outputs - self.initial - predicted

    def _mean_and_error(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values.mean(0), values.std(0) / len(self) ** 0.5

    def summary(self) -> str:
        """The answer in one sentence."""
        said = (f"Ensemble({len(self)} seeds of {self.info.get('steps')} steps, batches "
                f"{SCHEMES.get(self.sampling, self.sampling)}: the {self.outputs[0].numel()} outputs vary by "
                f"{float(self.std.median()):.3g} (median standard deviation)")
        if self.terms:
            # What has the mean zero is taken off where it is kept: it hides how near the prediction is.
            controlled = "martingale" in self.terms
            path, whole = (float(self.bias(upto, controlled)[0].abs().mean()) for upto in ("path", "noise"))
            said += (f"; the path predicts their mean to {path:.3g}, with curvature and noise to {whole:.3g} (mean "
                     f"error; {self.covered(controlled=controlled):.0%} of 95 % intervals hold 0"
                     f"{', the martingale taken off' if controlled else ''})")
        return f"{said})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and output."""
        import pandas as pd

        columns = {"initial": self.initial, "recorded": self.recorded, "mean": self.mean, "std": self.std,
                   "standard error": self.standard_error}
        if self.terms:
            for upto in UPTO:
                columns[f"bias, {upto}"], columns[f"its error, {upto}"] = self.bias(upto)
        count, width = self.recorded.shape
        places = {"query": [q for q in range(count) for _ in range(width)], "output": self.output_names * count}
        return pd.DataFrame(places | {name: values.flatten().tolist() for name, values in columns.items()})

    def check(self) -> Check:
        """Whether the recorded run could be one of the seeds, and whether the prediction holds."""
        apart = (self.recorded - self.mean).abs()
        far = float((apart / self.std.clamp_min(torch.finfo(self.std.dtype).tiny)).where(apart > 0, 0.0).max())
        rows = [CheckRow("recorded", "pass" if far <= ODD else "warn", far, ODD,
                         f"The recorded run lies up to {far:.3g} standard deviations from the mean of its seeds.")]
        again = self.info.get("again")
        if again is not None:
            rows.append(CheckRow("again", "pass" if again <= AGAIN else "fail", again, AGAIN,
                                 f"Trained again on its own batches the network misses the recorded end by {again:.1e} "
                                 "of what training moved."))
        if self.terms:
            share = self.covered()
            rows.append(CheckRow("covered", "pass" if share >= 0.8 else "warn", share, 0.8,
                                 f"{share:.0%} of the 95 % intervals around measured minus predicted hold 0."))
        return Check(tuple(rows))


def ensemble(
    run: Run,
    x: Any,
    output: Any = None,
    *,
    targets: Any = None,
    seeds: int = 200,
    terms: bool = False,
    sampling: str | None = None,
    data: Any = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
) -> Ensemble:
    """Trains the network of a run many times at once, each time on other batches, and gives what all ended at.

    All begin at the recorded initial parameters and make the recorded steps, with their numbers; only the samples of
    the batches are drawn anew.

    Args:
        run: The recorded run, from its first step on.
        x: The queries, as in :func:`decompose`.
        output: What is explained, as in :func:`decompose`.
        targets: The queries' targets, where the output needs them.
        seeds: How many networks are trained.
        terms: Whether the terms of the second-order formula are added up along each path.
        sampling: How batches are drawn, ``"replacement"``, ``"independent"`` or ``"reshuffling"``; told from the
            recorded batches, if not given.
        data: The training set, ``(inputs, targets)`` or a data set, where the run did not see all of it.
        seed: What the draws begin with.
        dtype: The precision to train in; that of the run, if not given.
        device: Where to compute; where the model was, if not given.
        memory: About how many bytes may be used, as a number or as ``"1GB"``; with less, fewer networks go together.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Ensemble`.

    Raises:
        DataError: If queries, data or options do not fit the run, or nothing is drawn at random in it.
        ModelError: If the network cannot be trained many times at once.
        NonFiniteError: If a seed ends at NaN.
        RuleError: If the optimizer's steps cannot be made again.

    References:
        Formulas I2, b3 and b5 of the theory notes.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> x, y = torch.randn(32, 3), torch.randn(32, 1)
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True)
        >>> with ks.record(model, loader, loss=F.mse_loss) as recording:
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> found = ks.ensemble(recording.run, torch.ones(1, 3), seeds=50)
        >>> found.outputs.shape, found.sampling, found.check().ok
        (torch.Size([50, 1, 1]), 'reshuffling', True)
    """
    begun = time.perf_counter()
    run = checked_run(run)
    seeds, seed, memory = as_count(seeds, "seeds", 2), as_seed(seed), checked_memory(memory)
    terms = as_switch(terms, "terms")
    shown = None if progress is None else as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    dtype = trained_in(run, dtype)
    with undisturbed(place), telling(shown):
        queries = cast(as_queries(in_order(run, x), tuple(run.samples.inputs)), dtype, place)
        if not len(queries[0]):
            raise DataError("An ensemble is asked for the outputs of queries, and none came. Pass at least one.")
        population = population_of(run, data, dtype, place)
        recipe = recipe_of(run, population, dtype, place, memory)
        drawn = _sampling(run, population, sampling)
        side, buffers = side_of(run, queries, output, targets, dtype, place)
        trajectory = Trajectory(run, dtype, place)
        initial, recorded = (as_float64(side.outputs(trajectory.at(k), buffers)[1]) for k in (0, run.stop))
        setting = _setting(recipe, population, drawn, side, buffers, memory)
        if terms:
            recipe.forms()
            SecondOrder(side, run.names).probe(trajectory.at(0), buffers, WITHOUT)
            if drawn.pair:
                some = population.rows(torch.arange(min(len(population), max(drawn.sizes))))
                recipe.gradients.check_bends(recipe.start, *some, WITHOUT)
        together = _together(setting, side, memory, terms)
        own = None if int(population.places.max()) < 0 else [population.of_step(run.step(k)) for k in range(len(run))]
        ends, sums = _train(setting, side, buffers, seeds, seed, together, terms, own)
    outputs = ends if own is None else ends[1:]
    if not bool(torch.isfinite(outputs).all()):
        lost = int((~torch.isfinite(outputs).flatten(1).all(1)).sum())
        raise NonFiniteError(f"{lost} of {seeds} seeds ended at NaN or infinite outputs, so there is no mean of all. "
                             "The recorded run is a lucky one: train with a smaller learning rate.")
    again = None if own is None else _relative(ends[0] - recorded, recorded - initial)
    if own is not None:
        sums = {name: term[1:] for name, term in sums.items()}
    return Ensemble(outputs, initial, recorded, sums, drawn.scheme, side.functional.names, {
        "steps": len(run), "seeds": seeds, "samples": len(population), "seconds": round(time.perf_counter() - begun, 3),
        "together": together, "seed": seed, "dtype": str(dtype).removeprefix("torch."), "again": again,
        "notes": [note for note in (population.note, side.note) if note],
    })


def trained_in(run: Run, dtype: torch.dtype | None) -> torch.dtype:
    """The precision to train in again: that of the run, if none is asked for.

    Raises:
        DataError: If another one than torch.float32 or torch.float64 is asked for.
    """
    if dtype is None:
        return run.dtype if run.dtype in (torch.float32, torch.float64) else torch.float32
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        came = dtype if isinstance(dtype, torch.dtype) else what_came(dtype)
        raise DataError(f"Networks are trained again in torch.float32 or torch.float64; {came} came. Leave dtype out "
                        "to train in the precision of the run.")
    return dtype


def _sampling(run: Run, population: Population, scheme: str | None) -> Sampling:
    if scheme is not None:
        as_choice(scheme, "sampling", [word for word in SCHEMES if word != "fixed"])
    batches = [torch.cat([batch.columns for batch in run.step(k).batches]) for k in range(len(run))]
    found = sampling_of(batches, len(population), scheme)
    if found.scheme == "fixed":
        raise DataError(
            "The batches of this run are the same in each epoch, or hold all samples, so every seed would end where "
            'the run did. Pass sampling="reshuffling" to see what another order would have made of it, or record a run '
            "that draws its batches."
        )
    if found.scheme != "replacement" and max(found.sizes) > len(population):
        raise DataError(f"A batch holds {max(found.sizes)} samples and there are {len(population)}, so none can be "
                        'drawn without a repeat. Pass sampling="replacement".')
    return found


def side_of(run: Run, queries: tuple[Tensor, ...], output: Any, targets: Any, dtype: torch.dtype,
            place: torch.device) -> tuple[QuerySide, Tree]:
    """The queries, what is explained of them, and the buffers they are read with.

    Raises:
        DataError: If the network cannot take such queries.
    """
    trajectory = Trajectory(run, dtype, place)
    buffers = trajectory.buffers(0)
    try:
        final = run.network(trajectory.at(run.stop), buffers, queries)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"The network cannot take these queries ({str(error).strip().splitlines()[0][:200]}). Its inputs in "
            f"training had the shapes {[tuple(t.shape[1:]) for t in run.samples.inputs]} without the leading axis; the "
            f"queries have {[tuple(q.shape) for q in queries]} with it."
        ) from error
    given = cast(as_targets(targets, len(queries[0]), run), dtype, place)
    functional = output_functional(output, final, given, run, len(queries[0])).to(dtype)
    side = QuerySide(run.network, queries, functional, run.names)
    side.probe(trajectory.at(0), buffers)
    return side, buffers


def _setting(recipe: Recipe, population: Population, drawn: Sampling, side: QuerySide, buffers: Tree,
             memory: int) -> Setting:
    surroundings = recipe.gradients.surroundings

    def explained(theta: Tree) -> Tensor:
        return side.functional(side.network({**surroundings, **theta}, buffers, side.inputs), side.functional.side)

    x, y = population.rows(torch.arange(1))
    per_sample = recipe.gradients.bytes_per_network(recipe.start, x, y)
    block = max(1, min(len(population), memory // (4 * max(per_sample, 1))))
    return Setting(recipe, population, drawn, explained, len(population) <= ALL, block)


def _together(setting: Setting, side: QuerySide, memory: int, terms: bool) -> int:
    """How many networks go through a step together."""
    recipe, population = setting.recipe, setting.population
    batch = torch.arange(max(setting.sampling.sizes)) % len(population)
    size = sum(t.nbytes for t in recipe.start.values())
    # The parameters, their momentum, the states behind a preconditioner, and what a step makes of them.
    each = recipe.gradients.bytes_per_network(recipe.start, *population.rows(batch)) + 6 * size
    if terms:
        all_of_them = population.rows(torch.arange(setting.block))
        each += recipe.gradients.bytes_per_network(recipe.start, *all_of_them)
        directions = len(population) if setting.exact else 4
        one = population.rows(torch.arange(1))
        # For each direction: itself and what is made of it, and the queries' forward with two derivatives.
        forward = recipe.gradients.bytes_per_network(recipe.start, *one) * len(side)
        each += directions * (6 * size + 4 * forward)
    return max(1, memory // max(each, 1))


def _train(setting: Setting, side: QuerySide, buffers: Tree, seeds: int, seed: int, together: int, terms: bool,
           own: list[Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs of all seeds, after those of the recorded batches where they are known, and the terms likewise."""
    rows = seeds + (own is not None)
    chunks = -(-rows // together)
    cuts = [(i * rows // chunks, (i + 1) * rows // chunks) for i in range(chunks)]
    ends: list[Tensor] = []
    sums: list[dict[str, Tensor]] = []
    with counting(len(setting.recipe) * chunks, "ensemble", "step") as done:
        for start, stop in cuts:
            # The same draws for each part, of which it takes its own: what comes out does not hang on the memory.
            generator = torch.Generator().manual_seed(seed)
            drawn = setting.sampling.each(seeds, generator)
            if own is not None:
                drawn = (torch.cat([mine[None], other]) for mine, other in zip(own, drawn, strict=True))
            probes = torch.Generator().manual_seed((seed + 7919 * (start + 1)) % 2**63)
            watch = LocalTerms(setting, probes) if terms else None
            theta = train(setting.recipe, setting.population, _told((rows[start:stop] for rows in drawn), done), watch)
            ends.append(_outputs(setting, side, buffers, theta))
            sums.append({} if watch is None else {name: as_float64(term) for name, term in watch.sums.items()})
    return torch.cat(ends), {name: torch.cat([part[name] for part in sums]) for name in sums[0]}


def _told(batches: Any, done: Any) -> Any:
    for rows in batches:
        yield rows
        done(1)


def _outputs(setting: Setting, side: QuerySide, buffers: Tree, theta: Tree) -> Tensor:
    try:
        return as_float64(vmap(setting.outputs)(theta))
    # A function of the user's own may be one that torch.func cannot vectorise.
    except MISFITS:
        pass
    surroundings = setting.recipe.gradients.surroundings
    seeds = len(next(iter(theta.values())))
    return as_float64(torch.stack([
        side.outputs({**surroundings, **{name: t[s] for name, t in theta.items()}}, buffers)[1] for s in range(seeds)]))


def _relative(apart: Tensor, moved: Tensor) -> float:
    return float(apart.norm() / moved.norm().clamp_min(torch.finfo(moved.dtype).tiny))
