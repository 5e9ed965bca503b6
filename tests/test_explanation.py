import math
import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope import pictures
from kernelscope.decomposition.explaining import from_decomposition
from kernelscope.decomposition.explanation import CANCELLATION_LIMIT, Explanation
from kernelscope.errors import DataError
from tests.synthetic import explanation, images, ledger


def test_helpful_and_harmful_samples_are_the_extremes_of_the_shares():
    why = explanation(q=2, k=4)
    for query in range(2):
        shares = why.shares[query].tolist()
        up = sorted((s for s in shares if s > 0), reverse=True)[:4]
        down = sorted(s for s in shares if s < 0)[:4]
        helpful, harmful = why.helpful(), why.harmful()
        assert helpful[helpful["query"] == query]["contribution"].tolist() == up
        assert harmful[harmful["query"] == query]["contribution"].tolist() == down


def test_groups_add_up_to_the_data_channel_and_agree_with_summing_over_labels():
    why = explanation()
    by_labels = replace(why, decomposition=replace(why.decomposition, group_steps=None))
    table = why.by_group()
    for query in range(len(why)):
        data = float(why.decomposition.channels["data"][query, 0])
        assert math.isclose(table[table["query"] == query]["contribution"].sum(), data, abs_tol=1e-12)
        expected = dict(zip(by_labels.group_names(), by_labels.group_shares(query).tolist(), strict=True))
        for name, share in zip(why.group_names(), why.group_shares(query).tolist(), strict=True):
            assert math.isclose(share, expected[name], abs_tol=1e-12)
    assert table["samples"].tolist() == [10] * 12


def test_the_balance_sheet_closes_in_rational_numbers_up_to_one_rounding():
    why = explanation()
    for query in range(len(why)):
        *lines, final = why.balance(query)
        total = sum((Fraction(value) for _, _, value in lines), Fraction(0))
        assert float(total) == final[2]
        assert abs(total - Fraction(final[2])) <= abs(Fraction(math.ulp(lines[-1][2])))


def with_path(path, **options):
    """An explanation whose output takes this path along the run."""
    why = explanation(q=1, steps=len(path) - 1, **options)
    path = torch.tensor(path, dtype=torch.float64)[None, None]
    made = replace(why.decomposition, path=path, initial=path[:, :, 0], final=path[:, :, -1])
    return replace(why, decomposition=made)


def half_of_the_way(path):
    """The plain loop: go back from the end while at most half of the whole way is left."""
    k = len(path) - 1
    while k > 0 and abs(path[k - 1] - path[-1]) <= abs(path[0] - path[-1]) / 2:
        k -= 1
    return k


def test_half_of_the_way_is_made_when_no_later_step_goes_back_behind_it():
    assert with_path([0.0, 0.6, 0.2, 0.4, 1.0]).learned()[0] == 4
    assert with_path([0.0, 0.6, 0.8, 0.7, 1.0]).learned()[0] == 1
    # Beyond the end is as far away as short of it.
    assert with_path([0.0, 0.9, 2.0, 1.2, 1.0]).learned()[0] == 3
    assert with_path([1.0, 0.4, 0.6, 0.5, 0.0]).learned()[0] == 3
    assert with_path([1.0, 2.0, 1.0]).learned()[0] is None


@pytest.mark.parametrize("seed", range(20))
def test_half_of_the_way_is_that_of_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    path = (torch.randn(60, generator=generator, dtype=torch.float64) + 0.1).cumsum(0).tolist()
    why = with_path(path)
    half = half_of_the_way(path)
    assert why.learned()[0] == half
    assert f"to stay, by step {half} of 59" in why.sentence()


def test_half_of_the_way_is_made_by_the_output_and_not_by_what_is_booked_ahead_of_it():
    x, y = torch.randn(12, 3), torch.randn(12, 1)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.95)
    outputs = []
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(30):
            outputs.append(model(x[:1]).item())
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    outputs.append(model(x[:1]).item())
    why = ks.explain(recording.run, x[:1])
    booked = why.booked()
    assert why.learned()[0] == half_of_the_way(outputs) > half_of_the_way(booked.tolist())


