import re

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from kernelscope import plots
from kernelscope.errors import DataError
from kernelscope.plots import style
from kernelscope.plots.thinning import thinned
from kernelscope.result import Check, Result
from tests.synthetic import explanation, ledger


@pytest.fixture(params=["decomposition", "explanation"])
def result(request):
    return ledger() if request.param == "decomposition" else explanation()


def test_every_result_draws_itself_and_says_in_its_title_what_is_seen(result):
    ax = result.plot(query=1)
    title = ax.get_title(loc="left")
    assert re.search(r"[+−]\d", title), title
    assert ax.get_xlabel()


def test_drawing_leaves_no_figure_open_and_no_setting_changed(result):
    before = dict(matplotlib.rcParams)
    plots.draw(result, theme="dark")
    plots.svg(result)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_a_drawing_goes_where_it_is_told(result):
    figure = style.figure()
    ax = figure.add_subplot()
    assert plots.draw(result, ax) is ax
    assert result.plot(ax) is ax


def test_the_same_result_gives_the_same_bytes(result):
    assert plots.svg(result) == plots.svg(result)
    assert plots.svg(result, theme="light") == plots.svg(result, theme="light")


def test_a_page_drawing_is_small_has_no_style_no_stand_in_colour_and_real_text(result):
    text = plots.svg(result)
    assert len(text) < 60_000
    assert "style" not in text
    assert not re.search(r"#0[1-7]0[1-7]0[1-7]", text)
    assert "var(--up)" in text
    assert "<text" in text
    assert "<date" not in text.lower()


def test_two_drawings_share_a_page_without_sharing_names():
    names = [set(re.findall(r'\sid="([^"]*)"', plots.svg(made))) for made in (ledger(seed=1), ledger(seed=2))]
    assert not names[0] & names[1]
    for made in (ledger(seed=1), explanation()):
        text = plots.svg(made)
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(re.findall(r'\sid="([^"]*)"', text))


def test_bars_are_the_group_shares_in_order_and_sign_is_said_in_words_too():
    why = explanation(q=1)
    ax = why.plot()
    assert [bar.get_width() for bar in ax.patches] == sorted(why.group_shares().tolist(), reverse=True)
    notes = [text.get_text() for text in ax.texts]
    assert all(note[0] == ("▲" if share > 0 else "▼") for note, share in
               zip(notes, sorted(why.group_shares().tolist(), reverse=True), strict=True))


def test_many_groups_are_drawn_as_the_strongest_and_one_bar_for_the_others():
    why = explanation(q=1, n=60, classes=30)
    assert len(why.plot().patches) == 13
    assert sum(bar.get_width() for bar in why.plot().patches) == pytest.approx(float(why.group_shares().sum()))


@pytest.mark.parametrize("options", [
    {}, {"names": ["a" * 500, "Iris versicolor subspecies", "c", "d"]}, {"n": 60, "classes": 30}, {"drift": -0.05},
    {"drift": 0.0, "names": ["low (≤ −0.689)", "middle", "high (> 0.4)", "x" * 40]},
    {"labels": None, "groups": [], "group_steps": None}, {"kind": "output", "output_names": ["x" * 300]},
], ids=str)
def test_no_word_of_a_drawing_leaves_it_or_covers_another(options):
    why = explanation(q=1, **options)
    for result in (why, why.decomposition):
        ax = result.plot()
        figure = ax.get_figure()
        figure.draw_without_rendering()
        low, high = sorted(ax.get_ylim())
        ticks = [tick for tick in ax.get_yticklabels() if low <= tick.get_position()[1] <= high]
        words = [word for word in (ax._left_title, *ticks, *ax.texts) if word.get_text()]
        boxes = [word.get_window_extent() for word in words]
        for box in boxes:
            assert figure.bbox.x0 - 1 <= box.x0 < box.x1 <= figure.bbox.x1 + 1
            assert figure.bbox.y0 - 1 <= box.y0 < box.y1 <= figure.bbox.y1 + 1
        for i, box in enumerate(boxes):
            assert not any(box.shrunk(0.9, 0.7).overlaps(other) for other in boxes[:i]), words[i].get_text()


def test_samples_without_labels_are_drawn_one_by_one():
    why = explanation(q=1, labels=None, groups=[], group_steps=None)
    ax = why.plot()
    widths = [bar.get_width() for bar in ax.patches]
    strongest = sorted(why.shares[0].tolist(), key=abs, reverse=True)[:12]
    assert widths[:12] == sorted(strongest, reverse=True)
    assert widths[12] == pytest.approx(float(why.shares.sum()) - sum(strongest))
    assert "28 others" in [label.get_text() for label in ax.get_yticklabels()]


def test_hostile_labels_are_drawn_as_text():
    hostile = ["<script>alert(1)</script>", "$\\frac{broken$", "\x00\x1b[31m", "a" * 500]
    text = plots.svg(explanation(names=hostile))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x00" not in text
    assert "frac{broken" in text


def test_dark_axes_get_light_ink_without_being_told():
    figure = style.figure()
    figure.set_facecolor("#101010")
    ax = figure.add_subplot()
    ax.set_facecolor("none")
    assert style.theme_of(ax) is style.DARK
    ax.set_facecolor("white")
    assert style.theme_of(ax) is style.LIGHT


def test_a_result_without_a_drawing_says_what_to_do(monkeypatch):
    monkeypatch.setattr(Result, "kinds", dict(Result.kinds))

    class Plain(Result):
        def summary(self):
            return "plain"

        def to_frame(self):
            raise NotImplementedError

        def check(self):
            return Check(())

    with pytest.raises(DataError, match="to_frame"):
        plots.draw(Plain())


def test_an_unknown_theme_is_refused_by_name():
    with pytest.raises(DataError, match="sepia"):
        plots.draw(ledger(), theme="sepia")


def test_lines_keep_their_ends_and_their_extremes():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    kept = thinned(values)
    assert len(kept) <= 242
    assert {0, 4999, int(values.argmin()), int(values.argmax())} <= set(kept)
    assert thinned(values[:7]) == list(range(7))


def test_a_long_run_makes_a_small_drawing():
    assert len(plots.svg(ledger(q=1, steps=6000))) < 100_000
