"""The parts of the page: prose and results, and all numbers in the prose from the results."""

from __future__ import annotations

import kernelscope as ks
from kernelscope.result import Result

from .found import Found, Line, told
from .listing import Listing
from .verdicts import verdicts

__all__ = ["Items", "items", "summary"]

#: The rows of a comparison that are read along paths.
PATHS = ("cancellation", "class_cancellation", "from_real", "completeness", "n_eff", "participation", "gini")

Items = list["str | tuple[str, Result]"]


def summary(found: Found) -> Items:
    """The page in short, for a reader who has not read any paper: what it is about, and each question answered."""
    lead = (
        "Two kinds of models learn to draw handwritten digits. A denoiser (the core of a diffusion model) learns to "
        "take noise off, and draws by taking noise off in stages. A GAN has a generator, and a critic that tells it "
        "what to change. Both were trained by ordinary loops and recorded, so that whatever they learned is an exact "
        "sum of contributions: one for each training image, and of the denoiser for each noise level it was shown at. "
        "A contribution is accounting along this run; it does not say what leaving the image out would do, which is "
        "called influence and is measured by training again, in a part of its own. Every claim stands beside its null: "
        "what an untrained network, a shuffle, or a closed form without any network gives.")
    rows = [{"question": question, "found": answer, "null beside it": null} for question, answer, null in (
        _of_noise(found), _of_paths(found), _of_witness(found), _of_copies(found), _of_cover(found), _of_number(found),
        ("Is the critic a denoiser?", *_halves(found.e10[1].said())),
        ("What foretells what leaving images out does?", *_halves(found.e11["loss"].said())))]
    return [lead, ("In short", Listing("What was asked, what was found, and what it has to be held against.", rows))]


def _halves(text: str) -> tuple[str, str]:
    """A sentence of a result, cut where it begins to tell of nulls."""
    first, _, rest = text.partition("; " if "; " in text else ", where ")
    return _sentence(first), _sentence(rest) if rest else ""


def _of_noise(found: Found) -> tuple[str, str, str]:
    blocks, e6, n1 = found.e6["blocks"], found.e6, found.e1[0]
    two = min(blocks["low"], blocks["high"]) - blocks["across"] > 0.5
    return ("Where in noise are a denoiser’s corrections local?",
            f"In its kernel: learning at one noise level moves others "
            f"{'in two blocks' if two else 'without clear blocks'} "
            f"(cosines {told(blocks['low'])} and {told(blocks['high'])} within low and high noise, "
            f"{told(blocks['across'])} across), index of locality {told(e6['index'])}.",
            f"Untrained {told(e6['untrained'])}, levels shuffled {told(e6['shuffled'])}. The optimal denoiser, which "
            f"only gives images back, makes half of its changes within {told(n1['width'])} of ln noise; "
            f"even stages would take {told(n1['null width'])}.")


def _of_paths(found: Found) -> tuple[str, str, str]:
    e7 = found.e7
    local = e7["confirmed"]["local beyond shuffled draws"]
    return ("And what each noise of training added?",
            f"That is {'local too' if local else 'not local beyond chance'}: index {told(e7['index'])}, and the shares "
            f"cancel up to {told(e7['cancellation'], 1)} times.",
            f"With the noise of draws shuffled {told(e7['shuffled'])}.")


def _of_witness(found: Found) -> tuple[str, str, str]:
    n, path = found.e9[0], found.traced[0]
    beside = ", ".join(f"{'more' if n['own_real'] > n[null] else 'no more'} than {name}"
                       for name, null in (("untrained", "untrained_real"), ("pixels", "nearest_real")))
    cancels = "The critic is a small difference of two large sums, what real images and what generated ones taught it"
    return ("Why are there no percentages for the GAN?",
            f"{cancels if n['kappa'] > 10 else 'The critic’s terms hardly cancel'}: by classes their sizes are "
            f"{told(n['kappa'], 0)} times what they add up to, along the generator’s way {told(path['kappa'], 0)} "
            f"times. Beside the mean image the own class is on top for {n['own_real']:.0%} of held-out digits.",
            f"By the kernel of the untrained critic for {n['untrained_real']:.0%}, by the nearest pixels for "
            f"{n['nearest_real']:.0%}: {beside}.")


def _of_copies(found: Found) -> tuple[str, str, str]:
    share, (one, other) = found.e4.values["memorised"].mean(0), _ends(found)
    return ("Do they copy?",
            f"With all images {one.copies:.1%} of the denoiser’s and {other.copies:.1%} of the GAN’s samples are "
            f"copies; of a denoiser trained on {found.e4.sizes[0]} images {float(share[0]):.0%}.",
            f"Optimal denoiser {found.end('the optimal denoiser').copies:.0%}, held-out digits "
            f"{found.end('real points').copies:.1%}.")


