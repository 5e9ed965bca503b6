"""The section of two runs side by side: what differs first, the probes and samples behind it, and every number."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from .. import pictures, plots
from ..decomposition.wording import counted, number
from ..diagnostics.comparing.metrics import METRICS, SIDES
from ..diagnostics.comparing.result import Measure, RunComparison
from ..diagnostics.comparing.wording import LIMIT, printed
from ..plots.run_comparisons import shows
from .album import Album
from .cells import checks

#: The headings of claims.
TOPICS = {"data": "Data", "answers": "Answers", "right": "Right or wrong", "loss": "Loss",
          "samples": "Samples they lean on", "kernels": "Kernels", "spectra": "Effective rank", "coverage": "Coverage",
          "cancellation": "Whether shares can be read"}

#: How many probes that are answered differently are shown, and how many samples of each kind.
MOST_PROBES, MOST_SAMPLES = 12, 8


def compared(result: RunComparison, album: Album, name: str) -> dict[str, Any]:
    """The view of a comparison: claims with their nulls, differing probes, samples, drawings, and the table."""
    told = result.claims()
    return checks(result) | {
        "sentence": _about(result),
        "groups_of_claims": [(heading, [{"topic": TOPICS[claim.topic], "text": claim.text, "null": claim.null}
                                        for claim in told if claim.differs == differs])
                             for heading, differs in (("What differs", True), ("What is not shown to differ", False))],
        "probes": _probes(result, album),
        "samples": _samples(result, album),
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show)) for show in shows(result)],
        "groups": _groups(result),
    }


def _about(result: RunComparison) -> str:
    runs = result.info["runs"]
    made = [f"{name} ({counted(run['steps'], 'step')} of {', '.join(run['rules']) or 'no optimizer'}, "
            f"{counted(run['parameters'], 'parameter')})" for name, run in zip(result.columns, runs, strict=True)]
    explained = f" Contributions are to {result.info['explained']}." if result.contributions else ""
    return " ".join([f"{' and '.join(made)}, asked about the same {counted(len(result), 'probe')}. Intervals are over "
                     f"probes, not over runs.{explained}", *result.info["notes"]])


def _probes(result: RunComparison, album: Album) -> dict[str, Any]:
    table = result.differing()
    held = result.points.get("probes")
    low, high = (0.0, 1.0) if held is None else pictures.limits(held)
    rows = [{"picture": {"uri": "", "words": ""} if held is None or i >= len(held)
             else album.query(held[i], low, high, 64), "name": row[0], "a": row[1], "b": row[2],
             "true": row[3] if len(row) > 3 else None}
            for i, row in enumerate(table.head(MOST_PROBES).itertuples(index=False, name=None))]
    left = len(table) - len(rows)
    return {"rows": rows, "left_out": f"{left:,} more are not shown; differing() has them all." if left > 0 else ""}


def _samples(result: RunComparison, album: Album) -> list[dict[str, Any]]:
    if not result.contributions:
        return []
    kappas = [result.measure(f"kappa_{side}").value for side in SIDES]
    sized = all(kappa <= LIMIT for kappa in kappas)
    found = []
    for heading, table, side, class_ in (
            ("both lean on", result.shared(), "a", ""),
            (f"only {result.columns[0]} leans on", result.only_a(), "a", "up"),
            (f"only {result.columns[1]} leans on", result.only_b(), "b", "down")):
        cards = []
        for row in table.head(MOST_SAMPLES).to_dict("records"):
            id_ = int(row[f"sample in {side}"])
            cards.append({"id": id_, "label": row.get("label"), "picture": _picture(result, album, side, id_),
                          "said": " | ".join(_told(row, each, sized) for each in SIDES)})
        found.append({"heading": heading, "class": class_, "cards": cards, "count": len(table)})
    return found


def _told(row: dict[str, Any], side: str, sized: bool) -> str:
    """How far one run leans on a sample: its mean contribution in size, or its rank where these cancel."""
    if row[f"rank in {side}"] != row[f"rank in {side}"]:
        return "not drawn"
    return number(row[f"size in {side}"]) if sized else f"{row[f'rank in {side}']:.0f}."


def _picture(result: RunComparison, album: Album, side: str, id_: int) -> dict[str, str]:
    held, ids = result.points.get(side), result.points.get(f"{side} ids")
    if held is None or ids is None or id_ not in ids.tolist():
        return {"uri": "", "words": ""}
    low, high = pictures.limits(held)
    return album.sample(side, id_, held[ids.tolist().index(id_)], low, high)


def _groups(result: RunComparison) -> list[dict[str, Any]]:
    groups: dict[str, list[Measure]] = {}
    for measure in result.measures.values():
        groups.setdefault(METRICS[measure.name].group, []).append(measure)
    return [{"name": group, "rows": [{"label": result.label(one.name), "said": METRICS[one.name].said,
                                      "key": one.name, "value": str(one) if not one.why else "–",
                                      "nulls": "; ".join(f"{name} {printed(value)}" for name, value in
                                                         one.nulls.items()) or one.why or "–"} for one in rows]}
            for group, rows in groups.items()]
