"""Adapters of random features beside the standard ones: accuracy against the numbers that are trained."""

import pandas as pd

import kernelscope as ks

from .adapters import QUICK, Settings, ground, runs, standard, summary, ways

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


def called(way: str) -> str:
    """A way in words."""
    word = next((word for start, word in NAMES.items() if way.startswith(start)), "head alone")
    _, sign, size = way.partition("=")
    return f"{word} {way[way.index('=') - 1]} = {size}" if sign else word


def level(table: pd.DataFrame) -> pd.DataFrame:
    """The ways that are not more than one standard error below the standard one."""
    return table[table["difference"] >= -table["its standard error"]]


def holds(table: pd.DataFrame) -> bool:
    """Whether an adapter of random features with so many times fewer numbers is level with the standard one."""
    own = table[table["way"].str.startswith("features")]
    return bool(len(level(own[own["times fewer"] >= FEWER])))


def asked(table: pd.DataFrame, usual: str) -> str:
    """What holds, and who else is level."""
    own = table[table["way"].str.startswith("features")]
    others = [f"{called(way)} ({size:,})" for way, size in zip(level(table)["way"], level(table)["parameters"],
                                                              strict=True) if way != usual]
    rows = "; ".join(f"m = {way.removeprefix('features m=')}, {size:,} numbers, {differ:+.4f} ± {off:.4f}"
                     for way, size, differ, off in zip(own["way"], own["parameters"], own["difference"],
                                                       own["its standard error"], strict=True)).replace("-", "−")
    return (f"That an adapter of random features needs {FEWER} times fewer numbers than the standard one for the same "
            f"accuracy within one standard error {'holds' if holds(table) else 'does not hold'} here. Accuracy above "
            f"that of the {called(usual)}, seed by seed: {rows}. Not more than one standard error below it, with so "
            f"many numbers: {', '.join(others) or 'none'}.")


def tuning(quick: bool = False) -> tuple[str, list[str | tuple[str, ks.TradeOffs]]]:
    """Accuracy of each way against its numbers, the head alone as a line; in short, and in full."""
    settings = QUICK if quick else Settings()
    found, classes, loss = compared(settings)
    usual = standard(settings)
    table = summary(found, usual)
    of = table.set_index("way")
    each = {way: rows["accuracy"].tolist() for way, rows in found.sort_values("seed").groupby("way", sort=False)}
    points = [(called(way).partition(" m =")[0].partition(" r =")[0], of.loc[way, "parameters"], each[way])
              for way in of.index if way not in ("head", "everything")]
    trade = ks.trade_offs(points, cost="trained numbers", measure="test accuracy",
                          lines={"head alone": of.loc["head", "accuracy"]})
    # Of rivals, whatever random features bring has to be seen beside these.
    nulls = ", ".join(f"{called(way)} {of.loc[way, 'accuracy']:.4f} ± {of.loc[way, 'standard error']:.4f} "
                      f"({of.loc[way, 'parameters']:,})" for way in of.index)
    few = f"features m={settings.features[0]}"
    small = found.pivot(index="seed", columns="way", values="accuracy")
    against = "; ".join(f"{called(way)} {gap.mean():+.4f} ± {gap.sem():.4f}".replace("-", "−") for way, gap in (
        (way, small[few] - small[way]) for way in ("head", "low rank r=1", "bottleneck r=1")))
    own = of.loc[few]
    short = (f"That adapters of random features need {FEWER} times fewer numbers than standard ones "
             f"{'holds' if holds(table) else 'does not hold'} on text: {own['accuracy']:.4f} with "
             f"{int(own['parameters']):,} against {of.loc[usual, 'accuracy']:.4f} with "
             f"{of.loc[usual, 'parameters']:,}, and {of.loc['head', 'accuracy']:.4f} with the head alone.")
    return short, [
        f"A transformer of {settings.layers} blocks with {settings.d} numbers a word has learned to guess words of the "
        f"language reference of Python and of docstrings of modules ({loss:.2f} nats a word). It is then frozen, and "
        f"tells from which of {classes} packages a passage of {settings.length} tokens comes; a docstring is on one "
        f"side of the split only. All ways train a head beside, which is not counted, for {settings.steps} steps on "
        f"the same passages; {len(settings.seeds)} seeds, of splits and of starts. Accuracy, with the numbers that are "
        f"trained: {nulls}; chance is {1 / classes:.4f}. Everything is no part of the drawing, as it is far off.",
        f"{asked(table, usual)} The smallest, with m = {settings.features[0]}, is so much above others of about its "
        f"size and less: {against}.",
        ("Fine-tuning a transformer", trade),
    ]