def _of_cover(found: Found) -> tuple[str, str, str]:
    one, other = _ends(found)
    return ("What do they cover?",
            f"Of held-out digits, at settings that the same search chose and with as many images shown: denoiser "
            f"{one.said()}, GAN {other.said()}.",
            f"Wiener denoiser {found.end('the Wiener denoiser').said()}, real digits "
            f"{found.end('real points').said()}.")


def _of_number(found: Found) -> tuple[str, str, str]:
    digit, stage = found.digit, found.digit.decided(0)
    rests = float(digit.concentration("image").n_eff[0, stage])
    best = float(found.e1[1].to_frame()["n_eff"].iloc[-1])
    return ("On how many images does a sample rest?",
            f"Beside what all images add alike, the digit split below on {rests:,.0f} of {digit.tensor.shape[-1]:,} "
            f"where it was decided, the motion of the GAN on {found.traced[0]['n_eff']:,.0f}.",
            f"The optimal denoiser ends on {told(best, 1)}.")


def _ends(found: Found) -> tuple[Line, Line]:
    """Denoiser and GAN after as many presentations."""
    return found.end("denoiser"), found.end("GAN")


def items(found: Found) -> Items:
    """All parts in their order."""
    return [*_set_up(found), *_noise(found), *_forms(found), *_memory(found), *_witness(found), *_bridge(found),
            *_beside(found), *_removal(found), *_notes(found)]


def _set_up(found: Found) -> Items:
    s, (one, other) = found.settings, found.models.sizes
    rules = [{"rule": rule["rule"], "held": rule["held"], "found": rule["found"]} for rule in found.compared.rules]
    unfair = found.compared.unfair()
    said = f"All rules of a fair comparison hold but {', '.join(unfair)}" if unfair else (
        "All rules of a fair comparison that were looked at hold")
    told_of = (
        f"1. Digits of 8 × 8 pixels, 1437 for training and 360 held out, with entries from −1 to 1. The denoiser is a "
        f"fully connected network of {one:,} parameters with EDM’s preconditioning and noise law; the GAN is "
        f"non-saturating with the penalty R1 ({s.r1:g}) and has {other:,} in both networks together. Each is trained "
        f"with Adam for {s.steps:,} steps of {s.batch} images, with {len(s.seeds)} seeds; the first run of each is the "
        "one that is split. Experiments that need many trainings (E4, E5, E8’s coverage, E11) train many networks at "
        "once, with settings of their own. E1 to E11 are the experiments of the notes behind this page.")
    return [("What is done here, and how fair it is", Listing(f"{told_of} {said}.", rules))]


def _noise(found: Found) -> Items:
    n, e6, e7, digit = found.e1[0], found.e6, found.e7, found.digit
    alone = found.e6["independent"]
    return [
        f"2. Where in noise. E1: the optimal denoiser, the best one for the training images and nothing else, gives a "
        f"weighted mean of them, so its split is closed. Down the stages it mixes {n['n_eff first']:.0f} images, then "
        f"{n['n_eff last']:.1f}; the Gini index of weights goes from {told(n['gini first'])} to "
        f"{told(n['gini last'], 3)}. Half of the change lies at ln noise {told(n['change from'])} to "
        f"{told(n['change to'])}, and in 95 % of samples the last image leads from {told(n['fixed at'])} on. What "
        f"images gain at a stage others lose: sums are at most "
        f"{told(n['largest sum of a stage'])}. Null: the same change at each stage, {told(n['null width'])} wide.",
        ("E1: the optimal denoiser by stages", found.e1[1]),
        f"E6: the trained network. Its tangent kernel says which noise levels are joined: learning at one moves the "
        f"other. With the same image and noise at both levels the index of locality (0 as spread as the noise law, 1 "
        f"one level) is {told(e6['index'])}; of the untrained network {told(e6['untrained'])}, with levels shuffled "
        f"{told(e6['shuffled'])}. With other images and noise it is "
        f"{told(float(alone.index @ alone.weights))}. Numbers per noise level depend on the parameterisation and on "
        "the noise law, which are told.",
        ("E6: which noise levels the kernel joins", e6["result"]),
        f"E7: the path. What draws at each noise level of training added to what was learned at each level, in shares, "
        f"over {found.settings.steps:,} steps of Adam; the shares cancel up to "
        f"{told(e7['cancellation'], 1)} times. Within one bin of the own noise stands {e7['near']:.0%}, evenly spread "
        f"{e7['uniform']:.0%}. The share of the own class is {told(e7['own class'][0])} at the lowest and "
        f"{told(e7['own class'][1])} at the highest noise.",
        ("E7: which noise taught which", e7["result"]),
        f"One generated digit, split exactly over stage, noise of training and training image, along the line from "
        f"what the untrained network made of the noise to the digit. {_sentence(digit.said_of_noise())} It is "
        f"{digit.verdict()}. Along the way its contributions cancel, and where that is more than tenfold ranks beside "
        "the mean image are given in place of shares.",
        ("One generated digit explained", digit),
    ]


