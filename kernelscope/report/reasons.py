"""What a page shows of an explanation: every word and number of it, ready to be set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import pictures
from ..decomposition import wording
from ..decomposition.explanation import Explanation
from ..decomposition.wording import certainty, chance, signed
from . import charts
from .album import Album
from .balance import sheet
from .facts import STATUS, facts, verdict

#: Explained inputs shown on one page for each explanation, and groups shown for each input.
MOST_QUERIES = 12
MOST_GROUPS = 12

#: Names of more letters than this get a wider column.
LONG = 8

LINE_NAMES = {
    "initial": "before training",
    "decay": "weight decay",
    "momentum": "momentum at the start",
    "buffers": "normalisation statistics",
    "rounding": "rounding in training",
    "unattributed": "unattributed",
    "residual": "round-off",
}


def explanation(why: Explanation, album: Album, name: str) -> dict[str, Any]:
    """The view of an explanation."""
    cases = [_case(why, query, album, f"{name}-{query}") for query in range(min(len(why), MOST_QUERIES))]
    rows = why.check().rows
    left_out = f"Showing {MOST_QUERIES} of {len(why)} explained inputs." if len(why) > MOST_QUERIES else ""
    names = why.group_names() + [why.class_name(i) for i in range(len(why.classes))]
    return {
        "cases": cases,
        "long_names": max(map(len, names), default=0) > LONG,
        "unit": why.unit,
        "checks": [{"name": row.name, "status": STATUS[row.status], "sentence": row.sentence} for row in rows],
        "verdict": verdict(rows),
        "facts": facts(why.decomposition),
        "left_out": left_out,
        "up": "▲ for this answer" if why.kind == "margin" else "▲ up",
        "down": "▼ against it" if why.kind == "margin" else "▼ down",
        "what": "the lead" if why.kind == "margin" else "the output",
        "header": "▼ against · ▲ for" if why.kind == "margin" else "▼ down · ▲ up",
        "accounting": wording.ACCOUNTING,
    }


def _case(why: Explanation, query: int, album: Album, name: str) -> dict[str, Any]:
    low, high = pictures.limits(why.inputs, why.sample_inputs)
    shown, left = _groups(why, query)
    values = [share for _, _, share in shown]
    zero, unit = charts.scale(values)
    truth, said = _truth(why, query), wording.clauses(why, query)
    ledger = why.decomposition
    return {
        "id": name,
        "headline": _headline(why, query),
        "truth": truth,
        "thumbnail": album.query(why.inputs[query], low, high, 64) | {"words": ""},
        "picture": album.query(why.inputs[query], low, high, 128),
        "sentence": " ".join(said[part] for part in ("caveat", "answer", "movement", "groups") if said[part]),
        "details": " ".join(said[part] for part in ("samples", "cancellation", "channels") if said[part]),
        "sum": _sum(why, query),
        "groups": [
            {"name": group, "size": "" if size is None else f"{size:,}", "bar": charts.bar(share, zero, unit),
             **_signed(share), "percent": _percent(why, query, share)}
            for group, size, share in shown
        ],
        "groups_left_out": left,
        "up": _samples(why, query, 1, album, low, high),
        "down": _samples(why, query, -1, album, low, high),
        "when": said["time"],
        "charts": _charts(why, query),
        **_frames(why, query),
        "balance": sheet(
            [(_line_name(why, query, word, kind), kind, value) for word, kind, value in _balance(why, query)],
            float(ledger.magnitude[query, 0]),
        ),
    }


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
        return f"The output is {float(why.decomposition.final[query, 0]):.4g}".replace("-", "−")
    return f"It says {why.class_name(answer[0])}, {certainty(float(chances[answer[0], -1]))}"


def _truth(why: Explanation, query: int) -> str:
    if why.targets is None:
        return ""
    answer, target = why.answer(query), why.targets[query]
    if answer is None:
        return f"true value {target}"
    right = why.class_name(answer[0]) == target
    return f"✓ correct: labelled {target}" if right else f"✗ wrong: labelled {target}"


def _groups(why: Explanation, query: int) -> tuple[list[tuple[str, int | None, float]], str]:
    """The strongest groups, from push up to push down, and a word on the others."""
    rows = list(zip(why.group_names(), why.group_sizes(), why.group_shares(query).tolist(), strict=True))
    rows.sort(key=lambda row: -abs(row[2]))
    rest = rows[MOST_GROUPS:]
    kept = sorted(rows[:MOST_GROUPS], key=lambda row: -row[2])
    if not rest:
        return kept, ""
    return kept, f"{len(rest)} more groups added {signed(sum(row[2] for row in rest))} together."


def _balance(why: Explanation, query: int) -> list[tuple[str, str, float]]:
    """The balance sheet with at most the strongest groups on lines of their own."""
    lines = why.balance(query)
    groups = [line for line in lines if line[1] == "group"]
    if len(groups) <= MOST_GROUPS:
        return lines
    kept = {name for name, _, _ in sorted(groups, key=lambda line: -abs(line[2]))[:MOST_GROUPS]}
    rest = [line for line in groups if line[0] not in kept]
    merged = (f"{len(rest)} more groups", "rest", float(sum(value for _, _, value in rest)))
    first = [line for line in lines if line[1] == "initial" or (line[1] == "group" and line[0] in kept)]
    last = [line for line in lines if line[1] in ("channel", "residual", "final")]
    return [*first, merged, *last]


def _line_name(why: Explanation, query: int, name: str, kind: str) -> str:
    if kind == "group":
        return f"samples labelled {name}" if why.decomposition.labels or why.decomposition.groups else name
    if kind == "final":
        return "the lead now" if why.kind == "margin" else "the output now"
    return LINE_NAMES.get(name, name)


def _sum(why: Explanation, query: int) -> list[dict[str, str]]:
    """The answer as a sum of few terms: start, data, channels that matter, result."""
    ledger = why.decomposition
    n = why.shares.shape[1]
    rest = {key: float(values[query, 0]) for key, values in ledger.channels.items() if key != "data"}
    terms = [("before training", float(ledger.initial[query, 0])),
             (f"from {n:,} training samples", float(why.shares[query].sum()))]
    terms += [(LINE_NAMES[key], value) for key, value in rest.items() if abs(value) >= 5e-4]
    view = [{"op": "" if i == 0 else "+" if value >= 0 else "−", "name": name,
             "value": (signed(value) if i == 0 else signed(abs(value)).lstrip("+"))}
            for i, (name, value) in enumerate(terms)]
    result, final = "the lead now" if why.kind == "margin" else "the output now", float(ledger.final[query, 0])
    # Rounded terms need not add up to the rounded result; where they do not, the sign between them says so.
    closes = abs(sum(round(value, 2) for _, value in terms) - round(final, 2)) < 1e-6
    return [*view, {"op": "=" if closes else "≈", "name": result, "value": signed(final)}]


def _samples(why: Explanation, query: int, sign: int, album: Album, low: float, high: float) -> list[dict[str, Any]]:
    ledger, place = why.decomposition, {int(i): row for row, i in enumerate(why.samples)}
    source = str(ledger.info.get("run", ""))
    view = []
    for position in why.ranked(query, why.k, sign):
        sample, share = int(ledger.sample_ids[position]), float(why.shares[query, position])
        known = position in place
        view.append({
            "id": sample, "label": None if ledger.labels is None else ledger.labels[position], **_signed(share),
            "percent": _percent(why, query, share),
            "picture": album.sample(source, sample, why.sample_inputs[place[position]], low, high) if known
            else {"uri": "", "words": ""},
        })
    return view


def _charts(why: Explanation, query: int) -> list[dict[str, Any]]:
    ledger, answer, chances = why.decomposition, why.answer(query), why.probabilities(query)
    half, settled = why.learned(query)
    path = ledger.path[query, 0].double()
    data = ledger.initial[query, 0] + why.booked(query)
    both = torch.cat([path, data, torch.zeros(1, dtype=torch.float64)])
    name = "the lead" if why.kind == "margin" else "the output"
    drawn = [charts.chart(
        [("start plus the samples’ shares so far", "data", data), (name, "up", path)],
        ("half of it was there to stay", half),
        f"{name} went from {signed(float(path[0]))} to {signed(float(path[-1]))} over {why.steps} steps",
        low=float(both.min()), high=float(both.max()),
    )]
    if answer is not None and chances is not None:
        predicted, runner_up = (why.class_name(i) for i in answer)
        drawn.append(charts.chart(
            [(f"probability of {runner_up}", "down", chances[answer[1]]),
             (f"probability of {predicted}", "up", chances[answer[0]])],
            ("the prediction has not changed since", settled),
            f"the probability of {predicted} went from {chance(float(chances[answer[0], 0]))} "
            f"to {chance(float(chances[answer[0], -1]))}",
            low=0.0, high=1.0, places=0,
        ))
    return drawn


def _frames(why: Explanation, query: int) -> dict[str, Any]:
    """Training at some moments: what the network said, how probable each class was, what each group had added."""
    moments, ledger = charts.moments(why.steps), why.decomposition
    chances, columns, cells, panels = why.probabilities(query), [], [], []
    if chances is not None:
        order = chances[:, -1].argsort(descending=True, stable=True)[:MOST_GROUPS].sort().values.tolist()
        rows = [(why.class_name(i), chances[i, moments]) for i in order]
        columns += [f"p({name})" for name, _ in rows]
        panels.append(_panel("What it believed", rows, 2, zero=0.0, unit=1000.0, sign=False))
        cells += [[f"{value:.2f}" for value in values.tolist()] for _, values in rows]
    steps = ledger.group_steps[query, 0] if ledger.group_steps is not None and ledger.groups else ledger.steps[query]
    booked = torch.cat([torch.zeros(len(steps), 1, dtype=torch.float64), steps.double().cumsum(1)], 1)[:, moments]
    names = why.group_names() if len(steps) > 1 or ledger.groups else ["all samples"]
    strongest = booked[:, -1].abs().argsort(descending=True, stable=True)[:MOST_GROUPS]
    kept = strongest[booked[strongest, -1].argsort(descending=True, stable=True)].tolist()
    zero, unit = charts.scale(booked[kept].flatten().tolist())
    rows = [(names[g], booked[g]) for g in kept]
    who = "each group" if len(rows) > 1 else "the samples"
    title = f"What {who} had added by then, in {why.unit}"
    panels.append(_panel(title, rows, 2 + len(columns), zero=zero, unit=unit, sign=True))
    columns += [f"from {name}" for name, _ in rows]
    cells += [[_marked(value) for value in values.tolist()] for _, values in rows]
    frames = [
        {"step": step, "says": _says(why, query, step), "cells": [column[i] for column in cells]}
        for i, step in enumerate(moments)
    ]
    return {"columns": columns, "frames": frames, "panels": panels}


def _panel(
    title: str, rows: list[tuple[str, Tensor]], first: int, *, zero: float, unit: float, sign: bool
) -> dict[str, Any]:
    view = []
    for place, (name, values) in enumerate(rows):
        value = float(values[-1])
        view.append({
            "column": first + place, "name": name, "bar": charts.bar(value, zero, unit),
            "class": ("down" if value < 0 else "up") if sign else "data",
            "text": _marked(value) if sign else f"{value:.2f}",
        })
    return {"title": title, "rows": view, "zero": zero, "scale": f"{unit:.6g}", "signed": sign}


def _marked(value: float) -> str:
    text = f"{abs(value):.2f}"
    return f"▲ +{text}" if value > 0 else f"▼ −{text}" if value < 0 else "· 0.00"


def _says(why: Explanation, query: int, step: int) -> str:
    lead = float(why.decomposition.path[query, 0, step])
    chances, answer = why.probabilities(query), why.answer(query)
    at = f"Step {step} of {why.steps}"
    if chances is None or answer is None:
        return f"{at}: output {lead:.4g}".replace("-", "−")
    best = int(chances[:, step].argmax())
    return f"{at}: it says {why.class_name(best)} ({chance(float(chances[best, step]))}); lead {signed(lead)}"
