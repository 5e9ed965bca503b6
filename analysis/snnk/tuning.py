"""Adapters of random features beside the standard ones: accuracy against the numbers that are trained."""

import pandas as pd

import kernelscope as ks

from .adapters import QUICK, Settings, ground, runs, standard, summary, verdict, ways

#: What is not run, as time is short: it stands between others.
LEFT = ("constant", "scaled features")
#: How ways are called on the page.
NAMES = {"features": "adapter of random features", "bottleneck": "standard adapter", "low rank": "low rank (LoRA)",
         "everything": "everything"}
#: What is asked for: so many times fewer numbers.
FEWER = 5


def compared(settings: Settings) -> tuple[pd.DataFrame, int, float]:
    """Every way with every seed; the number of classes, and the loss that pretraining ended with."""
    base = ground(settings)
    chosen = [way for way in ways(settings) if not way.name.startswith(LEFT)]
    return runs(base, settings, chosen), len(base.classes), base.loss


def asked(table: pd.DataFrame, usual: str) -> str:
    """Whether an adapter of random features with so many times fewer numbers is level with the standard one."""
    own = table[table["way"].str.startswith("features")]
    small = own[own["times fewer"] >= FEWER]
    level = small[small["difference"] >= -small["its standard error"]]
    holds = "holds" if len(level) else "does not hold"
    rows = "; ".join(f"m = {way.removeprefix('features m=')}, {size:,} numbers, {differ:+.4f} ± {off:.4f}"
                     for way, size, differ, off in zip(own["way"], own["parameters"], own["difference"],
                                                       own["its standard error"], strict=True)).replace("-", "−")
    return (f"That an adapter of random features needs {FEWER} times fewer numbers than the standard one for the same "
            f"accuracy within one standard error {holds} here. Accuracy beside {usual}, seed by seed: {rows}.")


def tuning(quick: bool = False) -> list[str | tuple[str, ks.TradeOffs]]:
    """Accuracy of each way against its numbers, the head alone as a line."""
    settings = QUICK if quick else Settings()
    found, classes, loss = compared(settings)
    usual = standard(settings)
    table = summary(found, usual)
    of = table.set_index("way")
    each = {way: rows["accuracy"].tolist() for way, rows in found.sort_values("seed").groupby("way", sort=False)}
    points = [(next(word for start, word in NAMES.items() if str(way).startswith(start)), of.loc[way, "parameters"],
               each[way]) for way in of.index if way != "head"]
    trade = ks.trade_offs(points, cost="numbers trained beside the head", measure="test accuracy",
                          lines={"head alone": of.loc["head", "accuracy"], "chance": 1 / classes})
    # Of rivals, whatever random features bring has to be seen beside these.
    nulls = ", ".join(f"{word} {of.loc[way, 'accuracy']:.4f} ± {of.loc[way, 'standard error']:.4f} "
                      f"({of.loc[way, 'parameters']:,})" for way, word in (
                          ("head", "head alone"), ("low rank r=1", "low rank r = 1"),
                          ("bottleneck r=1", "standard adapter r = 1"), (usual, f"standard adapter {usual[11:]}"),
                          ("everything", "everything")))
    few = f"features m={settings.features[0]}"
    small = found.pivot(index="seed", columns="way", values="accuracy")
    against = "; ".join(f"{word} {gap.mean():+.4f} ± {gap.sem():.4f}".replace("-", "−") for word, gap in (
        ("the head alone", small[few] - small["head"]),
        ("low rank r = 1", small[few] - small["low rank r=1"]),
        ("the standard adapter r = 1", small[few] - small["bottleneck r=1"])))
    return [
        f"A transformer of {settings.layers} blocks with {settings.d} numbers a word has learned to guess words of the "
        f"language reference of Python and of docstrings of modules ({loss:.2f} nats a word). It is then frozen, and "
        f"tells from which of {classes} packages a passage of {settings.length} tokens comes; a docstring is on one "
        f"side of the split only. All ways train a head beside, which is not counted, for {settings.steps} steps on "
        f"the same passages; {len(settings.seeds)} seeds, of splits and of starts. Accuracy, with the numbers that are "
        f"trained: {nulls}.",
        f"{asked(table, usual)} {verdict(table, usual)} The smallest, {few}, against others of about its size and "
        f"less: {against}.",
        ("Fine-tuning a transformer", trade),
    ]