def _forms(found: Found) -> Items:
    fits: Items = [(f"E2: {name} beside closed forms", fit) for name, fit in found.e2.items()]
    return [
        "3. What a denoiser is. E2: trained denoisers beside closed forms at held-out digits: the Wiener denoiser "
        "knows mean and covariance, the optimal one the images, a local one (LS, with its window in pixels) only "
        "patches, an equivariant one (ELS) patches from everywhere. Nulls: the noisy point as it is, the untrained "
        "network.",
        *fits,
        "E3: the Jacobian of what is denoised by what is noisy. Its trace counts how many directions are kept; a true "
        "posterior mean has a symmetric one; the radius says how far pixels reach. Nulls are dashed: Wiener, optimal, "
        "untrained.",
        ("E3: Jacobians over noise", found.e3),
    ]


def _memory(found: Found) -> Items:
    return [
        f"4. Memorised or composed. E4: denoisers trained on more and more images, {len(found.e4.values['memorised'])} "
        "seeds each. A sample is a copy if its nearest training image is three times nearer than the second one. "
        "Nulls: the optimal denoiser, which copies, and real digits that are held out, which are no copies.",
        ("E4: from copies to new digits", found.e4),
        "E5: two denoisers trained on images of which they share none, asked with the same noise. If they agree, "
        "neither gives its own images back. Nulls: other noise, and the denoisers of both halves in closed form. The "
        "Wiener denoiser is the one to beat: it knows a covariance only.",
        ("E5: what disjoint halves agree on", found.e5),
    ]


def _witness(found: Found) -> Items:
    n, path = found.e9[0], found.traced[0]
    numbers, results = found.geometry
    parts = found.e9[1].parts()
    raised, lowered = float((parts[:, 0] > 0).double().mean()), float((parts[:, 2] < 0).double().mean())
    chord = "" if path["chord"] == 1 else (
        f" Gradients are averaged along {path['chord']:.0f} steps of the critic; along half as many "
        f"{told(path['moved'])} of the shares would stand elsewhere.")
    return [
        f"5. The critic as a running witness. E9: the critic’s score of a point is a sum over all real images, their "
        f"penalties and all generated points it was shown, complete to {told(n['epsilon2'])} of its terms and "
        f"{told(n['epsilon1'])} of the change. Real images raise the score of {raised:.0%} of points and generated "
        f"ones lower that of {lowered:.0%}; what is told apart is the rest. By classes κ is {told(n['kappa'], 0)}, by "
        f"single images {told(n['kappa_of_samples'], 0)} at the median point. Centred, the own class is on top for "
        f"{n['own_real']:.0%} of held-out and {n['own_generated']:.0%} of generated digits. Nulls: the kernel "
        f"of the untrained critic, {n['untrained_real']:.0%} and {n['untrained_generated']:.0%}; the class of the "
        "nearest "
        f"pixels, {n['nearest_real']:.0%} and {n['nearest_generated']:.0%}; chance {n['chance']:.0%}.",
        ("E9: the critic’s score as a witness", found.e9[1]),
        f"The generator moved through the critics of the run: its motion, traced to the real images behind each "
        f"critic’s field. κ is {told(path['kappa'], 0)}; the terms close to {told(path['epsilon2'])}.{chord} Real "
        f"images without mass and without a generated point near are called "
        f"dropped: {path['dropped_images']:.0f}, with masses shuffled {path['dropped_shuffled']:.1f}.",
        ("Generated digits traced to real ones", found.traced[1]),
        f"E8, geometry. The critic’s slopes at generated points span {told(numbers['R1: slope rank'], 1)} of 64 "
        f"directions, those of the untrained critic {told(numbers['R1: slope rank, untrained'], 1)}; without R1 "
        f"{told(numbers['no R1: slope rank'], 1)}. Its kernel is aligned {told(numbers['R1: critic alignment'], 3)} "
        f"with real against generated, untrained {told(numbers['R1: critic alignment, untrained'], 3)}. Of the game’s "
        f"eigenvalues {numbers['R1: turning']:.0%} turn, untrained {numbers['R1: turning, untrained']:.0%}.",
        ("E8: the geometry of the critic", results[0]),
        ("E8: how the game turns", results[1]),
    ]


