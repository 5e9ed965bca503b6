r"""Which tokens of which training texts made a network say the next one.

The loss of a text is the mean of the losses of its tokens, so its gradient is a sum over them, and so is its share:

.. math:: c_i(x) = \sum_t c_{it}(x), \qquad
          c_{it}(x) = -\sum_k w_{ki} \frac1T \langle \psi_k, \nabla \ell_{it}(\theta_k) \rangle .

Here :math:`\ell_{it}` is the loss of the t-th prediction of text i. It depends on all tokens before t, and its share is
booked on the token that had to be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_place, as_whole, what_came
from ..errors import DataError, OutOfBudget
from ..losses import Loss
from ..network import cast, per_part_losses, undisturbed
from ..run.run import Run
from .exact import booked, final_outputs
from .precision import ledger_precision
from .questions import as_queries, as_targets, checked_memory, checked_place, checked_run
from .token_result import TokenContributions
from .trajectory import Trajectory

__all__ = ["token_contributions"]

#: The target that cross entropies leave out where they are told no other.
IGNORED = -100


def token_contributions(
    run: Run,
    x: Any,
    targets: Any = None,
    *,
    places: int | Sequence[int] = -1,
    vocabulary: Sequence[str] | None = None,
    quadrature: str = "gonzalez",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
) -> TokenContributions:
    r"""Splits the log-probability of a network's next tokens over every token it was trained to say.

    What is explained is :math:`-\ell_t(x)`, the negative loss of the token at a place of the query: with cross entropy
    the log-probability of that token given those before it. It is split exactly,

    .. math:: -\ell_t(x; \theta_T) = -\ell_t(x; \theta_0) + \sum_i \sum_s c_{is} + \text{decay} + \dots

    over training texts i and the tokens s of each. As every contribution this is accounting along one run.

    Args:
        run: A recorded run of a network whose loss has one number for each token, with shape :math:`(n, T)`.
        x: Texts as the network takes them, with shape :math:`(q, T')`.
        targets: The token to say at each place, with shape :math:`(q, T')`; what the trained network would say, if not
            given and the loss is ``torch.nn.functional.cross_entropy`` of outputs with shape :math:`(n, C, T)`.
        places: Which places of a query are explained: a number, from the end if negative, or several.
        vocabulary: A word for each number of a token, to be shown; a string of characters will do.
        quadrature: As in :func:`decompose`.
        dtype: As in :func:`decompose`.
        device: As in :func:`decompose`.
        memory: As in :func:`decompose`; what is booked, :math:`q c n T` numbers, must fit too.
        progress: As in :func:`decompose`.

    Returns:
        The :class:`TokenContributions`.

    Raises:
        DataError: If the loss has no number for each token, or places or targets do not fit or are
            ignored by the loss.
        OutOfBudget: If the table of contributions does not fit in memory.

    References:
        E3 of the theory notes, and d4 on sequences.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch import nn
        >>> text = ks.data.text(count=8, length=6)
        >>> class Bigrams(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = nn.Embedding(len(text.characters), len(text.characters))
        ...     def forward(self, x):
        ...         return self.table(x).transpose(1, 2)
        >>> model = Bigrams()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> with ks.record(model, (text.x, text.y), loss=F.cross_entropy) as recording:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         F.cross_entropy(model(text.x), text.y).backward()
        ...         optimizer.step()
        >>> found = ks.token_contributions(recording.run, text.x[:1], vocabulary=text.characters)
        >>> found.contributions.shape, found.check().ok
        (torch.Size([1, 1, 8, 6]), True)
    """
    run = checked_run(run)
    words = _words(vocabulary)
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    with undisturbed(place):
        length = _length(run, dtype, place)
        queries = as_queries(x, tuple(run.samples.inputs))
        if not len(queries[0]):
            raise DataError("There is no text to explain. Pass at least one, with shape (q, T).")
        given = as_targets(targets, len(queries[0]))
        said = _would_say(run, queries, dtype, place) if given is None else given
    if said.ndim < 2:
        raise DataError(f"targets must have a token for each place of a query, with shape (q, T); shape "
                        f"{tuple(said.shape)} came. Pass those that come after each token of x.")
    which = _places(places, said[0].numel())
    _refuse_ignored(run.loss, said.flatten(1)[:, which], which)
    rows = len(queries[0]) * len(which) * run.size * length * 8
    if rows > checked_memory(memory):
        raise OutOfBudget(
            f"The contributions of {run.size} texts of {length} tokens to {len(queries[0]) * len(which)} predictions "
            f"take {rows / 2**20:.0f} MiB, and memory={memory} was given. Explain fewer places or queries, or raise "
            "memory.")
    explained = _LogProbability(run.loss, which)
    found, parts = booked(run, queries if len(queries) > 1 else queries[0], explained, None, targets=said,
                          quadrature=quadrature, dtype=dtype, device=device, memory=memory, progress=progress,
                          pieces=length)
    assert parts is not None
    samples = run.samples
    assert samples.held_targets is not None
    return TokenContributions(
        contributions=parts, ledger=found, texts=_in_order(run, samples.inputs[0]),
        answers=_in_order(run, samples.held_targets), queries=queries[0].flatten(1).cpu(),
        said=said.flatten(1)[:, which].cpu(), places=which, words=words,
    )


class _LogProbability:
    """The negative losses of some places of a query, as a function of outputs and targets."""

    def __init__(self, loss: Loss, places: list[int]):
        self._loss, self._places = loss, places

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        losses = per_part_losses(self._loss, outputs, targets, len(targets))
        return -losses[:, self._places] * losses.shape[1]


def _refuse_ignored(loss: Loss, said: Tensor, which: list[int]) -> None:
    """Refuses to explain a token that is not to be said, which the loss leaves out.

    Raises:
        DataError: If there is one.
    """
    ignored = int(loss.options.get("ignore_index", getattr(loss.function, "ignore_index", IGNORED)))
    found = (said == ignored).nonzero()
    if len(found):
        query, place = found[0].tolist()
        raise DataError(f"The target of query {query} at place {which[place]} is {ignored}, which the loss ignores: "
                        "there is no token to explain. Pass the token to be said, or other places.")


def _length(run: Run, dtype: torch.dtype | None, place: torch.device) -> int:
    """How many tokens the loss of a text has."""
    known = run.samples.held_targets
    if known is None or not len(run) or known.ndim < 2 or known.is_floating_point():
        came = "no steps" if known is None or not len(run) else (
            f"targets with shape {tuple(known.shape)} of {known.dtype}")
        raise DataError("Contributions of tokens need a run whose targets are a token for each place, with shape "
                        f"(n, T); this one has {came}. Use ks.decompose for contributions of whole samples.")
    one = tuple(table[:1] for table in run.samples.inputs)
    precision, _ = ledger_precision(run, dtype, one, place)
    outputs = final_outputs(Trajectory(run, precision, place), None, cast(one, precision, place))
    losses = run.loss(outputs, cast(known[:1], precision, place))
    if losses.ndim < 2:
        raise DataError(f"The loss of this run gives one number for each text, with shape {tuple(losses.shape)}, and "
                        'one for each token is needed. Record with a loss that keeps tokens apart under '
                        'reduction="none".')
    return losses[0].numel()


def _in_order(run: Run, table: Tensor) -> Tensor:
    """The tokens of each sample, with shape (n, T); -1 of those that training never drew."""
    held = table.flatten(1)
    missing = torch.full_like(held[0], -1)
    return torch.stack([missing if row is None else row for row in run.samples.in_order(list(held))]).cpu()


def _places(places: Any, length: int) -> list[int]:
    if as_whole(places) is not None:
        return [as_place(places, "places", length, "places")]
    if isinstance(places, str) or not isinstance(places, Sequence) or not len(places):
        raise DataError(f"places must be a number or several; {what_came(places)} came. Pass -1 for the last token, "
                        "or range(8) for the first eight.")
    return [as_place(place, "places", length, "places") for place in places]


def _words(vocabulary: Any) -> list[str]:
    if vocabulary is None:
        return []
    if not isinstance(vocabulary, Sequence) or not all(isinstance(word, str) for word in vocabulary):
        raise DataError(f"vocabulary must be a word for each number of a token; {what_came(vocabulary)} came. Pass a "
                        "list of strings, or a string of characters.")
    return list(vocabulary)


def _would_say(run: Run, queries: tuple[Tensor, ...], dtype: torch.dtype | None, place: torch.device) -> Tensor:
    """What the trained network finds most likely at each place."""
    if run.loss.name != "cross_entropy":
        raise DataError("What the network would say is read off outputs of torch.nn.functional.cross_entropy, and this "
                        "run was trained with another loss. Pass targets=, the tokens to be said.")
    precision, _ = ledger_precision(run, dtype, queries, place)
    final = final_outputs(Trajectory(run, precision, place), None, cast(queries, precision, place))
    if not isinstance(final, Tensor) or final.ndim < 3:
        raise DataError(f"The network's outputs must have the shape (n, C, T) to tell what it would say; they have "
                        f"{tuple(final.shape) if isinstance(final, Tensor) else type(final).__name__}. Pass targets=.")
    return final.argmax(1)
