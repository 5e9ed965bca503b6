"""Blocks of a network are replaced one by one, each fitted to its own output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data.points import Part, Points
from ...errors import DataError, ModelError, NonFiniteError
from ...network import Network
from ...result import as_float64
from ...solvers.ridge import NormalEquations, RidgePath
from ..towers import Neurons
from .bundle_report import BundleReport
from .bundled import BundledLayer
from .choosing import Plan, Spread, layer_for
from .closed_form import without_features
from .comparing import Comparison, are_classes, check_targets, threshold
from .finding import CLOSE, Block, Passed, described, find_blocks, mistaken, part, put
from .watching import BATCH, Replayed, Seen, answered, batches, mask_of, watched


@dataclass
class _Fitted:
    """A block's new layer and how it came about."""

    layer: BundledLayer
    linear: BundledLayer
    ridge: float


def blockwise(model: nn.Module, reader: nn.Module, points: Points, labels: Tensor | None, feedback: bool, plan: Plan,
              test: tuple[Points, Tensor | None] | None, held_out: float) -> tuple[nn.Module, BundleReport]:
    """The network with its blocks replaced, and what that cost; ``feedback`` shows each block what those before left.

    Raises:
        DataError: If there is no block that can be replaced, or there are not enough points.
    """
    found = find_blocks(reader)
    if not found:
        raise DataError(f"No block Linear, activation, Linear was found in {type(model).__name__}. Bundle it as a "
                        'whole with mode="full", or write such blocks as nn.Sequential.')
    if test is None:
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(plan.seed)).tolist()
        apart = max(1, round(held_out * len(points)))
        fit, kept = sorted(order[apart:]), sorted(order[:apart])
        held, truth, words = points.chosen(kept), None if labels is None else labels[kept], "points kept apart"
    else:
        fit, (held, truth), words = list(range(len(points))), test, "test points"
    if not fit:
        raise DataError(f"{len(points)} point{'s' * (len(points) > 1)} cannot be fitted to and measured on as well. "
                        "Hand in more, or test points.")
    for some, known in ((held, truth), (points, labels)):
        outputs, logits = answered(reader, next(batches(some, range(len(some)), BATCH))[1])
        check_targets(known, outputs, logits)
    blocks, left = _understood(reader, found, points.chosen(fit))
    if not blocks:
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise DataError(f'Nothing in {type(model).__name__} can be replaced ({reasons}). Bundle it as a whole with '
                        'mode="full".')
    if len(plan.features) not in (1, len(blocks)):
        raise DataError(f"features is one number, or one for each of the {len(blocks)} blocks "
                        f"{', '.join(block.name for block in blocks)}; {len(plan.features)} came.")
    bundled, draw = reader_of(model), torch.Generator().manual_seed(plan.seed)
    fitted: list[_Fitted] = []
    groups = [[block] for block in blocks] if feedback else [blocks]
    for group in groups:
        # What blocks are given is read from the copy, in which those before are replaced; what they shall give is not.
        new = _fitted(reader, bundled if feedback else reader, group, points.chosen(fit), plan, draw, len(fitted))
        for block, each in zip(group, new, strict=True):
            each.layer.stands_for = described(reader, block)
            _replace(bundled, block, each.layer)
        fitted += new
    report = _report(reader, bundled, blocks, fitted, held, truth, plan, left, words,
                     "layerwise" if feedback else "ffn", threshold(outputs))
    return in_modes_of(model, bundled), report