def _bridge(found: Found) -> Items:
    n, b = found.e10
    near, held = (b.range(name) for name in ("critic, nearest of as many", "critic, nearest held out")) if (
        "critic, nearest held out" in b.generated) else (b.range("critic, nearest"),) * 2
    return [
        f"6. The bridge, E10. Both models can say at one and the same point which way to go: the critic by its slope, "
        f"the denoiser by its step. At generated points their cosine is "
        f"{_range(b.range('critic, denoiser'))} over noise levels; of an untrained critic "
        f"{_range(b.range('untrained critic, denoiser'))}; chance is ±{told(n['chance'], 3)}; two denoisers have "
        f"{_range(b.range('denoiser, Wiener'))}. Toward the nearest of as many training images the slope has "
        f"{told(near[0])}, toward the nearest held-out one {told(held[0])}. At real points with noise the slope’s "
        f"cosine with the way back is {_range(b.range('critic', 'noisy'))} (untrained "
        f"{_range(b.range('untrained critic', 'noisy'))}), the denoiser’s {_range(b.range('denoiser', 'noisy'))} "
        f"(untrained {_range(b.range('untrained denoiser', 'noisy'))}).",
        ("E10: is the critic a denoiser?", b),
    ]


def _beside(found: Found) -> Items:
    seeds = len(found.compared.info["seeds"]) and found.compared.info["seeds"][0]
    return [
        f"7. Side by side, {seeds} seeds of each, the models of part 1. Bars are 95 % intervals over seeds; hollow "
        "marks are nulls.",
        ("Side by side over seeds", found.compared),
        ("Contributions along the path of the first seed", _along(found.paths)),
        "E8: coverage of held-out digits and copies of training digits over seeds, of models that were trained many at "
        "a time with settings of their own, beside what needs no training and beside real digits.",
        ("E8: who covers and who copies", found.e8),
    ]


def _along(paths: ks.generative.GenerativeComparison) -> Listing:
    """What corrections are made of, of both models, with nulls."""
    rows = []
    for row in paths.rows:
        if row.metric in PATHS and row.slot == "main":
            nulls = [", ".join(f"{name} {told(value, 3)}" for name, value in side.items()) for side in row.nulls]
            rows.append({"measure": row.label, **{name: told(value.mean, 3) if not why else "–" for name, value, why in
                                                  zip(paths.columns, row.values, row.why, strict=True)},
                         "null": "; ".join(dict.fromkeys(filter(None, nulls))) or row.why_null})
    one, other = (value.mean for value in paths.row("n_eff").values)
    return Listing("Contributions of training images to a sample’s denoised points, and to a generated point’s motion, "
                   f"followed along both runs. Beside what all images add alike, those of the denoiser are spread over "
                   f"{told(one, 0)} images and those of the GAN over {told(other, 0)}.", rows)


def _removal(found: Found) -> Items:
    first = next(iter(found.e11.values()))
    seeds, subsets, queries = first.measured.shape
    trials: Items = [(f"E11: what foretells the {'loss' if name == 'loss' else 'denoised point'}", trial)
                     for name, trial in found.e11.items()]
    return [
        f"8. Influence, E11. Contributions say what happened in a run. What leaving images out does is measured here: "
        f"{subsets} halves of 256 images, {seeds} denoisers trained on each, {queries} held-out digits asked. A score "
        "is good if its sum over the images kept goes with the answer. The ceiling is what the mean of other seeds "
        "would reach; the trivial baselines are the distance of pixels, the weights of the optimal denoiser, and how "
        "the Wiener denoiser moves with the weight of an image; random scores are the null.",
        *trials,
    ]


def _notes(found: Found) -> Items:
    table = verdicts(found)
    beside = {name: value for name, value in found.seconds.items() if name == "E11" or name.startswith("comparison")}
    parts = {name: value for name, value in found.seconds.items() if name not in beside}
    second = sum(parts[name] for name in ("E8, coverage", "E4", "E5"))
    longer = max(second, sum(parts.values()) - second)
    said = (f"E1 to E10 with all training took {sum(parts.values()):.0f} CPU seconds in two processes, {longer:.0f} in "
            f"the longer one, {'within' if longer <= 600 else 'more than'} ten minutes; the comparisons and E11 "
            f"{sum(beside.values()):.0f} beside them.")
    return ["9. What was expected, and what holds.", ("Expectations confirmed and corrected", table),
            ("Time", Listing(said, [{"part": name, "CPU seconds": round(value, 1)}
                                    for name, value in found.seconds.items()]))]


def _range(limits: tuple[float, float]) -> str:
    return f"{told(limits[0])} to {told(limits[1])}"


def _sentence(text: str) -> str:
    """A text that begins with a capital letter and ends with a full stop."""
    text = text.strip().rstrip(".")
    return f"{text[0].upper()}{text[1:]}."
