"""How fast layers of features are, from what the benchmark kept."""

import json
from pathlib import Path

import kernelscope as ks

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "snnk.json"


def speed(kept: Path = KEPT) -> tuple[str, list[str | tuple[str, ks.TradeOffs]]]:
    """The times as fast for each number of features, in short and in full; a sentence where nothing was kept."""
    if not kept.exists():
        return "", ["How fast such layers are at inference is measured by benchmarks/snnk.py, whose numbers are not "
                    "here; this page does not say."]
    found = json.loads(kept.read_text(encoding="utf-8"))
    points = [(row["name"], m, one["median"]) for row in found["rows"]
              for m, one in zip(found["sizes"], row["sizes"], strict=True)]
    level = [f"{row['name']} {row['crossover']:.0f}" for row in found["rows"] if row["crossover"] is not None]
    least, most = found["sizes"][0], found["sizes"][-1]
    always = [row["name"] for row in found["rows"] if all(one["median"] < 1 for one in row["sizes"])]
    ever = [row["name"] for row in found["rows"] if all(one["median"] >= 1 for one in row["sizes"])]
    said = f" A layer takes as long as what it stands for at so many features: {'; '.join(level)}." if level else ""
    said += f" Always slower, from {least} features on: {'; '.join(always)}." if always else ""
    said += f" Faster up to {most:,} features: {'; '.join(ever)}." if ever else ""
    most_of_all = max(points, key=lambda point: point[2])
    short = (f"At inference {most_of_all[0]} with {most_of_all[1]} features is {most_of_all[2]:.2g} times as fast as "
             "what it stands for.")
    return short, [f"{found['title']}{said} Speed says nothing of errors: a layer of few "
                   "features is fast, and far off.",
            ("Speed at inference", ks.trade_offs(points, cost="features", measure="times as fast",
                                                 lines={"as fast": 1.0}))]
