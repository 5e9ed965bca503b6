"""The section of two generative models side by side: what can be claimed, what they make, and every number."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from .. import pictures, plots
from ..decomposition.wording import number
from ..diagnostics.winners import Interval
from ..generative.comparing.claims import LIMIT, told
from ..generative.comparing.comparison import GenerativeComparison, Row
from ..generative.comparing.metrics import METRICS
from ..generative.comparing.readings import OPTIMAL, WIENER
from ..pictures import picture_shape
from ..plots.comparisons import tiled
from .album import Album
from .cells import checks

#: Pictures in a row of samples, and rows.
ACROSS, DEEP = 16, 2

#: The headings of claims.
TOPICS = {"noise": "Where corrections act", "cancellation": "Whether shares can be read", "memorisation": "Copies",
          "coverage": "What is covered", "concentration": "How many points matter", "bridge": "The same correction?"}


def comparison(result: GenerativeComparison, album: Album, name: str) -> dict[str, Any]:
    """The view of a comparison: claims with their nulls, samples, one explanation of each, the table, the rules."""
    return checks(result) | {
        "sentence": _about(result),
        "claims": [{"topic": TOPICS[claim.topic], "text": claim.text, "null": claim.null} for claim in result.claims()],
        "strips": _strips(result, album),
        "drawings": [(Markup(plots.svg(result)), plots.title(result))] + _bridge(result),
        "explained": [one for side in (0, 1) if (one := _explained(result, side, album)) is not None],
        "columns": result.columns,
        "groups": _groups(result),
        "rules": result.rules,
        "unfair": result.unfair(),
    }


def _about(result: GenerativeComparison) -> str:
    info = result.info
    seeds = [f"{count} seed{'s' * (count > 1)} of {name}" for count, name in zip(info["seeds"], result.columns,
                                                                                  strict=True)]
    held = (f"{info['reference points']:,} points that neither was trained on" if info["held_out"]
            else "their own training points, since none were held out")
    intervals = "" if min(info["seeds"]) > 1 else " One run has no interval."
    return (f"{' and '.join(seeds)}, trained on the same {info['training points']:,} points. Each made "
            f"{info['samples']:,} samples, which are held against {held}.{intervals}")


def _strips(result: GenerativeComparison, album: Album) -> list[dict[str, Any]]:
    real = result.samples["real"]
    if picture_shape(real.shape[1:]) is None:
        return []
    low, high = pictures.limits(real)
    rows = [*zip(result.columns, ("a", "b"), strict=True),
            ("real, held out" if result.info["held_out"] else "real", "real"),
            (f"null: {WIENER}", WIENER), (f"null: {OPTIMAL}", OPTIMAL)]
    found = []
    for word, key in rows:
        sheet = tiled(result.samples[key], ACROSS, DEEP)
        found.append({"name": word, "picture": album.query(sheet if len(sheet) == 3 else sheet[0], low, high,
                                                           max(sheet.shape))})
    return found


def _bridge(result: GenerativeComparison) -> list[tuple[Markup, str]]:
    if result.bridge is None:
        return []
    return [(Markup(plots.svg(result.bridge, show=show)), plots.title(result.bridge, show=show))
            for show in ("generated", "noisy")]


def _explained(result: GenerativeComparison, side: int, album: Album) -> dict[str, Any] | None:
    """One sample of a side with the training points that its correction rests on, in ranks where terms cancel."""
    key = "ab"[side]
    if f"{key}.sample" not in result.explained:
        return None
    held = {name.partition(".")[2]: value for name, value in result.explained.items() if name.startswith(f"{key}.")}
    row = result.row("cancellation")
    kappa = row.values[side].mean
    low, high = pictures.limits(result.samples["real"])
    each, count = held["values"], len(held["values"]) // 2
    cards = []
    for place, (id_, value) in enumerate(zip(held["ids"].tolist(), each.tolist(), strict=True)):
        up = place < count
        rank = place + 1 if up else len(each) - place
        said = f"{rank}. of all" if kappa > LIMIT or math.isnan(kappa) else number(value)
        cards.append({"id": id_, "up": up, "said": said,
                      "picture": album.sample("train", id_, held["points"][place], low, high)})
    return {
        "name": result.columns[side], "picture": album.query(held["sample"], low, high, 64),
        "nearest": album.query(held["nearest"], low, high, 64), "nearest_id": int(held["nearest_id"]),
        "sentence": f"κ is {number(kappa)} at {row.where[side]}" + (
            ": the terms undo each other, so ranks stand here and no shares." if kappa > LIMIT
            else ": contributions are told beside what all points add alike."),
        "up": [card for card in cards if card["up"]], "down": [card for card in cards if not card["up"]][::-1],
    }


def _groups(result: GenerativeComparison) -> list[dict[str, Any]]:
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        found.setdefault(METRICS[row.metric].group, []).append(row)
    return [{"name": group, "rows": [_line(row) for row in rows],
             "why": list(dict.fromkeys(f"{name}, {why}" for row in rows
                                       for name, why in zip(result.columns, row.why, strict=True) if why))}
            for group, rows in found.items()]


def _line(row: Row) -> dict[str, Any]:
    """A line of the table in words."""
    cells = [{"text": _cell(found, why), "where": where or why}
             for found, why, where in zip(row.values, row.why, row.where, strict=True)]
    return {"label": row.label, "said": METRICS[row.metric].said, "cells": cells, "nulls": _nulls(row) or row.why_null}


def _cell(found: Interval, why: str) -> str:
    return "–" if why or math.isnan(found.mean) else told(found)


def _nulls(row: Row) -> str:
    parts = []
    for name in dict.fromkeys(name for side in row.nulls for name in side):
        values = [number(side[name]) if name in side and not math.isnan(side[name]) else "–" for side in row.nulls]
        one = values[0] == values[1] or "–" in values
        parts.append(f"{name} {next((v for v in values if v != '–'), '–') if one else ' | '.join(values)}")
    return "; ".join(parts)
