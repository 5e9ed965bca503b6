"""What was foretold of each experiment by a first run with one seed, and what holds."""

from __future__ import annotations

from .found import Found, told
from .listing import Listing

__all__ = ["verdicts"]


def verdicts(found: Found) -> Listing:
    """A row for each experiment: expected, measured, and a verdict that is computed from the numbers."""
    rows = [made(found) for made in (_e1, _e2, _e3, _e4, _e5, _e6, _e7, _e8, _geometry, _e9, _e10)]
    counts = {word: sum(row["verdict"].startswith(word) for row in rows) for word in ("confirmed", "corrected")}
    return Listing(f"Of {len(rows)} expectations {counts['confirmed']} are confirmed and {counts['corrected']} "
                   "corrected. What was expected was measured before with one seed and other settings, so that shapes "
                   "are compared and not digits.", rows)


def _row(name: str, expected: str, measured: str, holds: bool, correction: str = "") -> dict[str, str]:
    """A row; a correction is told also where the rest holds."""
    verdict = "confirmed" if holds else "corrected"
    return {"experiment": name, "expected": expected, "measured": measured,
            "verdict": f"{verdict}{', but ' if holds else ': '}{correction}" if correction else verdict}


def _e1(found: Found) -> dict[str, str]:
    n = found.e1[0]
    holds = n["width"] < 0.6 * n["null width"] and n["largest sum of a stage"] <= 1e-12
    return _row("E1 optimal denoiser", "half of its changes are within 1.5 of ln noise; a stage sums to nought",
                f"within {told(n['width'])} (even stages {told(n['null width'])}); sums up to "
                f"{told(n['largest sum of a stage'])}; images mixed {told(n['n_eff first'], 0)} to "
                f"{told(n['n_eff last'], 1)}", holds)


def _e2(found: Found) -> dict[str, str]:
    fit, conv = found.e2["MLP"], found.e2["convolutions"]
    at = int((fit.levels - 0.3).abs().argmin())
    beyond = int((conv.levels - 1).abs().argmin())
    own, other = fit.nearest(at), conv.nearest(beyond)
    els = max(float(conv.r2[i, beyond]) for i, name in enumerate(conv.names) if name.startswith("ELS"))
    return _row("E2 closed forms", "at noise .3 the Wiener denoiser is nearest to the MLP (r² .97); convolutions are "
                "nearest to a local one; the equivariant one fails at noise 1",
                f"MLP: {own}, r² {told(float(fit.r2[fit.names.index(own), at]))}; convolutions at noise 1: {other}; "
                f"equivariant there r² {told(els)}",
                own == "Wiener" and "LS" in other and els <= 0,
                "" if els <= 0 else "the equivariant one, with borders cropped, does not fail")


def _e3(found: Found) -> dict[str, str]:
    g = found.e3
    trace, wiener = g.of("MLP", "trace"), g.of("Wiener", "trace")
    skew, null, optimal = (g.of(name, "asymmetry") for name in ("MLP", "untrained", "optimal"))
    falls = bool(trace[0] > trace[-1]) and float(skew[-1]) > float(skew[0])
    first = float(g.of("optimal", "trace")[0])
    return _row("E3 Jacobians", "degrees of freedom 55 to 1 beside Wiener 50 to .7 and optimal 18 to .7; asymmetry "
                ".02 to .35",
                f"{told(float(trace[0]), 0)} to {told(float(trace[-1]), 1)}, Wiener {told(float(wiener[0]), 0)} to "
                f"{told(float(wiener[-1]), 1)}, optimal {first:.1f} to "
                f"{told(float(g.of('optimal', 'trace')[-1]), 1)}; asymmetry {told(float(skew[0]))} to "
                f"{told(float(skew[-1]))}, untrained {told(float(null[0]))} to {told(float(null[-1]))}, optimal "
                f"{float(optimal.nan_to_num().abs().max()):.2f}", falls,
                "" if 9 < first < 36 else "of the optimal denoiser at low noise the mean is not 18")


def _e4(found: Found) -> dict[str, str]:
    share = found.e4.values["memorised"].mean(0)
    sizes = found.e4.sizes
    words = ", ".join(f"{told(float(value), 3)} at {n}" for n, value in zip(sizes, share, strict=True))
    return _row("E4 memorised", "copies .83 at n = 8, .14 at 32, nought from 512 on", words,
                float(share[0]) > 0.5 and float(share[-1]) < 0.05, "where it turns depends on the length of training")


