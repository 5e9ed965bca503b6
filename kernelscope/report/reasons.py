"""What a page shows of an explanation: every word and number of it, ready to be set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import pictures
from ..decomposition import wording
from ..decomposition.explanation import Explanation
from ..decomposition.result import CHANNELS
from ..decomposition.wording import certainty, chance, counted, fixed, is_long, number, places, shortened, signed
from . import charts
from .album import Album
from .balance import sheet
from .facts import STATUS, facts, verdict, words
from .profiles import Range, range_of

#: Explained inputs shown on one page for each explanation, and groups shown for each input.
MOST_QUERIES = 12
MOST_GROUPS = 12

#: Names of more letters than this get a wider column.
LONG = 8

LINE_NAMES = {
    "decay": "weight decay",
    "momentum": "momentum at the start",
    "buffers": "normalisation statistics",
    "rounding": "rounding in training",
    "unattributed": "unattributed",
    "residual": "round-off",
}


#: Up to which part of the way of the output two lines are seen to meet.
TOUCHING = 0.01


def explanation(why: Explanation, album: Album, name: str) -> dict[str, Any]:
    """The view of an explanation."""
    extent = range_of(why)
    cases = [_case(why, query, album, extent, f"{name}-{query}") for query in range(min(len(why), MOST_QUERIES))]
    rows = why.check().rows
    left_out = f"Showing {MOST_QUERIES} of {len(why)} explained inputs." if len(why) > MOST_QUERIES else ""
    names = [*why.group_names(), *why.classes, *(why.decomposition.labels or [])]
    up, down = wording.sides(why)
    return {
        "cases": cases,
        "long_names": max(map(len, names), default=0) > LONG,
        "cut_names": sorted({name for name in names if is_long(name)}),
        "kind": why.kind,
        "classes": [why.class_name(i) for i in (0, 1)] if why.kind == "logit" else [],
        "unit": why.unit,
        "column": "share" if why.kind == "output" else why.unit,
        "checks": [{"name": row.name, "status": STATUS[row.status], "sentence": row.sentence} for row in rows],
        "verdict": verdict(rows),
        "facts": facts(why.decomposition),
        "left_out": left_out,
        "up": f"{up.mark} {up.title}",
        "down": f"{down.mark} {down.title}",
        "header": f"{down.mark} {down.short} · {up.mark} {up.short}",
        "what": wording.subject(why),
        "entries": 0 if extent is None else len(extent.low),
    }


def _case(why: Explanation, query: int, album: Album, extent: Range | None, name: str) -> dict[str, Any]:
    low, high = pictures.limits(why.inputs, why.sample_inputs)
    shown, left = _groups(why, query)
    values = [share for _, _, share in shown]
    zero, unit = charts.scale(values)
    said = wording.clauses(why, query)
    ledger = why.decomposition
    entries = _balance(why, query)
    x = why.inputs[query]
    return {
        "id": name,
        "headline": _headline(why, query),
        "note": " · ".join(part for part in (_name(why, query), _truth(why, query)) if part),
        "thumbnail": album.query(x, low, high, 64) | {"words": ""},
        "picture": album.query(x, low, high, 128),
        "bars": "" if extent is None else extent.bars(x),
        "given": "" if extent is None else pictures.words(x, x.numel()),
        "sentence": " ".join(said[part] for part in ("caveat", "answer", "movement", "groups") if said[part]),
        "details": " ".join(said[part] for part in ("samples", "cancellation", "channels") if said[part]),
        "sum": _sum(why, query),
        "groups": [
            {"name": group, "size": "" if size is None else f"{size:,}", "bar": charts.bar(share, zero, unit),
             **_signed(share), "percent": _percent(why, query, share)}
            for group, size, share in shown
        ],
        "groups_left_out": left,
        "up": _samples(why, query, 1, album, extent, low, high),
        "down": _samples(why, query, -1, album, extent, low, high),
        "when": said["time"] or f"{counted(why.updates, 'step')} left {wording.subject(why)} where it was.",
        "charts": _charts(why, query), "apart": _apart(why, query),
        **_frames(why, query),
        "balance": sheet(
            [(_line_name(why, line, kind), kind, value) for line, kind, value in entries if value or kind != "channel"],
            float(ledger.magnitude[query, 0]),
        ),
        "nothing": nothing([line for line, kind, value in entries if kind == "channel" and not value]),
    }


def nothing(channels: list[str]) -> str:
    """The channels on which nothing was booked, in words.

    Example:
        >>> nothing(["decay", "buffers", "unattributed"])
        'weight decay, normalisation statistics or unattributed changes'
    """
    words = [LINE_NAMES[name] if name != "unattributed" else "unattributed changes" for name in channels]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _signed(share: float) -> dict[str, str]:
    kind = "up" if share > 0 else "down" if share < 0 else ""
    return {"share": signed(share), "mark": {"up": "▲", "down": "▼", "": "·"}[kind], "class": kind}


def _percent(why: Explanation, query: int, share: float) -> str:
    if not why.divisible(query):
        return ""
    return f"{100 * share / float(why.shares[query].sum()):.0f} %".replace("-", "−")


def _headline(why: Explanation, query: int) -> str:
    answer, chances = why.answer(query), why.probabilities(query)
    if answer is None or chances is None:
        name = why.decomposition.output_names[0]
        what = f"Output {name}" if name.isdigit() else "The output" if name == "output" else shortened(name)
        return f"{what} is {number(float(why.decomposition.final[query, 0]))}"
    return f"It says {shortened(why.class_name(answer[0]))}, {certainty(float(chances[answer[0], -1]))}"


def _name(why: Explanation, query: int) -> str:
    return "" if why.names is None else shortened(why.names[query])


def _truth(why: Explanation, query: int) -> str:
    if why.targets is None or not why.targets[query]:
        return ""
    answer, target = why.answer(query), why.targets[query]
    if answer is None:
        return f"true value {target}"
    right = why.class_name(answer[0]) == target
    return f"{'✓ correct' if right else '✗ wrong'}: labelled {shortened(target)}"


def _groups(why: Explanation, query: int) -> tuple[list[tuple[str, int | None, float]], str]:
    """The strongest groups, from push up to push down, and a word on the others."""
    rows = list(zip(why.group_names(), why.group_sizes(), why.group_shares(query).tolist(), strict=True))
    rows.sort(key=lambda row: -abs(row[2]))
    rest = rows[MOST_GROUPS:]
    kept = sorted(rows[:MOST_GROUPS], key=lambda row: -row[2])
    if not rest:
        return kept, ""
    return kept, f"{counted(len(rest), 'more group')} added {signed(sum(row[2] for row in rest))} together."


def _balance(why: Explanation, query: int) -> list[tuple[str, str, float]]:
    """The balance sheet with at most the strongest groups on lines of their own."""
    lines = why.balance(query)
    groups = [line for line in lines if line[1] == "group"]
    if len(groups) <= MOST_GROUPS:
        return lines
    kept = {name for name, _, _ in sorted(groups, key=lambda line: -abs(line[2]))[:MOST_GROUPS]}
    rest = [line for line in groups if line[0] not in kept]
    merged = (counted(len(rest), "more group"), "rest", float(sum(value for _, _, value in rest)))
    first = [line for line in lines if line[1] == "initial" or (line[1] == "group" and line[0] in kept)]
    last = [line for line in lines if line[1] in ("channel", "residual", "final")]
    return [*first, merged, *last]


def _line_name(why: Explanation, name: str, kind: str) -> str:
    if kind == "group":
        return f"samples labelled {name}" if why.decomposition.labels or why.decomposition.groups else name
    if kind == "final":
        return f"{wording.subject(why)} now"
    if kind == "initial":
        return wording.beginning(why.decomposition)
    return LINE_NAMES.get(name, name)


def _sum(why: Explanation, query: int) -> list[dict[str, str]]:
    """The answer as a sum of few terms: start, data, channels that matter, result."""
    ledger, final = why.decomposition, float(why.decomposition.final[query, 0])
    n = why.shares.shape[1]
    terms = [(wording.beginning(ledger), float(ledger.initial[query, 0])),
             (f"from {counted(n, 'training sample')}", float(why.shares[query].sum()))]
    decimals = places(*(value for _, value in terms), final)
    rest = [(LINE_NAMES[key], float(ledger.channels[key][query, 0])) for key in CHANNELS if key != "data"]
    terms += [(name, value) for name, value in rest if abs(value) >= 0.5 * 10.0**-decimals]
    view = [{"op": "" if i == 0 else "+" if value >= 0 else "−", "name": name,
             "value": fixed(value, decimals) if i == 0 else fixed(abs(value), decimals).lstrip("+")}
            for i, (name, value) in enumerate(terms)]
    # Rounded terms need not add up to the rounded result; where they do not, the sign between them says so.
    gap = sum(round(value, decimals) for _, value in terms) - round(final, decimals)
    return [*view, {"op": "=" if abs(gap) < 0.1 * 10.0**-decimals else "≈", "name": f"{wording.subject(why)} now",
                    "value": fixed(final, decimals)}]


def _samples(
    why: Explanation, query: int, sign: int, album: Album, extent: Range | None, low: float, high: float
) -> list[dict[str, Any]]:
    ledger, place = why.decomposition, {int(i): row for row, i in enumerate(why.samples)}
    source, marks = words(ledger.info.get("run")), "" if extent is None else extent.marks(why.inputs[query])
    view = []
    for position in why.singled(query, sign):
        sample, share, row = int(ledger.sample_ids[position]), float(why.shares[query, position]), place.get(position)
        target = "" if row is None or why.kind != "output" or not why.sample_targets else why.sample_targets[row]
        view.append({
            "id": sample, "label": ledger.labels[position] if ledger.labels and not target else None, **_signed(share),
            "target": target, "percent": _percent(why, query, share),
            "bars": "" if extent is None or row is None else extent.bars(why.sample_inputs[row]), "marks": marks,
            "picture": {"uri": "", "words": ""} if row is None else
            album.sample(source, sample, why.sample_inputs[row], low, high),
        })
    return view


def _apart(why: Explanation, query: int) -> str:
    """Whether the shares booked meet the output at the end, or other lines of the balance sheet keep them apart."""
    ledger = why.decomposition
    rest = float(ledger.final[query, 0] - ledger.initial[query, 0] - why.shares[query].sum())
    if abs(rest) <= TOUCHING * float(ledger.path[query, 0].double().max() - ledger.path[query, 0].double().min()):
        return ", and they meet at the end"
    return f"; at the end {signed(rest)} is between them, from the other lines of the balance sheet"


def _charts(why: Explanation, query: int) -> list[dict[str, Any]]:
    ledger, answer, chances = why.decomposition, why.answer(query), why.probabilities(query)
    half, settled = why.learned(query)
    path = ledger.path[query, 0].double()
    data = ledger.initial[query, 0] + why.booked(query)
    both = torch.cat([path, data, torch.zeros(1, dtype=torch.float64)])
    name = wording.subject(why)
    drawn = [charts.chart(
        [("start plus the shares booked so far", "data", data), (name, "up", path)],
        ("half of the way is made, to stay", half),
        f"{name} went from {signed(float(path[0]))} to {signed(float(path[-1]))} over {counted(why.updates, 'step')}",
        low=float(both.min()), high=float(both.max()), moments=ledger.moments,
    )]
    if answer is not None and chances is not None:
        predicted, runner_up = (shortened(why.class_name(i)) for i in answer)
        drawn.append(charts.chart(
            [(f"probability of {runner_up}", "down", chances[answer[1]]),
             (f"probability of {predicted}", "up", chances[answer[0]])],
            ("the prediction has not changed since", settled),
            f"the probability of {predicted} went from {chance(float(chances[answer[0], 0]))} "
            f"to {chance(float(chances[answer[0], -1]))}",
            low=0.0, high=1.0, moments=ledger.moments,
        ))
    return drawn


def _frames(why: Explanation, query: int) -> dict[str, Any]:
    """Training at some moments: what the network said, how probable each class was, what each group had added."""
    moments, ledger = charts.moments(why.steps), why.decomposition
    chances, columns, cells, panels = why.probabilities(query), [], [], []
    if chances is not None:
        order = chances[:, -1].argsort(descending=True, stable=True)[:MOST_GROUPS].sort().values.tolist()
        rows = [(why.class_name(i), chances[i, moments]) for i in order]
        columns += [f"p({shortened(name)})" for name, _ in rows]
        panels.append(_panel("How probable it found each answer", rows, 2, zero=0.0, unit=1000.0, decimals=None))
        cells += [[f"{value:.2f}" for value in values.tolist()] for _, values in rows]
    steps = ledger.group_steps[query, 0] if ledger.group_steps is not None and ledger.groups else ledger.steps[query]
    booked = torch.cat([torch.zeros(len(steps), 1, dtype=torch.float64), steps.double().cumsum(1)], 1)[:, moments]
    names = why.group_names() if len(steps) > 1 or ledger.groups else ["all samples"]
    strongest = booked[:, -1].abs().argsort(descending=True, stable=True)[:MOST_GROUPS]
    kept = strongest[booked[strongest, -1].argsort(descending=True, stable=True)].tolist()
    zero, unit = charts.scale(booked[kept].flatten().tolist())
    rows = [(names[g], booked[g]) for g in kept]
    who = "each group" if len(rows) > 1 else "the samples"
    title = f"What was booked on {who} by then, in {why.unit}"
    decimals = places(*booked[kept].flatten().tolist())
    panels.append(_panel(title, rows, 2 + len(columns), zero=zero, unit=unit, decimals=decimals))
    columns += [f"booked on {shortened(name)}" for name, _ in rows]
    cells += [[_marked(value, decimals) for value in values.tolist()] for _, values in rows]
    frames = [
        {"step": ledger.moments[step], "says": _says(why, query, step), "cells": [column[i] for column in cells]}
        for i, step in enumerate(moments)
    ]
    return {"columns": columns, "frames": frames, "panels": panels}


def _panel(
    title: str, rows: list[tuple[str, Tensor]], first: int, *, zero: float, unit: float, decimals: int | None
) -> dict[str, Any]:
    """Bars at the last moment: probabilities, or amounts with a sign and so many decimals."""
    view = []
    for place, (name, values) in enumerate(rows):
        value = float(values[-1])
        view.append({
            "column": first + place, "name": name, "bar": charts.bar(value, zero, unit),
            "class": "data" if decimals is None else "down" if value < 0 else "up",
            "text": f"{value:.2f}" if decimals is None else _marked(value, decimals),
        })
    return {"title": title, "rows": view, "zero": zero, "scale": f"{unit:.6g}", "signed": decimals is not None}


def _marked(value: float, decimals: int) -> str:
    text = fixed(value, decimals)
    return f"{'▲' if text[0] == '+' else '▼' if text[0] == '−' else '·'} {text}"


def _says(why: Explanation, query: int, step: int) -> str:
    lead = float(why.decomposition.path[query, 0, step])
    chances, answer = why.probabilities(query), why.answer(query)
    at = f"Step {why.decomposition.moments[step]} of {why.updates}"
    if chances is None or answer is None:
        return f"{at}: output {number(lead)}"
    best = int(chances[:, step].argmax())
    what = "lead" if why.kind == "margin" else "output"
    said = shortened(why.class_name(best))
    return f"{at}: it says {said} ({chance(float(chances[best, step]))}); {what} {signed(lead)}"
