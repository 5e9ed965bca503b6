"""Words that came from data turn no number round and hide nothing, wherever they are shown; the words stay the same."""

import json
import unicodedata

import pytest
import torch

import kernelscope as ks
from kernelscope import plots
from kernelscope.cli import main
from kernelscope.commands import info
from kernelscope.errors import DataError
from kernelscope.text import escaped, is_shown, shown
from tests.synthetic import explanation

#: Unicode's own word for what turns text round, with the marks that have no such word.
TURNING = [chr(i) for i in range(0x110000) if unicodedata.bidirectional(chr(i)) in
           ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")] + ["\u200e", "\u200f", "\u061c"]
CONTROLS = ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"]
NAMES = ["\u202edog\x1b[31m", "\u2067c\u200ft", "b\u2066ird\x85", "fish\u202c"]


def hidden(text):
    return [letter for letter in text if letter in TURNING or (letter in CONTROLS and letter not in "\n\t")]


@pytest.mark.parametrize("letter", TURNING + CONTROLS)
def test_every_letter_that_turns_or_hides_is_shown_as_one_that_does_not(letter):
    assert shown(f"a{letter}b") == "a\ufffdb"
    assert json.loads(escaped(json.dumps(letter, ensure_ascii=False))) == letter
    assert escaped(f"a{letter}b").isascii() or letter == "\x85"


def test_letters_of_every_script_are_shown_as_they_are():
    for text in ("犬", "שלום", "नमस्ते", "naïve", "👩‍🚀", "½ − 3", "a\u00a0b"):
        assert shown(text) == text
    assert all(is_shown(chr(i)) for i in range(0x20, 0x7F))
    assert not is_shown("\ud800")


def test_no_sentence_drawing_page_or_cell_is_turned_round_by_a_name():
    why = explanation(names=NAMES)
    page = ks.Report(NAMES[0], [NAMES[1], (NAMES[2], why)], provenance={NAMES[3]: NAMES[0]}).html()
    for text in (why.sentence(0), repr(why[[0]]), why._repr_html_(), plots.svg(why), plots.title(why), page,
                 why.decomposition._repr_html_(), plots.svg(why.decomposition)):
        assert hidden(text) == []
    for text in (why.sentence(0), plots.svg(why), page):
        assert "\ufffddog\ufffd[31m" in text
    # What a program reads is what was given.
    assert why.decomposition.labels[0] == NAMES[0]


def test_no_answer_of_a_command_is_turned_round_by_a_path_or_a_note(tmp_path, capsys, monkeypatch):
    x, model = torch.randn(4, 2), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    place = tmp_path / "a\u202eb"
    with ks.record(model, (x, x[:, :1]), loss=torch.nn.functional.mse_loss, out=place,
                   notes={"by": NAMES[0]}) as recording:
        torch.nn.functional.mse_loss(model(x), x[:, :1]).backward()
        optimizer.step()
    assert hidden(repr(recording.run)) == []
    assert main(["info", str(place)]) == 0
    assert hidden(said := capsys.readouterr().out) == []
    assert "a\ufffdb" in said
    assert main(["info", str(place), "--json"]) == 0
    assert hidden(said := capsys.readouterr().out) == []
    assert json.loads(said)["path"] == str(place)
    assert json.loads(said)["notes"] == {"by": NAMES[0]}

    def fails(options):
        raise DataError(f"{NAMES[0]} is\nno number")

    monkeypatch.setattr(info, "run", fails)
    for words in (["info", "x"], ["info", "x", "--json"]):
        assert main(words) == 2
        said = capsys.readouterr()
        assert hidden(said.out + said.err) == []
        assert "is\nno number" in said.err
