r"""A generated image split over sampling stage x training noise level x training image.

The final way down the noise levels is held fixed. Its noisy points :math:`(x_k, \sigma_k)` are queries like any other,
so one exact decomposition gives what each draw of training added to each stage's denoised point, in D-space:
:math:`D = a\,y + b\,o`, and contributions to D are b times those to the output o.

Through the sampler, the sample is one function of the parameters, and its gradient the sum of those by a copy of them
for each stage; what a stage adds has gone through all later ones, and stages add up to the change of the sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_whole, what_came
from ...decomposition.cells import Cells
from ...decomposition.exact import booked
from ...decomposition.questions import as_words, checked_memory, checked_run
from ...decomposition.rollout import Rollout
from ...errors import DataError, NonFiniteError, OutOfBudget
from ...network import Parameters, cast, undisturbed
from ...run.run import Run
from ...run.step import MicroBatch
from ..denoising.closed_forms import OptimalDenoiser
from ..denoising.closed_forms.posterior import exponents
from ..denoising.denoiser import along
from ..denoising.noise import as_numbers, schedule
from ..denoising.reading import DiffusionRun
from ..denoising.sampling import Sampled, sample
from ..measures import COPIED, distances, memorised
from .optimal_result import OptimalExplanation
from .result import DiffusionExplanation
from .sampler_result import SamplerExplanation

__all__ = ["explain_diffusion", "explain_optimal", "noise_bins"]

#: All outputs are split unless that is expected to take longer than this many seconds.
PATIENCE = 60.0

#: Seconds for one number of one row of queries at one step, and of one sample's gradient; measured on one core.
ROW, SAMPLE = 1.8e-8, 6e-9

#: How often the bins of draws are shuffled for the null.
SHUFFLES = 8

#: No standard normal number is as large as this.
FARTHEST = 1e3

#: What the explained weights are, in the words of :func:`kernelscope.decompose`.
WEIGHTS = {"trained": "trained", "average": "average", "average apart": "trained"}


def explain_diffusion(
    run: Run,
    z: Tensor,
    *,
    through: str = "trajectory",
    levels: Tensor | None = None,
    method: str = "heun",
    bins: int | Tensor = 8,
    directions: str | int | Tensor | None = "auto",
    weights: str = "trained",
    labels: Any = None,
    names: Any = None,
    held_out: Tensor | None = None,
    quadrature: str = "gonzalez",
    dtype: torch.dtype | None = None,
    memory: int | str = "1GB",
    progress: bool | None = None,
) -> DiffusionExplanation:
    r"""Splits what a trained denoiser generates exactly over sampling stages, training noise and training images.

    .. math:: D_T(x_k, \sigma_k) - D_{\text{init}}(x_k, \sigma_k) = \sum_b \sum_i T[k, b, i] + \text{other channels}

    along the way :math:`x_k` that the trained network takes from :math:`\sigma_0 z`, with the way held fixed; or, with
    ``through="sampler"``, the sample itself, in which each stage has parameters of its own:

    .. math:: X(z; \theta_T) - X(z; \theta_0) = \sum_j \sum_b \sum_i T[j, b, i] + \text{other channels}

    Contributions are accounting along this run; they do not say what the sample would be without an image.

    Args:
        run: The recorded run of a :class:`Denoiser`.
        z: Standard normal latents, with shape (q, \*), or one of them.
        through: ``"trajectory"``: what training changed at each point of the trained network's way, whose differences
            from stage to stage are not parts of the sample. ``"sampler"``: parts of the sample, which it takes one pass
            back through the sampler for each step of training to find.
        levels: Noise levels, descending; :func:`schedule` of 18 if not given.
        method: ``"heun"`` or ``"euler"``. Both evaluations of a Heun step belong to the stage where it begins.
        bins: How many bins of training noise, of equal mass under the law of the run; or the levels between them.
        directions: ``None`` splits every number of the sample. ``"displacement"`` splits along one unit vector for each
            sample, from what the initial network makes of the first noise, or through the sampler generates from it, to
            the sample: a row of gradients for each stage. A number takes so many leading principal directions of the
            training images, and a tensor with shape (m, d) its rows, brought to length 1. ``"auto"`` is ``None``, and
            ``"displacement"`` where that is expected to take more than a minute or more than ``memory``.
        weights: ``"trained"``; ``"average"`` for samples of the averaged weights, unrolled through the average; or
            ``"average apart"``, the same samples split along the trained weights, and one channel more, ``average``,
            for the difference of the two networks.
        labels: A word for each training image, to group by; the labels of the run if not given.
        names: A word for each sample.
        held_out: Real images that training did not draw, with shape (r, \*): what is called a copy is compared with
            them. Without them each training image is compared with all others that differ from it.
        quadrature: How gradients are averaged along a step of training, as :func:`kernelscope.decompose` takes it.
            Through the sampler ``"gonzalez"`` corrects all stages alike, by the least change of their gradients that
            makes the sum complete; how much that is stands in the check, and ``"gonzalez5"`` makes it small.
            ``"gaussM"`` is not corrected and leaves a residual, which may be large where the sampler is stiff.
        dtype: The precision of the ledger, as :func:`kernelscope.decompose` takes it; ``torch.float32`` is about twice
            as fast and closes to 1e-5.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`DiffusionExplanation`; through the sampler, a :class:`SamplerExplanation`.

    Raises:
        DataError: If the run is none of a denoiser, or arguments do not fit it.
        OutOfBudget: If the tensor does not fit into ``memory``.

    References:
        Section 2.3 of the notes on generative models: telescoping instead of unrolling in x, which puts all weight on
        the last stage. Through the sampler: theory notes 1.3 (g3).

    Example:
        >>> from kernelscope.generative.training import train_diffusion
        >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> run = train_diffusion(x, width=8, steps=30, batch=5)
        >>> why = explain_diffusion(run, torch.ones(1, 4), levels=schedule(6), bins=3)
        >>> why.tensor.shape, max(why.completeness()) < 1e-10
        (torch.Size([1, 6, 4, 3, 20]), True)
        >>> through = explain_diffusion(run, torch.ones(1, 4), through="sampler", levels=schedule(6), bins=3)
        >>> moved = through.final - through.began
        >>> parts = through.tensor.sum((1, 3, 4)) + sum(part.sum(1) for part in through.channels.values())
        >>> bool((parts - moved).norm() < 1e-10 * moved.norm())
        True
    """
    begun = time.perf_counter()
    reader = DiffusionRun(checked_run(run))
    memory = checked_memory(memory)
    as_choice(weights, "weights", tuple(WEIGHTS))
    sampler = as_choice(through, "through", ("trajectory", "sampler")) == "sampler"
    clean = reader.clean.double()
    z, held_out = _latents(z, clean), _held_out(held_out, clean)
    names = [f"sample {i}" for i in range(len(z))] if names is None else _words(names, "names", len(z))
    words = run.labels if labels is None else _words(labels, "labels", run.size)
    edges = noise_bins(reader, bins)
    last, first = _ends(run, weights)
    # Before the first step of all buffers are those that the recording began with.
    at_first = run.start or -1
    denoise = lambda parameters, k: lambda y, sigma: _denoised(reader, y, sigma, parameters, k)
    down = sample(denoise(last, run.stop), z, _levels(levels), method)
    _check_finite(down)
    y, sigma = down.points.transpose(0, 1), down.levels  # (q, N, *)
    flat, level = y.flatten(0, 1), sigma.repeat(len(z))
    initial = denoise(first, at_first)(flat, level).view(y.shape)
    final = down.denoised.transpose(0, 1)
    q, stages, bins_ = len(z), len(sigma), len(edges) + 1
    began = sample(denoise(first, at_first), z, sigma, method).final if sampler else initial[:, 0]
    asked = 2 * stages - 1 if sampler and method == "heun" else stages
    kind, rows, note = _directions(directions, run, clean, final[:, -1] - began, asked, bins_, memory, dtype)
    m = rows.shape[1]
    cells = _cells(reader, edges)
    options: dict[str, Any] = {"weights": WEIGHTS[weights], "dtype": dtype, "memory": max(memory, 2**28),
                               "progress": progress, "quadrature": quadrature}
    along_sides = lambda o, side: (o.flatten(1) * side).sum(1)
    if sampler:
        # Each pair of a latent and a direction goes down by itself, and back along that direction.
        starts = z.repeat_interleave(m, 0), sigma[:1].expand(q * m)
        ledger, found = booked(run, starts, along_sides, cells, targets=rows.flatten(0, 1),
                               through=(_rollout(reader, sigma, method), stages), **options)
    else:
        # The factor b brings contributions to o to those to D.
        b = reader.coefficients(level)[1]
        sides = rows.repeat_interleave(stages, 0) * b[:, None, None]
        ledger, found = booked(run, (flat, level), lambda o, side: torch.einsum("nd,nmd->nm", o.flatten(1), side),
                               cells, targets=sides, **options)
    assert found is not None
    in_order = lambda part: (part.view(q, m, stages, *part.shape[2:]).transpose(1, 2) if sampler else
                             part.view(q, stages, m, *part.shape[2:])).contiguous()
    parts = {name: in_order(part) for name, part in ledger.channels.items() if name != "data"}
    table, shuffled = in_order(found).split((bins_ * run.size, SHUFFLES * bins_), -1)
    if weights == "average apart":
        trained = run.parameters()
        if sampler:
            # The difference of two samples has no stages; it stands in equal parts.
            apart = down.final - sample(denoise(trained, run.stop), z, sigma, method).final
            apart = (apart.flatten(1) / stages)[:, None].expand(-1, stages, -1)
        else:
            apart = (final - denoise(trained, run.stop)(flat, level).view(y.shape)).flatten(2)
        parts["average"] = apart @ rows.transpose(1, 2)
    null, nulls = _null_ratios(clean, held_out)
    drawn = ~clean.flatten(1).isnan().any(1)
    near = memorised(final[:, -1], clean[drawn])
    missed = ledger.quadrature_error.sum(1) if sampler else None
    form, own = (SamplerExplanation, {"began": began}) if sampler else (DiffusionExplanation, {})
    return form(
        levels=sigma, points=y, denoised=final, initial=initial, directions=rows,
        tensor=table.unflatten(-1, (bins_, run.size)).contiguous(), channels=parts, edges=edges, clean=clean,
        log_weights=_log_weights(flat, level, clean, drawn).view(q, stages, -1),
        ratios=near.ratios, nearest=drawn.nonzero().flatten()[near.nearest], null_ratios=nulls,
        labels=None if words is None else list(words), names=names,
        info={"weights": weights, "method": method, "law": [reader.law.mean, reader.law.deviation],
              "parameterisation": type(run.network.module(())).__name__, "directions": kind, "copied": COPIED,
              "null": null, "dtype": ledger.info["dtype"], "ledger": ledger.info,
              "notes": [part for part in (note, *ledger.info["notes"]) if part],
              **({} if missed is None else {"missed": missed.abs().sum(-1).view(q, m).norm(dim=-1).tolist()}),
              "seconds": round(time.perf_counter() - begun, 3)},
        shuffled=shuffled.unflatten(-1, (SHUFFLES, bins_)).contiguous(), **own,
    )


def explain_optimal(x: Tensor, z: Tensor, *, levels: Tensor | None = None, method: str = "heun", labels: Any = None,
                    names: Any = None) -> OptimalExplanation:
    r"""The same question to the optimal denoiser of the training images, answered in closed form.

    .. math:: a_{k,i} = w_i(x_k) - w_i(x_{k-1}), \qquad \sum_i a_{k,i} = 0

    It is the null beside a network: a denoiser that can only give training images back.

    Args:
        x: The training images, with shape (n, \*).
        z: Standard normal latents, with shape (q, \*), or one of them.
        levels: Noise levels, descending; :func:`schedule` of 18 if not given.
        method: ``"heun"`` or ``"euler"``.
        labels: A word for each training image.
        names: A word for each sample.

    Returns:
        The :class:`OptimalExplanation`.

    Raises:
        DataError: If shapes do not go together.

    References:
        | Section 2.2 of the notes on generative models
        | "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), equation 57

    Example:
        >>> why = explain_optimal(torch.eye(3), torch.tensor([[2.0, 0.0, 0.0]]))
        >>> why.final.round().tolist(), bool(why.stage_contributions().sum(-1).abs().max() < 1e-15)
        ([[1.0, 0.0, 0.0]], True)
    """
    optimal = OptimalDenoiser(x)
    z = _latents(z, optimal.x)
    names = [f"sample {i}" for i in range(len(z))] if names is None else _words(names, "names", len(z))
    words = None if labels is None else _words(labels, "labels", len(optimal.x))
    down = sample(optimal, z, _levels(levels), method)
    at = [optimal.weights(y, sigma.expand(len(z))) for y, sigma in zip(down.points, down.levels, strict=True)]
    weights = torch.stack(at, 1)
    # Once more, so that what images gain and lose adds up to nought to the last digit.
    weights = weights / weights.sum(-1, keepdim=True)
    return OptimalExplanation(down.levels, down.points.transpose(0, 1), down.denoised.transpose(0, 1), weights, words,
                              names, {"method": method})


def noise_bins(reader: DiffusionRun, bins: Any) -> Tensor:
    """The noise levels between bins, ascending.

    Raises:
        DataError: If they are no number of bins and no ascending levels.
    """
    if as_whole(bins) is not None:
        return torch.tensor(reader.law.edges(as_count(bins, "bins", least=1)), dtype=torch.float64)
    edges = as_numbers(bins)
    if edges is None or edges.ndim != 1 or not bool((edges > 0).all()) or not bool((edges.diff() > 0).all()):
        raise DataError("bins must be a number of bins, or the noise levels between them, ascending and above 0; "
                        f"{what_came(bins)} came. Pass bins=8.")
    return edges


def _cells(reader: DiffusionRun, edges: Tensor) -> Cells:
    """Where a draw is booked: by its noise bin and image, and by the bins of fresh noise."""
    bins, size = len(edges) + 1, reader.run.size

    def of(k: int, j: int, batch: MicroBatch) -> Tensor:
        own = torch.bucketize(reader.run.samples.read(batch)[0][1].double().cpu(), edges) * size + batch.columns
        source = torch.Generator().manual_seed(10**6 + k)
        fresh = [torch.bucketize(reader.law.draw(len(own), source).double(), edges) for _ in range(SHUFFLES)]
        return torch.stack([own] + [bins * (size + r) + bin_ for r, bin_ in enumerate(fresh)])

    return Cells(bins * (size + SHUFFLES), of)


def _rollout(reader: DiffusionRun, levels: Tensor, method: str) -> Rollout:
    """The sampler, from latents to samples, as one that asks the network."""
    count = len(levels)
    stages = [k for k in range(count) for _ in range(2 if method == "heun" and k + 1 < count else 1)]

    def rollout(network: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, list[int]]:
        def denoise(y: Tensor, sigma: Tensor) -> Tensor:
            a, b = reader.coefficients(sigma)
            return along(a, y) * y + along(b, y) * network(y, sigma)

        return sample(denoise, inputs[0], levels.to(inputs[0]), method).final, stages

    return rollout


def _ends(run: Run, weights: str) -> tuple[Parameters, Parameters]:
    """The parameters that generate, and those that training began with, as the ledger takes them."""
    if weights == "trained":
        return run.parameters(), run.parameters(0)
    apart = weights == "average apart"
    last, first = run.average(run.stop), run.average(0)
    if last is None or first is None or run.start and not apart:
        raise DataError("This run holds no averaged weights, or is a slice of one that does. Record with "
                        'record(..., average=averaged_model), or pass weights="trained".')
    return run.named(last), run.parameters(0) if apart else run.named(first)


def outputs_at(reader: DiffusionRun, y: Tensor, sigma: Tensor, parameters: Parameters, k: int) -> Tensor:
    """What the network gives at some parameters, with the buffers of step k, in the precision of ``y``."""
    run = reader.run
    with undisturbed(y.device), torch.no_grad():
        held = cast({**run.network.parameters, **parameters}, y.dtype, y.device)
        return run.network(held, cast(run.buffers(k), y.dtype, y.device), (y, sigma.to(y)))


def _denoised(reader: DiffusionRun, y: Tensor, sigma: Tensor, parameters: Parameters, k: int) -> Tensor:
    """The denoised points at some parameters, with the buffers of step k, in the precision of ``y``."""
    a, b = reader.coefficients(sigma.to(y))
    return along(a, y) * y + along(b, y) * outputs_at(reader, y, sigma, parameters, k)


def _latents(z: Any, like: Tensor) -> Tensor:
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise DataError(f"z must be a tensor of standard normal numbers with shape (q, *); {what_came(z)} came. Pass "
                        f"torch.randn(1, {', '.join(map(str, like.shape[1:]))}).")
    z = z.detach().to("cpu", torch.float64)
    z = z[None] if z.shape == like.shape[1:] else z
    if z.shape[1:] != like.shape[1:] or not len(z):
        raise DataError(f"z must hold one latent of the shape of a training image, {tuple(like.shape[1:])}, in each "
                        f"row; {tuple(z.shape)} came. Pass torch.randn(1, {', '.join(map(str, like.shape[1:]))}).")
    if not bool(z.isfinite().all()):
        raise NonFiniteError("z has numbers that are NaN or infinite. Draw it by torch.randn.")
    if bool((z.abs() > FARTHEST).any()):
        raise DataError(f"z must be standard normal numbers; {float(z.abs().max()):g} came. Pass "
                        f"torch.randn(1, {', '.join(map(str, like.shape[1:]))}).")
    return z


def _held_out(held_out: Any, like: Tensor) -> Tensor | None:
    if held_out is None:
        return None
    if not isinstance(held_out, Tensor) or held_out.shape[1:] != like.shape[1:] or not len(held_out):
        came = f"shape {tuple(held_out.shape)}" if isinstance(held_out, Tensor) else what_came(held_out)
        raise DataError(f"held_out must be real images as the rows of a tensor with shape "
                        f"(r, {', '.join(map(str, like.shape[1:]))}); {came} came. Pass images that training did not "
                        "draw, or leave it out.")
    return held_out.detach().to("cpu", torch.float64)


def _levels(levels: Any) -> Tensor:
    given = schedule(18) if levels is None else as_numbers(levels)
    if given is None or given.ndim != 1 or len(given) < 2 or not bool((given > 0).all() & (given.diff() < 0).all()):
        raise DataError(f"levels must be two noise levels or more, descending and above 0; {what_came(levels)} came. "
                        "Pass kernelscope.generative.schedule(18).")
    return given


def _words(given: Any, name: str, count: int) -> list[str]:
    words = as_words(given, name)
    if len(words) != count:
        raise DataError(f"{name} must hold {count} words; {len(words)} came. Pass one for each, in order.")
    return words


def _check_finite(down: Sampled) -> None:
    odd = ~down.denoised.flatten(1).isfinite().all(1)
    if bool(odd.any()):
        at = float(down.levels[int(odd.nonzero()[0])])
        raise NonFiniteError(f"The sampler leaves the numbers at noise {at:.3g}: what the network denoises there is "
                             "NaN or infinite. Look at the run's last losses, and at the highest noise level.")


def _directions(asked: Any, run: Run, clean: Tensor, displacement: Tensor, stages: int, bins: int, memory: int,
                dtype: torch.dtype | None) -> tuple[str, Tensor, str]:
    """What the directions are called, their unit vectors with shape (q, m, d), and what to say of the choice."""
    q, d = len(displacement), displacement[0].numel()
    note = ""
    if isinstance(asked, str):
        as_choice(asked, "directions", ("auto", "displacement"))
        expected, needed = _cost(run, q * stages * d, dtype), _bytes(run, q * stages * d, bins)
        if asked == "auto" and expected <= PATIENCE and needed <= memory:
            asked = None
        elif asked == "auto":
            asked = "displacement"
            note = (f"All {d} numbers of each sample would take about {expected:.0f} s and {needed / 2**20:.0f} MiB, "
                    "so contributions are split along the displacement alone. Pass directions=None for all of them.")
    if asked is None:
        kind, rows = "every number", torch.eye(d, dtype=torch.float64).expand(q, d, d)
    elif isinstance(asked, str):
        kind, rows = "the displacement", displacement.flatten(1)[:, None]
    elif as_whole(asked) is not None:
        x = clean[~clean.flatten(1).isnan().any(1)].flatten(1)
        count = as_count(asked, "directions", least=1)
        if count > min(x.shape):
            raise DataError(f"directions={count} principal directions were asked for, and {len(x)} training images of "
                            f"{d} numbers have {min(x.shape)} at most. Pass directions={min(count, *x.shape)}, or "
                            "directions=None for every number.")
        found = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:count]
        kind, rows = f"{len(found)} principal directions of the training images", found.expand(q, *found.shape)
    else:
        asked_for = as_numbers(asked)
        if asked_for is None or asked_for.ndim < 2 or not len(asked_for) or asked_for[0].numel() != d:
            came = what_came(asked) if asked_for is None else f"shape {tuple(asked_for.shape)}"
            raise DataError(f"directions must be rows of {d} finite numbers, as many as a sample has; {came} came. "
                            'Pass a tensor with shape (m, d), a number of principal directions, or "displacement".')
        given = asked_for.flatten(1)
        kind, rows = "given directions", given.expand(q, *given.shape)
    length = rows.norm(dim=-1, keepdim=True)
    if bool((length == 0).any()):
        raise DataError("A direction is nought: training did not move the sample, or a row of directions is nought.")
    count = q * stages * rows.shape[1]
    if _bytes(run, count, bins) > memory:
        raise OutOfBudget(f"The tensor of {count} rows and {bins * run.size} cells needs about "
                          f"{_bytes(run, count, bins) / 2**20:.0f} MiB, and memory={memory} allows "
                          f'{memory / 2**20:.0f}. Pass directions="displacement", fewer samples, or more memory.')
    return kind, (rows / length).contiguous(), note


def _cost(run: Run, rows: int, dtype: torch.dtype | None) -> float:
    """About how many seconds a decomposition takes on one core."""
    drawn = sum(len(batch.columns) for batch in run.step(run.start).batches) if len(run) else 0
    each = rows * ROW + drawn * SAMPLE
    return len(run) * run.parameter_count * each / (2 if dtype is torch.float32 else 1)


def _bytes(run: Run, rows: int, bins: int) -> int:
    """About how many bytes the ledger and its cells take."""
    return 8 * rows * ((bins + 1) * run.size + SHUFFLES * bins + 4 * len(run))


def _log_weights(y: Tensor, sigma: Tensor, clean: Tensor, drawn: Tensor) -> Tensor:
    """The logarithms of the optimal denoiser's weights, with shape (q, n)."""
    found = torch.full((len(y), len(clean)), -torch.inf, dtype=torch.float64)
    found[:, drawn] = exponents(y.flatten(1), clean[drawn].flatten(1), sigma).log_softmax(1)
    return found


def _null_ratios(clean: Tensor, held_out: Tensor | None) -> tuple[str, Tensor]:
    """What real images that are no copies give: those held out, or each training image beside the others."""
    known = clean[~clean.flatten(1).isnan().any(1)]
    if held_out is not None:
        return "held-out real images", memorised(held_out, known).ratios
    # Beside its twin an image would be a copy; and of two images the other one has no second beside it.
    known = known.unique(dim=0)
    if len(known) < 3:
        return "different training images beside the others", known.new_zeros(0)
    away = distances(known, known).fill_diagonal_(torch.inf)
    near = away.topk(2, largest=False).values
    return "different training images beside the others", near[:, 0] / near[:, 1]
