import re
from dataclasses import replace
from decimal import Decimal, localcontext
from html.parser import HTMLParser

import pytest
import torch

from kernelscope.errors import DataError
from kernelscope.report import Report
from kernelscope.report.balance import sheet
from kernelscope.report.charts import moments
from kernelscope.result import Check, Result
from tests.synthetic import explanation, images, ledger

HOSTILE = [
    "<script>alert('KS')</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
    "</style><script>KS</script>", "a\u2028b\u2029c", "{{ 7 * 7 }}{% raw %}", "<!-- ]]> -->",
    "\x00\x1b[31m\ud800\u202ekcab", "'\" onload='x", "</script></title></details>", "%3Cscript%3E", "&lt;b&gt;",
]


class Dom(HTMLParser):
    """What a browser would build: elements with their attributes' names, and text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.attributes, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, tuple(name for name, _ in attributes)))
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        self.elements.append((f"/{tag}", ()))
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def page(*results, **options):
    return Report("A page", list(results), **options).html()


def test_a_page_is_one_file_that_asks_for_nothing():
    text = page("Some words.", explanation(), ledger())
    dom = Dom(text)
    addresses = [value for tag, name, value in dom.attributes if name in ("src", "href") and value[0] != "#"]
    assert {address.split(":")[0] for address in addresses} == {"data"}
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "https://" not in text
    policy = next(value for tag, name, value in dom.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [tag for tag, name, _ in dom.attributes if name == "style" or name.startswith("on")]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first = Report("A page", [explanation(), ledger()]).save(tmp_path / "a.html")
    other = Report("A page", [explanation(), ledger()]).save(tmp_path / "b.html")
    assert first.read_bytes() == other.read_bytes()


def test_what_differs_from_day_to_day_is_not_on_the_page_unless_asked():
    slow = ledger(info=ledger().info | {"seconds": 99.0})
    assert page(ledger()) == page(slow)
    assert "4 h" in page(ledger(), provenance={"took": "4 h"})


def test_the_page_says_the_sentence_the_numbers_and_what_they_are_not():
    why = explanation(q=2, targets=torch.tensor([0, 3]))
    text = " ".join(" ".join(Dom(page(why)).text).split())
    for clause in why.sentence(1).split(". "):
        assert clause.rstrip(".") in text
    assert "✓ correct: labelled class 0" in text
    assert "✗ wrong: labelled class 3" in text
    assert "What these numbers are not" in text
    assert "influence" not in text.lower()


def digits(text):
    sheets = re.findall(r'<table class="sheet">(.*?)</table>', text, flags=re.DOTALL)
    for rows in sheets:
        cells = re.findall(r'<span>([^<]*)</span><span class="quiet">([^<]*)</span>', rows)
        yield [Decimal((head + rest).replace("−", "-")) for head, rest in cells]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 12345.678, 1e12])
def test_the_printed_lines_add_up_to_the_printed_result_digit_for_digit(scale):
    why = explanation(q=2)
    d = why.decomposition
    scaled = replace(d, **{name: getattr(d, name) * scale for name in
                           ("initial", "final", "contributions", "steps", "path", "magnitude", "group_steps")},
                     channels={name: values * scale for name, values in d.channels.items()})
    text = page(replace(why, decomposition=scaled), scaled)
    columns = list(digits(text))
    assert len(columns) == 4
    with localcontext() as exact:
        exact.prec = 200
        for *lines, final in columns:
            assert sum(lines) == final
            assert abs(lines[-1]) < Decimal(1e-12 * scale)
    assert text.count("✓ It closes.") == 4
    assert {float(column[-1]) for column in columns[:2]} == {float(value) for value in scaled.final[:, 0]}


def test_a_sheet_with_a_wrong_residual_is_not_said_to_close():
    entries = [("start", "initial", 1.0), ("a", "group", 2.0), ("left", "residual", 0.0), ("end", "final", 3.5)]
    assert not sheet(entries, 3.0).closes
    assert sheet([*entries[:2], ("left", "residual", 0.5), entries[3]], 3.0).closes
    assert not sheet([("start", "initial", float("nan")), *entries[1:]], 3.0).closes


def benign(words):
    """As many words, of the same lengths: a long one may be broken into lines."""
    return [f"word{i}".ljust(len(word), "x") for i, word in enumerate(words)]


def hostile_page(words):
    why = explanation(q=2, n=48, classes=len(words), names=words, targets=torch.tensor([0, 1]))
    named = replace(why.decomposition, output_names=[words[0]], info=why.decomposition.info | {"run": words[1]})
    return Report(words[0], [words[1], (words[2], replace(why, decomposition=named)), (words[3], named)],
                  provenance={words[4]: words[5]}).html()


def test_hostile_words_appear_as_text_and_build_nothing():
    hostile, plain = Dom(hostile_page(HOSTILE)), Dom(hostile_page(benign(HOSTILE)))
    assert hostile.elements == plain.elements
    shown = "".join(hostile.text) + "".join(value for _, _, value in hostile.attributes)
    for word in HOSTILE:
        kept = "".join(c if c.isprintable() else "\ufffd" for c in word)
        assert kept in shown
    assert not [value for _, name, value in hostile.attributes if name in ("href", "src") and "alert" in value]
    assert "49" not in [text.strip() for text in hostile.text]


def test_a_page_is_written_whole_whatever_its_name_says(tmp_path):
    path = tmp_path / "a <b> & 'c'.html"
    assert Report("<b>", []).save(path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_page_stays_small_and_says_what_it_left_out():
    x, samples = torch.rand(12, 3, 96, 96), torch.rand(300, 3, 96, 96)
    why = explanation(q=12, n=300, k=20, x=x, samples=samples)
    text = page(why)
    assert len(text.encode()) < 2_000_000
    assert re.search(r"This page shows \d+ training samples as pictures or values; \d+ more are listed", text)
    few = page(explanation(q=2, k=8), max_samples=5)
    assert len(set(re.findall(r'alt="Training sample (\d+)', few))) == 5
    assert "to_frame() has them all" in few


def test_inputs_that_are_no_pictures_are_shown_in_words():
    why = explanation(q=1, x=torch.ones(1, 5), samples=torch.arange(200.0).reshape(40, 5))
    text = page(why)
    assert "<img" not in text
    assert "1, 1, 1, 1, 1" in text


def test_an_output_that_is_no_class_has_no_probabilities_on_its_page():
    text = page(explanation(kind="output", outputs=None, output_names=["height"]))
    body = text[:text.index("What these numbers are not")]
    assert "probability of" not in body
    assert "runner-up" not in body
    assert "The network&#39;s height is" in body


def visible(text):
    return " ".join(" ".join(Dom(text).text).split())


def test_a_saved_and_loaded_result_gives_the_same_page(tmp_path):
    # As a decomposition writes it: facts within facts, in another order than that of the alphabet.
    info = {"run": {"steps": 30, "rules": ["SGD"], "dtype": "float32"}, "weights": "trained", "rule": "recorded",
            "quadrature": "gonzalez", "dtype": "float64", "engine": {"training": "layers", "queries": "layers"}}
    why = replace(explanation(q=2, targets=torch.tensor([0, 1]), info=info), names=["one", "two"])
    loaded = Result.load(why.save(tmp_path / "why"))
    assert list(loaded.decomposition.info) != list(info)
    assert page(loaded, loaded.decomposition) == page(why, why.decomposition)
    assert loaded._repr_html_() == why._repr_html_()


def test_a_quantity_is_raised_and_lowered():
    text = visible(page(explanation(kind="output", outputs=None, output_names=["height"])))
    before, _, after = text.partition("What these numbers are not")
    assert "▲ raised this output" in before
    assert "▼ lowered this output" in before
    assert not re.search(r"(for|against|towards) (it|this answer)|▼ against|\blead\b|logit", before)
    assert "raised" in explanation(kind="output")._repr_html_()


def test_channels_on_which_nothing_was_booked_are_named_and_not_printed():
    text = page(explanation(q=1), ledger(q=1))
    assert text.count("Nothing came from momentum at the start, normalisation statistics, rounding in training or "
                      "unattributed changes.") == 2
    assert ">normalisation statistics</bdi>" not in text
    assert text.count(">weight decay</bdi>") == 2


def test_long_words_are_cut_and_stand_in_full_elsewhere():
    names = [letter * 5000 for letter in "wxyz"]
    why = explanation(q=1, names=names)
    text = Report("t" * 3000, [("h" * 2000, why)]).html()
    shown = Dom(text)
    cells = [part for part in shown.text if len(part) > 200 and len(set(part)) == 1]
    assert sorted(cells) == sorted(["t" * 3000, "t" * 3000, "h" * 2000, *names])  # the title, and lists at the end
    assert set(names) <= {value for _, name, value in shown.attributes if name == "title"}
    assert "Long names in full" not in page(explanation(q=1))


def test_each_input_bears_the_name_that_was_given():
    text = visible(page(replace(explanation(q=2, targets=torch.tensor([0, 1])), names=["left", "right"])))
    assert "left · ✓ correct: labelled class 0" in text
    assert "right · ✗ wrong: labelled class 1" in text


def test_short_inputs_are_bars_between_their_lowest_and_highest_values():
    x, samples = torch.rand(1, 6), torch.rand(40, 6)
    why = explanation(q=1, x=x, samples=samples)
    rows = torch.cat([why.inputs, why.sample_inputs])
    low, high = rows.amin(0), rows.amax(0)
    text = page(why)
    drawn = re.search(r'<path class="bars" d="([^"]*)"', text)[1]
    tops = [int(top) for top in re.findall(r"V(\d+)h", drawn)]
    for top, value, least, most in zip(tops, x[0], low, high, strict=True):
        assert abs(100 - top - max(3, 100 * float((value - least) / (most - least)))) <= 0.5 + 1e-3
    assert text.count('class="bars" d=') == 1 + sum(len(why.ranked(0, 3, sign)) for sign in (1, -1))
    assert 'class="bars" d=' not in page(explanation(q=1, x=x.long(), samples=samples.long()))
    assert 'class="bars" d=' not in page(explanation(q=1))


def test_two_quantities_are_compared_without_answers():
    a, b = (explanation(q=2, seed=seed, kind="output", outputs=None) for seed in (0, 5))
    text = visible(page(("first", a), ("second", b)))
    assert "first and second explain the same 2 inputs" in text
    assert "runner-up" not in text.partition("What these numbers are not")[0].replace("answer or runner-up", "")


def test_two_runs_are_compared_by_computed_numbers():
    a, b = explanation(q=3, seed=0), explanation(q=3, seed=5)
    text = " ".join(Dom(page(("first", a), ("second", b))).text)
    p, q = a.group_shares(0), b.group_shares(0)
    cosine = float(p @ q / (p.norm() * q.norm()))
    assert f"{cosine:.2f}".replace("-", "−") in text
    assert f"{int(((p > 0) == (q > 0)).sum())} of 4" in text
    other = replace(b, inputs=images(3, seed=9))
    assert "Agreement is the cosine" not in " ".join(Dom(page(("first", a), ("second", other))).text)


def test_prose_and_results_keep_their_order():
    text = page("Opening.", ("One", explanation(q=1)), "Between.", ("Two", ledger(q=1)))
    assert text.index("Opening.") < text.index(">One</h2>") < text.index(">Two</h2>") < text.index("Between.")
    assert page() == page()
    assert Report("A page", {"One": ledger(q=1)}).html() == page(("One", ledger(q=1)))


def test_a_result_the_page_knows_nothing_about_is_shown_by_its_table(monkeypatch):
    import pandas as pd

    monkeypatch.setattr(Result, "kinds", dict(Result.kinds))

    class Plain(Result):
        def summary(self):
            return "Plain(<b>)"

        def to_frame(self):
            return pd.DataFrame({"<i>": ["<u>"] * 30, "value": [1.0] * 30})

        def check(self):
            return Check(())

    text = page(Plain())
    assert "&lt;i&gt;" in text
    assert "&lt;u&gt;" in text
    assert "Showing 20 of 30 rows." in text


def test_what_is_no_result_is_refused():
    with pytest.raises(DataError, match="item 1 is 3"):
        page("words", 3)


def test_nothing_explained_and_nothing_trained_still_make_a_page():
    assert "What these numbers are not" in page(explanation(q=0), ledger(q=0))
    untrained = explanation(q=1, steps=0)
    assert "✓ It closes." in page(untrained, untrained.decomposition)


def test_moments_begin_at_the_start_and_end_at_the_end():
    for steps in (1, 5, 450, 100_000):
        shown = moments(steps)
        assert shown[0] == 0
        assert shown[-1] == steps
        assert shown == sorted(set(shown))


def test_no_word_is_explained_twice():
    from kernelscope.report.glossaries import GLOSSARIES, glossary

    everything = [kind.__new__(kind) for kinds, _ in GLOSSARIES for kind in kinds]
    words = [word for word, _ in glossary(everything)]
    assert len(words) == len(set(words)) > 50