def reader_of(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without hooks."""
    copied = Network(model).module(())
    for module in copied.modules():
        if isinstance(module, nn.TransformerEncoder):
            # Nested tensors have no rows to watch.
            module.use_nested_tensor = False
    return copied


def in_modes_of(model: nn.Module, bundled: nn.Module) -> nn.Module:
    """The copy in the modes that the model's modules are in."""
    modes = {name: module.training for name, module in getattr(model, "_orig_mod", model).named_modules()}
    for name, module in bundled.named_modules():
        module.training = modes.get(name, False)
    return bundled


def _replace(model: nn.Module, block: Block, layer: nn.Module) -> None:
    put(model, block.entry, layer)
    for name in block.chain[1:]:
        put(model, name, Passed())


def _understood(reader: nn.Module, found: list[Block], points: Points) -> tuple[list[Block], dict[str, str]]:
    """Blocks that are a function of one row, if need be as black boxes, and why others are not: seen on one batch."""
    reasons = _mistakes(reader, found, points)
    boxes = {block.name: Block(block.name, (block.box,)) for block in found
             if block.name in reasons and block.box is not None}
    still = _mistakes(reader, list(boxes.values()), points) if boxes else {}
    blocks = [boxes.get(block.name, block) for block in found if block.name not in reasons or (
        block.name in boxes and block.name not in still)]
    return blocks, {name: why for name, why in reasons.items() if name not in boxes or name in still}


def _mistakes(reader: nn.Module, blocks: list[Block], points: Points) -> dict[str, str]:
    reasons = {}
    _, given = next(batches(points, range(len(points)), BATCH))
    with watched(reader, blocks) as seen:
        answers, _ = answered(reader, given)
    for block in blocks:
        try:
            x, y = _rows(seen, block, given)
            why = mistaken(reader, block, x, y)
        except ModelError as error:
            why = str(error)
        if why is not None:
            reasons[block.name] = why
    rest = [block for block in blocks if block.name not in reasons]
    if rest and not _stands(reader, rest, seen, given, answers):
        odd = [block for block in rest if len(rest) == 1 or not _stands(reader, [block], seen, given, answers)]
        # Where none is at fault alone, they are together.
        reasons |= {block.name: "the network uses its inner layers for something else too" for block in odd or rest}
    return reasons


def _stands(reader: nn.Module, blocks: list[Block], seen: Seen, given: Part, answers: Tensor) -> bool:
    """Whether the network gives what it gave when blocks are replaced by layers that make no error."""
    tried = copy.deepcopy(reader, {id(t): t for t in (*reader.parameters(), *reader.buffers())})
    for block in blocks:
        weight = getattr(part(reader, block.entry), "weight", None)
        _replace(tried, block, Replayed(seen.inputs[block.name], seen.outputs[block.name], weight))
    try:
        found, _ = answered(tried, given)
    except (DataError, ModelError):
        return False
    if found.shape != answers.shape:
        return False
    gap, size = float((found - answers).norm()), float(answers.norm())
    return gap <= CLOSE * size or not bool(answers.isfinite().all())


def _passed(reader: nn.Module, source: nn.Module, blocks: list[Block], points: Points
            ) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Batch by batch what each block is given by one network, and what it gives in the other."""
    for _, given in batches(points, range(len(points)), BATCH):
        with watched(reader, blocks) as seen:
            answered(reader, given)
        other = seen
        if source is not reader:
            with watched(source, blocks) as other:
                answered(source, given)
        yield {block.name: (_rows(other, block, given)[0], _rows(seen, block, given)[1]) for block in blocks}


def _rows(seen: Seen, block: Block, given: Part) -> tuple[Tensor, Tensor]:
    x, y = seen.rows(block.name, mask_of(given))
    if not bool(x.isfinite().all()) or not bool(y.isfinite().all()):
        raise NonFiniteError(f"The block {block.name} takes or gives NaN or infinite values, and nothing can be fitted "
                             "to them. Look at the network's outputs, and use a wider precision.")
    return x, y


def _fitted(reader: nn.Module, source: nn.Module, blocks: list[Block], points: Points, plan: Plan,
            draw: torch.Generator, first: int) -> list[_Fitted]:
    """The new layers of some blocks: one reading for the spread of what they are given, one for the sums."""
    spreads = {block.name: Spread(-(-len(points) // BATCH)) for block in blocks}
    for rows in _passed(reader, source, blocks, points):
        for name, (x, y) in rows.items():
            spreads[name].add(x, y)
    layers, sums = {}, {}
    for k, block in enumerate(blocks):
        layer = layer_for(reader, block, spreads[block.name], plan, plan.of(first + k), draw)
        layers[block.name] = layer
        sums[block.name] = NormalEquations(layer.width, len(layer.constant))
    exact = {name: layer.exact() for name, layer in layers.items()}
    for rows in _passed(reader, source, blocks, points):
        for name, (x, y) in rows.items():
            sums[name].add(exact[name].columns(as_float64(x)), as_float64(y))
    return [_solved(layers[block.name], sums[block.name], plan.ridge) for block in blocks]


def _solved(layer: BundledLayer, sums: NormalEquations, asked: float | None) -> _Fitted:
    path = RidgePath(sums, torch.arange(layer.width) >= layer.size)
    ridge = path.best_ridge() if asked is None else asked
    layer.assign(path.coefficients(ridge))
    # The linear map is measured even where it is not built in.
    linear = copy.deepcopy(layer)
    linear.assign(without_features(path))
    return _Fitted(layer, linear, ridge)


def _report(reader: nn.Module, bundled: nn.Module, blocks: list[Block], fitted: list[_Fitted], points: Points,
            labels: Tensor | None, plan: Plan, left: dict[str, str], words: str, mode: str,
            least: float) -> BundleReport:
    """Both networks side by side on points that nothing was fitted to, block by block and as a whole."""
    own, line, late = ([Comparison(False) for _ in blocks] for _ in range(3))
    result: Comparison | None = None
    for numbers, given in batches(points, range(len(points)), BATCH):
        with watched(reader, blocks) as seen:
            before, logits = answered(reader, given)
        with watched(bundled, blocks) as other:
            after, _ = answered(bundled, given)
        for i, block in enumerate(blocks):
            (x, y), (moved, found) = _rows(seen, block, given), other.rows(block.name, mask_of(given))
            x = moved if mode == "layerwise" else x
            own[i].add(y, fitted[i].layer(x))
            line[i].add(y, fitted[i].linear(x))
            late[i].add(y, found)
        result = result or Comparison(are_classes(labels, before, logits), least, least)
        mask, some = mask_of(given), None if labels is None else labels[numbers]
        if mask is not None and before.shape[:-1] == mask.shape:
            keep = mask.to(before.device)
            before, after = before[keep], after[keep]
            some = None if some is None else some[mask.cpu()]
        result.add(before, after, some)
    assert result is not None
    errors, linear, accumulated = (torch.tensor([each.error for each in some]) for some in (own, line, late))
    kept = sum(_kept(each.layer) for each in fitted)
    return BundleReport(
        mode=mode, tower=plan.tower, blocks=[block.name for block in blocks],
        features=[each.layer.size for each in fitted], ridges=[each.ridge for each in fitted], errors=errors,
        linear=linear, accumulated=accumulated,
        before=[sum(p.numel() for p in _parameters(reader, block)) for block in blocks],
        after=[sum(p.numel() for p in each.layer.parameters()) + _kept(each.layer) for each in fitted],
        parameters_before=sum(p.numel() for p in reader.parameters()),
        parameters_after=sum(p.numel() for p in bundled.parameters()) + kept,
        fixed=sum(b.numel() for each in fitted for b in each.layer.towers.buffers()) - kept,
        error=result.error, agreement=result.agreement, divergence=result.divergence,
        score_before=result.score("before"), score_after=result.score("after"), score_linear=None, score=result.name,
        measured_on=words, count=result.count, left=left)


def _parameters(reader: nn.Module, block: Block) -> list[nn.Parameter]:
    found = {id(p): p for name in block.chain if isinstance(part(reader, name), nn.Module)
             for p in part(reader, name).parameters()}
    return list(found.values())


def _kept(layer: BundledLayer) -> int:
    """How many numbers of neurons a layer keeps, which no seed makes again."""
    return sum(b.numel() for tower in layer.towers if isinstance(tower, Neurons) for b in (tower.rows, tower.shifts))