def _e5(found: Found) -> dict[str, str]:
    last = {pair: float(values[:, -1].mean()) for pair, values in found.e5.values.items()}
    own, near, wiener = last["halves"], last["nearest training point"], last["halves, Wiener"]
    return _row("E5 disjoint halves", "two halves agree (.94) more than with their nearest training points (.73)",
                f"{told(own)} against {told(near)}; other noise {told(last['halves, other noise'])}; Wiener denoisers "
                f"of the halves {told(wiener)}", bool(own > near),
                "Wiener denoisers, which only know a covariance, agree more" if wiener > own else "")


def _e6(found: Found) -> dict[str, str]:
    b = found.e6["blocks"]
    return _row("E6 noise kernel", "two blocks of noise levels, cosines .98 within and −.06 across; index .44 to .58 "
                "at the ends", f"{told(b['low'])} and {told(b['high'])} within, {told(b['across'])} across; index "
                f"{told(found.e6['index'])}, untrained {told(found.e6['untrained'])}, shuffled "
                f"{told(found.e6['shuffled'])}", all(found.e6["confirmed"].values()))


def _e7(found: Found) -> dict[str, str]:
    local = found.e7["confirmed"]["local beyond shuffled draws"]
    return _row("E7 path by noise", "path shares are somewhat local, index .04 to .39; they cancel 8.8 times",
                f"index {told(found.e7['index'])}, shuffled draws {told(found.e7['shuffled'])}; they cancel up to "
                f"{told(found.e7['cancellation'], 1)} times", local,
                "" if local else "no more local than shuffled draws")


def _e8(found: Found) -> dict[str, str]:
    one, other = found.end("denoiser"), found.end("GAN")
    copies = max(one.copies, other.copies)
    level = abs(one.coverage - other.coverage) <= 0.1
    return _row("E8 coverage", "GAN .69, denoiser .66 to .74; no copies",
                f"GAN {other.said()}, denoiser {one.said()}; real points {found.end('real points').said()}, Wiener "
                f"{found.end('the Wiener denoiser').said()}, optimal "
                f"{found.end('the optimal denoiser').said()}; copies at most {told(copies, 3)}",
                level and copies < 0.01, "" if level else "not level with these settings")


def _geometry(found: Found) -> dict[str, str]:
    n = found.geometry[0]
    kernel, null = n["R1: critic alignment"], n["R1: critic alignment, untrained"]
    return _row("E8 geometry", "the critic's slopes span 20 of 64 directions, 4 % shared; its kernel is aligned "
                ".02 to .035 with real or not",
                f"{told(n['R1: slope rank'], 0)} (untrained {told(n['R1: slope rank, untrained'], 0)}), "
                f"{n['R1: mean direction']:.0%} shared; aligned {told(kernel, 3)}, untrained {told(null, 3)}",
                kernel > null, "" if kernel > null else "the alignment is not above that of the untrained critic")


def _e9(found: Found) -> dict[str, str]:
    n = found.e9[0]
    learned = n["own_real"] > max(n["untrained_real"], n["nearest_real"])
    return _row("E9 witness", "classes cancel 2·10⁴ times; the own class is on top for 96 % of real and 79 % of "
                "generated digits", f"{told(n['kappa'], 0)} times; {n['own_real']:.0%} of real (untrained kernel "
                f"{n['untrained_real']:.0%}, nearest pixels {n['nearest_real']:.0%}, chance {n['chance']:.0%}), "
                f"{n['own_generated']:.0%} of generated (untrained {n['untrained_generated']:.0%})",
                n["kappa"] > 100 and learned, "" if learned else "the own class needs no learning: a null does as well")


def _e10(found: Found) -> dict[str, str]:
    low, high = found.e10[1].range("critic, denoiser")
    return _row("E10 bridge", "at generated points the cosine of the critic's slope and the denoiser's step is within "
                "±.12", f"{told(low)} to {told(high)}; untrained critic "
                f"{' to '.join(told(v) for v in found.e10[1].range('untrained critic, denoiser'))}, chance "
                f"±{told(found.e10[1].chance(), 3)}", max(abs(low), abs(high)) <= 0.2)