def test_an_output_that_went_back_and_forth_is_said_to_have_done_so():
    assert "gone back and forth between −3.00 and +4.00" in with_path([0.0, 4.0, -3.0, 1.0]).sentence()
    assert "back and forth" not in with_path([0.0, 0.5, 0.4, 1.0]).sentence()


def test_the_prediction_has_settled_when_no_later_step_changes_it():
    outputs = torch.tensor([[[0.0, 2.0, 0.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    made = ledger(q=1, steps=4, classes=2, outputs=outputs)
    why = from_decomposition(made, images(1), lambda i: (images(1)[0], torch.tensor(0)))
    assert why.answer() == (0, 1)
    assert why.learned()[1] == 3


def test_no_percentage_is_given_when_shares_cancel():
    cancelling, one_way = explanation(drift=0.0), explanation(drift=1.0)
    assert all(cancelling.net(q) < CANCELLATION_LIMIT for q in range(3))
    assert all(one_way.net(q) > CANCELLATION_LIMIT for q in range(3))
    assert "cancel in part" in explanation(q=1, drift=0.01).sentence()
    for why, allowed in ((cancelling, False), (one_way, True)):
        for table in (why.helpful(), why.by_group(), why.to_frame()):
            assert table["percent"].notna().all() == allowed
        assert ("%" in why.sentence()) == allowed
        assert ("nearly cancel" in why.sentence()) != allowed
        assert {row.name: row.status for row in why.check().rows}["cancellation"] == ("pass" if allowed else "warn")


def test_percentages_of_groups_add_up_to_a_hundred():
    table = explanation(q=1, drift=1.0).by_group()
    assert math.isclose(table["percent"].sum(), 100)


def test_every_number_in_the_sentence_is_a_number_of_the_ledger():
    why = explanation(q=1, drift=0.0)
    ledger_ = why.decomposition
    known = [ledger_.final[0, 0], ledger_.initial[0, 0], why.shares[0].sum(), *why.group_shares(0), *why.shares[0],
             *[value[0, 0] for value in ledger_.channels.values()], why.shares[0].clamp_min(0).sum(),
             why.shares[0].clamp_max(0).sum(), why.net(), CANCELLATION_LIMIT, why.probabilities(0)[:, -1].max(),
             *why.learned(), why.steps, *ledger_.sample_ids, *range(4), *ledger_.path[0, 0].aminmax()]
    for text in re.findall(r"[+−]?\d+(?:\.\d+)?(?:e[+−]\d+)?", why.sentence()):
        said = float(text.replace("−", "-"))
        digits, _, power = text.partition("e")
        close = 0.51 * 10.0 ** (int(power.replace("−", "-") or 0) - len(digits.partition(".")[2]))
        assert any(abs(said - float(value)) <= close for value in known), text


def test_a_ledger_that_does_not_close_weakens_the_words():
    why = explanation(q=1)
    assert "with care" not in why.sentence()
    broken = replace(why, decomposition=replace(why.decomposition, final=why.decomposition.final + 0.1))
    assert broken.sentence().startswith("Read this with care: the ledger leaves")
    assert "added about" in broken.sentence()
    channels = why.decomposition.channels | {"unattributed": torch.full((1, 1), 5.0, dtype=torch.float64)}
    vague = replace(why, decomposition=replace(why.decomposition, channels=channels))
    assert "of all movement came from changes" in vague.sentence()
    assert "the update rule does not explain" in vague.sentence()


def test_no_sample_is_singled_out_when_the_quadrature_missed_more_than_its_share():
    why = explanation(q=1)
    coarse = replace(why.decomposition, quadrature_error=torch.ones_like(why.decomposition.quadrature_error))
    assert "no sample is singled out" in replace(why, decomposition=coarse).sentence()
    assert "Of single samples, #" in why.sentence()


def test_several_say_a_line_each():
    why = explanation(q=3)
    lines = repr(why).splitlines()
    assert lines[0] == why.summary()
    assert len(lines) == 4
    for i, line in enumerate(lines[1:]):
        assert why[i].summary() == f"Explanation({line.removeprefix(f'  {i}  ')})"


def test_no_sample_is_named_in_a_line_where_the_sentence_names_none():
    why = explanation(q=1)
    assert "#" in why.summary()
    ledger = why.decomposition
    channels = {**ledger.channels, "unattributed": 2 * ledger.magnitude}
    vague = replace(why, decomposition=replace(ledger, channels=channels))
    assert vague.doubtful()
    assert "#" not in vague.summary()


def test_a_part_of_a_run_does_not_begin_before_training():
    why = explanation(q=1)
    later = replace(why, decomposition=replace(why.decomposition, info={**why.decomposition.info, "first_step": 1200}))
    assert "Before training this lead" in why.sentence()
    assert "At step 1,200 this lead" in later.sentence()
    assert "Before training" not in later.sentence()


def test_the_sentence_speaks_of_accounting_and_never_of_influence():
    why = explanation()
    for text in (why.sentence(), repr(why), repr(why[0]), why._repr_html_(), repr(why.check())):
        assert "influence" not in text.lower()
    assert "accounting along one recorded run" in why.sentence()


def test_where_nothing_moved_nothing_is_said_to_cancel():
    zero = torch.zeros(1, 1, 30, dtype=torch.float64)
    still = with_path([0.5] * 31)
    made = still.decomposition
    made = replace(made, contributions=0 * made.contributions, steps=zero, group_steps=0 * made.group_steps,
                   channels={name: 0 * values for name, values in made.channels.items()})
    why = replace(still, decomposition=made)
    said = why.sentence()
    assert "Before training this lead was the same, +0.50: 30 steps moved nothing." in said
    assert "cancel" not in said
    assert "of the way" not in said
    assert why.check().ok


def test_one_step_of_one_sample_is_said_in_the_singular():
    x, y = torch.randn(1, 3), torch.tensor([1])
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.cross_entropy) as recording:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert "over 1 step the training sample added" in ks.explain(recording.run, x).sentence()


def trained(y, loss, **options):
    """A short run on forty points, and the points."""
    x = torch.randn(len(y), 3)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=loss, **options) as recording:
        for _ in range(10):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return recording.run, model, x


def test_a_quantity_is_raised_and_lowered_and_nobody_is_for_or_against_it():
    run, model, x = trained(torch.randn(40, 1), F.mse_loss)
    why = ks.explain(run, x[:1], targets=torch.tensor([1.25]))
    said = why.sentence()
    assert said.startswith(f"The network's output is {model(x[:1]).item():.2f}".replace("-", "−"))
    assert "raised it most" in said
    assert "lowered it most" in said
    assert not re.search(r"\b(for|against) (it|this)", said)
    assert why.targets == ["1.25"]
    assert why.sample_targets == [f"{float(run.sample(i)[1]):.2f}".replace("-", "−") for i in why.samples.tolist()]


def test_two_classes_told_apart_by_one_output_are_named_and_probable():
    y = (torch.arange(40) % 2).float()[:, None]
    run, model, x = trained(y, F.binary_cross_entropy_with_logits, class_names=["ill", "well"])
    logits = model(x)[:, 0].detach()
    shown = [int(logits.argmax()), int(logits.argmin())]
    why = ks.explain(run, x[shown], targets=y[shown])
    assert torch.allclose(why.decomposition.final[:, 0].float(), logits[shown], atol=1e-5)
    for query, place in enumerate(shown):
        predicted = ["ill", "well"][int(logits[place] > 0)]
        assert f"The network predicts {predicted} with probability" in why.sentence(query)
        assert torch.allclose(why.probabilities(query)[1, -1].float(), logits[place].sigmoid(), atol=1e-5)
        assert "towards well" in why.sentence(query)
        assert why.targets[query] == ["ill", "well"][int(y[place])]
        signs = [float(value) > 0 for value in why.decomposition.path[query, 0]]
        settled = max((k + 1 for k, sign in enumerate(signs) if sign != signs[-1]), default=0)
        assert why.learned(query)[1] == settled
    assert why.group_names() == ["ill", "well"]


@pytest.mark.parametrize("form", [list, tuple, torch.tensor, lambda words: torch.tensor(words).numpy(),
                                  lambda words: list(torch.tensor(words))])
def test_labels_are_words_whatever_holds_them(digits_run, form):
    run, _, x, _ = digits_run
    why = ks.explain(run, x[:1], labels=form([i % 3 for i in range(run.size)]))
    assert why.group_names() == ["0", "1", "2"]
    assert "tensor" not in why.sentence()


def test_a_long_name_is_cut_in_the_sentence_and_kept_in_the_tables():
    names = ["a" * 5000, "b" * 5000, "c", "d"]
    why = explanation(q=1, names=names)
    for text in (why.sentence(), why.summary(), repr(why)):
        assert len(text) < 2000
    assert set(why.by_group()["group"]) == set(names)


def test_slicing_keeps_each_query_and_drops_samples_nobody_shows():
    why = explanation(q=3, k=2)
    assert len(why) == 3
    part = why[1]
    assert len(part) == 1
    assert part.sentence() == why.sentence(1)
    assert len(part.samples) <= 4 < len(why.samples)
    assert part.sample_targets == [why.sample_targets[why.samples.tolist().index(i)] for i in part.samples.tolist()]
    assert replace(why, names=["a", "b", "c"])[1:].names == ["b", "c"]
    assert part.helpful()["sample"].tolist() == why.helpful().query("query == 1")["sample"].tolist()
    assert [len(why[1:]), len(why[[2]]), len(why[torch.tensor([0, 2])])] == [2, 1, 2]


def test_only_the_samples_that_are_shown_are_kept():
    why = explanation(q=1, n=40, k=2)
    assert why.sample_inputs.shape == (4, 64)
    assert set(why.samples.tolist()) == {*why.ranked(0, 2, 1), *why.ranked(0, 2, -1)}


def test_saved_and_loaded_it_says_the_same(tmp_path):
    why = explanation(targets=torch.tensor([0, 1, 2]))
    loaded = Explanation.load(why.save(tmp_path / "why"))
    assert repr(loaded[0]) == repr(why[0])
    assert loaded.targets == why.targets
    assert torch.equal(loaded.sample_inputs, why.sample_inputs)
    assert loaded._repr_html_() == why._repr_html_()


def test_tables_have_one_row_for_each_thing_they_list():
    why = explanation(q=2, n=40, steps=30)
    assert len(why.to_frame()) == 2 * 40
    assert len(why.over_time()) == 2 * 31
    ranks = why.to_frame().query("query == 0").sort_values("contribution")["centred_rank"].tolist()
    assert ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (-1.0, 1.0)
    last = why.over_time().query("query == 0").iloc[-1]
    assert math.isclose(last["output"], float(why.decomposition.final[0, 0]))
    assert last["prediction"] == "class 0"


def test_an_output_that_is_no_class_is_explained_without_probabilities():
    why = explanation(kind="output", outputs=None, output_names=["height"])
    assert why.answer() is None
    assert "The network's height is" in why.sentence()
    assert "probability" not in why.sentence()
    assert "probability" not in why.over_time().columns


def test_samples_without_labels_form_one_group():
    why = explanation(labels=None, groups=[], group_steps=None)
    assert why.by_group()["group"].unique().tolist() == ["all samples"]
    assert "labelled" not in why.sentence()


def test_several_outputs_at_once_are_refused_with_a_way_out():
    made = ledger(q=1)
    two = replace(made, initial=torch.zeros(1, 2))
    with pytest.raises(DataError, match="output=\"margin\" for the lead"):
        from_decomposition(two, images(1), lambda i: (images(1)[0], torch.tensor(0)))


def test_the_notebook_view_has_no_script_and_hostile_labels_stay_text():
    hostile = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "javascript:alert(1)", "</style>"]
    text = explanation(names=hostile)._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<img") == text.count('<img src="data:image/png;base64,')


def test_an_input_is_a_picture_only_if_its_shape_says_so():
    shapes = {(8, 8): (1, 8, 8), (1, 5, 6): (1, 5, 6), (3, 5, 6): (3, 5, 6), (784,): (1, 28, 28), (49,): None,
              (65,): None, (2, 5, 6): None, (1, 1): None, (): None}
    for shape, expected in shapes.items():
        assert pictures.picture_shape(shape) == expected


def test_a_picture_holds_the_grey_levels_it_was_given():
    from io import BytesIO

    from matplotlib.image import imread

    x = torch.arange(64.0).reshape(8, 8)
    shown = imread(BytesIO(pictures.png(x, 0, 63)), format="png")
    assert torch.allclose(torch.from_numpy(shown).double(), x.double() / 63, atol=0.5 / 255)
    colours = imread(BytesIO(pictures.png(torch.rand(3, 9, 7))), format="png")
    assert colours.shape == (9, 7, 3)
    assert imread(BytesIO(pictures.png(torch.rand(1, 300, 200), side=64)), format="png").shape == (64, 43)


def test_a_picture_of_what_is_no_picture_is_refused():
    with pytest.raises(DataError, match="show other inputs in words"):
        pictures.png(torch.zeros(5))


@pytest.fixture(scope="module")
def digits_run():
    """A short run on real digits, its model, and three digits it never saw."""
    train, test = ks.data.digits("train"), ks.data.digits("test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
        loader = DataLoader(TensorDataset(train.x[:300], train.y[:300]), batch_size=20, shuffle=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with ks.record(model, loader, loss=F.cross_entropy) as recording:
            for _ in range(2):
                for x, y in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return recording.run, model, test.x[:3], test.y[:3]


def test_a_real_run_is_explained_and_closes(digits_run):
    run, model, x, y = digits_run
    why = ks.explain(run, x, targets=y, k=4)
    assert [why.answer(q)[0] for q in range(3)] == model(x).argmax(1).tolist()
    assert [why.answer(q)[1] for q in range(3)] == model(x).topk(2).indices[:, 1].tolist()
    assert why.check().ok
    assert why.decomposition.completeness() < 1e-12
    for row, position in enumerate(why.samples.tolist()):
        x_kept, y_kept = run.sample(position)
        assert torch.equal(why.sample_inputs[row], x_kept)
        assert why.decomposition.labels[position] == str(int(y_kept))
    counts = why.by_group().query("query == 0").set_index("group")["samples"].to_dict()
    assert sum(counts.values()) == 300
    assert why.targets == [str(int(t)) for t in y]


def test_one_query_needs_no_batch_axis_and_labels_can_be_given(digits_run):
    run, _, x, _ = digits_run
    words = ["even" if i % 2 == 0 else "odd" for i in range(run.size)]
    why = ks.explain(run, x[0], labels=words)
    assert len(why) == 1
    table = why.by_group().set_index("group")["contribution"]
    assert math.isclose(table["even"], float(why.shares[0, ::2].sum()), abs_tol=1e-9)
    with pytest.raises(DataError, match="one label for each of the run's 300 samples; got 2"):
        ks.explain(run, x, labels=["a", "b"])
    with pytest.raises(DataError, match="shaped like the run's samples"):
        ks.explain(run, x[:, :5])
    with pytest.raises(DataError, match="k=0"):
        ks.explain(run, x, k=0)


def test_any_output_can_be_explained(digits_run):
    run, model, x, _ = digits_run
    third = ks.explain(run, x, output=3)
    assert torch.allclose(third.decomposition.final[:, 0].float(), model(x)[:, 3], atol=1e-5)
    doubled = ks.explain(run, x, output=lambda outputs: 2 * outputs[:, 3:4])
    assert torch.allclose(doubled.shares, 2 * third.shares, atol=1e-9)
    assert third.answer() is None


def test_the_same_run_gives_the_same_page(digits_run):
    run, _, x, _ = digits_run
    pages = {ks.Report("A page", [ks.explain(run, x[:1])]).html() for _ in range(2)}
    assert len(pages) == 1
    assert "✓ It closes." in pages.pop()
