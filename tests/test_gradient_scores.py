"""Gradient scores are products of loss gradients: against double loops, and against another package's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, OutOfBudget
from kernelscope.result import Result

TESTS, SAMPLES, CLASSES = 5, 13, 3


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def cnn():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(27, CLASSES))


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 4), layer, nn.Flatten(), nn.LayerNorm(8),
                         nn.Linear(8, CLASSES))


def batch_normalised():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES))


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer, "batch normalised": batch_normalised}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, 4, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (count,), generator=generator))


def both():
    return samples(TESTS, 1), samples(SAMPLES, 2)


def gradients(model, x, y, loss=F.cross_entropy):
    """The gradient of the loss of each sample, by parameter, one sample at a time."""
    model = copy.deepcopy(model).eval()
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        loss(model(x[i:i + 1]), y[i:i + 1]).backward()
        rows.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return rows


def double_loop(tests, train, names=None, cosine=False):
    def product(a, b):
        return sum(float((a[name] * b[name]).sum()) for name in a if names is None or name in names)

    scores = torch.zeros(len(tests), len(train), dtype=torch.float64)
    for i, a in enumerate(tests):
        for j, b in enumerate(train):
            scores[i, j] = product(a, b)
            if cosine and scores[i, j]:
                scores[i, j] /= (product(a, a) * product(b, b)) ** 0.5
    return scores


def near(found, truth, limit=1e-12):
    return float((found - truth).abs().max()) <= limit * float(truth.abs().max())


@pytest.fixture
def model():
    return mlp().double()


def stages(model):
    """State dictionaries along a training, and their learning rates."""
    model, states, rates = copy.deepcopy(model), [], [0.3, 0.1, 0.05]
    x, y = samples(SAMPLES, 2)
    for rate in rates:
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= rate * p.grad
        states.append(copy.deepcopy(model.state_dict()))
    return states, rates


# -- what the scores are ---------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("cosine", [False, True], ids=["products", "cosines"])
def test_scores_are_the_products_of_a_double_loop(make, cosine):
    model = make().double()
    test, train = both()
    truth = double_loop(gradients(model, *test), gradients(model, *train), cosine=cosine)
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, cosine=cosine)
    assert found.scores.shape == (TESTS, SAMPLES)
    assert near(found.scores, truth)
    assert torch.equal(found.T, found.scores.T)
    assert found.check().ok


def test_a_step_on_a_proponent_lowers_the_loss_of_the_test_sample(model):
    (x, y), train = both()
    scores = ks.gradient_scores(model, (x, y), train, loss=F.cross_entropy).scores
    rate = 1e-5
    before = F.cross_entropy(model(x), y, reduction="none")
    for j in range(SAMPLES):
        moved = copy.deepcopy(model)
        F.cross_entropy(moved(train[0][j:j + 1]), train[1][j:j + 1]).backward()
        with torch.no_grad():
            for p in moved.parameters():
                p -= rate * p.grad
        lowered = (before - F.cross_entropy(moved(x), y, reduction="none")) / rate
        assert torch.allclose(lowered, scores[:, j], atol=1e-3 * float(scores.abs().max()))


@each_model
@pytest.mark.parametrize("by", ["layer", "parameter"])
def test_scores_by_layer_and_by_parameter_are_those_of_loops_over_these_alone(make, by):
    model = make().double()
    test, train = both()
    own, other = gradients(model, *test), gradients(model, *train)
    groups = {}
    for name in own[0]:
        groups.setdefault(name if by == "parameter" else name.rpartition(".")[0], []).append(name)
    for cosine in (False, True):
        found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, by=by, cosine=cosine)
        assert set(found.parts) == set(groups)
        for name, names in groups.items():
            assert near(found.parts[name], double_loop(own, other, names, cosine)), name
        assert near(found.scores, double_loop(own, other, cosine=cosine))
        assert found.check().ok


def output_loop(model, tests, train, output=None, cosine=False):
    """Products of output gradients, summed over outputs, one sample and one output at a time."""
    model = copy.deepcopy(model).eval()

    def rows(x):
        outputs = model(x[None])[0] if output is None else output(model(x[None]))[0]
        found = [torch.autograd.grad(value, list(model.parameters()), retain_graph=True) for value in outputs]
        return torch.stack([torch.cat([g.flatten() for g in each]) for each in found])

    product = lambda a, b: float((rows(a) * rows(b)).sum())
    scores = torch.tensor([[product(a, b) for b in train] for a in tests], dtype=torch.float64)
    norms = [torch.tensor([product(a, a) for a in side], dtype=torch.float64).sqrt() for side in (tests, train)]
    return scores / norms[0][:, None] / norms[1] if cosine else scores


@each_model
@pytest.mark.parametrize("cosine", [False, True], ids=["products", "cosines"])
def test_without_a_loss_gradients_of_outputs_are_compared(make, cosine):
    model = make().double()
    (x, _), (z, _) = both()
    difference = lambda outputs: outputs[:, [0]] - outputs[:, [1]]
    for output, oracle in ((None, None), (1, lambda outputs: outputs[:, [1]]), (difference, difference)):
        found = ks.gradient_scores(model, x, z, loss=None, output=output, cosine=cosine, by="layer")
        assert near(found.scores, output_loop(model, x, z, oracle, cosine))
        assert found.check().ok
    assert f"{'cosines' if cosine else 'products'} of output gradients" in repr(found)
    assert found.meaning.startswith("A score says how far one small step that raises the outputs")
    assert "raises the same outputs" in found.plot().get_xlabel()


def test_a_step_that_raises_an_output_raises_those_of_proponents(model):
    (x, _), (z, _) = both()
    scores = ks.gradient_scores(model, x, z, loss=None, output=2).scores
    for j in range(SAMPLES):
        moved, rate = copy.deepcopy(model), 1e-6
        moved(z[j:j + 1])[0, 2].backward()
        with torch.no_grad():
            for p in moved.parameters():
                p += rate * p.grad
            raised = (moved(x) - model(x))[:, 2] / rate
        assert torch.allclose(raised, scores[:, j], atol=1e-3 * float(scores.abs().max()))


def test_a_parametrised_weight_belongs_to_its_layer():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, CLASSES))
    found = ks.gradient_scores(model, samples(TESTS, 1), loss=F.cross_entropy, by="layer")
    assert set(found.parts) == {"0", "2"}


@pytest.mark.parametrize("cosine", [False, True])
def test_checkpoints_are_summed_with_their_learning_rates(model, cosine):
    test, train = both()
    states, rates = stages(model)
    truth = 0
    for state, rate in zip(states, rates, strict=True):
        moved = copy.deepcopy(model)
        moved.load_state_dict(state)
        truth = truth + rate * double_loop(gradients(moved, *test), gradients(moved, *train), cosine=cosine)
    options = {"loss": F.cross_entropy, "checkpoints": states, "learning_rates": rates, "cosine": cosine}
    found = ks.gradient_scores(model, test, train, **options)
    assert near(found.scores, truth)
    assert "3 checkpoints" in repr(found)
    apart = ks.gradient_scores(model, test, train, by="layer", **options)
    assert near(apart.scores, truth)
    assert apart.check().ok


def test_the_buffers_of_a_checkpoint_are_its_own():
    model = batch_normalised().double()
    test, train = both()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[1].running_mean += 1
        moved[1].running_var *= 3
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, checkpoints=[moved.state_dict()], check=True)
    assert near(found.scores, double_loop(gradients(moved, *test), gradients(moved, *train)))
    assert found.error < 1e-12


def test_a_gradient_that_is_nought_has_no_cosine():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0), model[0].bias.fill_(0.0)
    data = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)
    found = ks.gradient_scores(model, data, loss=F.mse_loss, cosine=True)
    assert torch.allclose(found.scores, torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert ks.kernels.Tangent(model, loss=F.mse_loss, cosine=True).diagonal(data).tolist() == [1, 0]


def test_a_tied_parameter_has_every_name_in_a_state():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(4, 7, bias=False)).double()
    model[2].weight = model[0].weight
    ids = torch.arange(5)[:, None]
    data = ids, torch.arange(5)
    assert "2.weight" in model.state_dict()
    found = ks.gradient_scores(model, data, loss=F.cross_entropy, checkpoints=[model.state_dict()])
    assert near(found.scores, double_loop(gradients(model, *data), gradients(model, *data)))


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_scores_are_those_of_captum():
    influence = pytest.importorskip("captum.influence")
    torch.manual_seed(0)
    model = mlp()
    (x, y), (u, v) = both()
    x, u = x.float(), u.float()
    states, rates = stages(model.double())
    model, states = model.float(), [{name: p.float() for name, p in state.items()} for state in states]

    def load(module, checkpoint):
        module.load_state_dict(states[checkpoint])
        return rates[checkpoint]

    theirs = influence.TracInCP(
        copy.deepcopy(model), torch.utils.data.TensorDataset(u, v), [0, 1, 2], load, batch_size=4,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"), sample_wise_grads_per_batch=True)
    options = {"loss": F.cross_entropy, "checkpoints": states, "learning_rates": rates}
    ours = ks.gradient_scores(model, (x, y), (u, v), **options)
    assert near(ours.scores, theirs.influence((x, y)), 1e-5)
    for proponents in (True, False):
        found = ks.gradient_scores(model, (x, y), (u, v), k=4, proponents=proponents, **options)
        wanted = theirs.influence((x, y), k=4, proponents=proponents)
        assert torch.equal(found.indices, wanted.indices)
        assert near(found.scores, wanted.influence_scores, 1e-5)


# -- the strongest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proponents", [True, False])
def test_the_strongest_are_those_of_a_sorted_row(model, proponents):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy)
    indices, scores = found.top(4, proponents)
    for i in range(TESTS):
        order = sorted(range(SAMPLES), key=lambda j: -found.scores[i, j] if proponents else found.scores[i, j])  # noqa: B023
        assert indices[i].tolist() == order[:4]
        assert torch.equal(scores[i], found.scores[i, order[:4]])
    assert found.top(99).indices.shape == (TESTS, SAMPLES)


@pytest.mark.parametrize("proponents", [True, False])
def test_the_strongest_of_more_scores_than_have_room_are_the_same(proponents):
    model = nn.Linear(4, CLASSES).double()
    test, train = samples(40, 1), samples(1500, 2)
    whole = ks.gradient_scores(model, test, train, loss=F.cross_entropy).top(6, proponents)
    with pytest.raises(OutOfBudget):
        ks.gradient_scores(model, test, train, loss=F.cross_entropy, memory="300KB")
    indices, scores = ks.gradient_scores(model, test, train, loss=F.cross_entropy, memory="300KB", k=6,
                                         proponents=proponents)
    assert torch.equal(indices, whole.indices)
    assert near(scores, whole.scores)


def test_the_strongest_by_one_layer_are_asked_for_by_its_name(model):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, by="layer")
    assert torch.equal(found.top(3, part="2").scores, found.parts["2"].topk(3, 1).values)
    with pytest.raises(DataError, match="no scores by '7'.*'0', '2'"):
        found.top(part="7")
    with pytest.raises(DataError, match="there are none"):
        ks.gradient_scores(model, test, train, loss=F.cross_entropy).top(part="0")


def test_self_scores_are_squared_gradient_norms(model):
    _, train = both()
    norms = double_loop(gradients(model, *train), gradients(model, *train)).diagonal()
    found = ks.gradient_scores(model, train, loss=F.cross_entropy)
    assert near(found.self_scores(), norms)
    assert near(ks.kernels.Tangent(model, loss=F.cross_entropy).diagonal(train), norms)
    assert torch.equal(found.scores, found.scores.T)
    cosine = ks.gradient_scores(model, train, loss=F.cross_entropy, cosine=True)
    assert near(cosine.self_scores(), torch.ones(SAMPLES))
    with pytest.raises(DataError, match="no sample meets itself.*Tangent"):
        found[:3].self_scores()


# -- the result ------------------------------------------------------------------------------------------------------


def test_the_result_says_itself_and_becomes_a_table(model):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy)
    assert repr(found).startswith("GradientScores(5 test samples by 13 training samples, products of loss gradients: ")
    assert f"to {float(found.scores.max()):+.3g})" in repr(found)
    # A negative number bears the sign of subtraction, in sentences as on pages.
    low = f"−{abs(float(found.scores.min())):.3g}"
    assert f"from {low} to" in repr(found)
    table = found.to_frame(k=2)
    first = table[table["query"] == 0].iloc[0]
    assert first["sample"] == int(found.scores[0].argmax())
    assert first["score"] == float(found.scores[0].max())
    assert first["label"] == str(int(train[1][first["sample"]]))
    assert set(table["side"]) == {"proponent", "opponent"}
    assert (table["score"] * table["side"].map({"proponent": 1, "opponent": -1}) > 0).all()
    assert len(found.to_frame(k=None)) == int((found.scores != 0).sum())
    assert "<table" in found._repr_html_()


def test_the_drawing_shows_the_strongest_on_both_sides(model):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, by="layer")
    for part, scores in ((None, found.scores), ("0", found.parts["0"])):
        ax = found.plot(query=2, k=3, part=part)
        order = scores[2].sort(descending=True).values
        wanted = [*order[:3].tolist(), *order[-3:].tolist()]
        assert [bar.get_width() for bar in ax.patches] == wanted
        assert [text.get_text()[0] for text in ax.texts] == ["▲" if value > 0 else "▼" for value in wanted]
    names = [label.get_text() for label in found.plot(query=2, k=1).get_yticklabels()]
    first = int(found.scores[2].argmax())
    assert names[0] == f"{int(train[1][first])} (sample {first})"
    title = found.plot(query=2).get_title(loc="left")
    strongest = int(found.scores[2].abs().argmax())
    assert f"(sample {strongest}) pulls hardest {'for' if found.scores[2, strongest] > 0 else 'against'}" in title
    assert f"test sample 2 ({int(test[1][2])})" in title
    with pytest.raises(DataError, match="test sample 5 does not exist"):
        found.plot(query=5)


def test_scores_of_nothing_are_drawn_as_nothing():
    model = nn.Linear(2, 1)
    data = torch.zeros(2, 2), model(torch.zeros(2, 2)).detach()
    ax = ks.gradient_scores(model, data, loss=F.mse_loss).plot()
    assert not ax.patches
    assert "either way" in ax.get_title(loc="left")


def test_scores_are_a_section_of_a_report(model):
    test, train = both()
    page = ks.Report("Scores", [ks.gradient_scores(model, test, train, loss=F.cross_entropy)]).html()
    assert "Which samples pull the same way" in page
    assert "nor what would change without it" in page
    assert page.count("<svg") == page.count("<h3>Test sample ") == TESTS
    assert "not shown" not in page
    assert "All scores are finite" in page
    # Words of the decomposition stand where it does.
    assert "<dt>proponent</dt>" in page
    assert "<dt>contribution</dt>" not in page
    assert "What these numbers are not" not in page
    outputs = ks.gradient_scores(model, test[0], train[0], loss=None)
    assert "that raises the outputs for a sample" in ks.Report("Scores", [outputs]).html()


def test_a_page_shows_every_test_sample_up_to_a_number_and_says_how_many_it_leaves_out(model):
    found = ks.gradient_scores(model, samples(15, 1), samples(SAMPLES, 2), loss=F.cross_entropy)
    page = ks.Report("Scores", [found]).html()
    assert "Showing 12 of 15 test samples; 3 are not shown" in page
    assert page.count("<h3>Test sample ") == 12
    for query in range(12):
        case = page.split("<h3>Test sample ")[1 + query]
        assert case.startswith(f"{query}, labelled {int(found.query_labels[query])}</h3>")
        ups = int((found.scores[query] > 0).sum())
        assert f"{ups} proponent" in case
        row = found.scores[query]
        for extreme in (row.argmax(), row.argmin()):
            assert f'<td class="number">{int(extreme)}</td>' in case
            score = f"{float(row[extreme]):.4g}".replace("-", "−")
            assert f'<td class="number">{score}</td>' in case


def test_some_of_the_test_samples_are_a_result_too(model):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, by="layer")
    some = found[[3, 1]]
    assert len(some) == 2
    assert torch.equal(some.scores, found.scores[[3, 1]])
    assert torch.equal(some.parts["0"], found.parts["0"][[3, 1]])
    assert torch.equal(some.query_labels, found.query_labels[[3, 1]])


def test_a_result_is_kept_as_it_was(model, tmp_path):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, by="layer", check=True)
    kept = ks.GradientScores.load(found.save(tmp_path / "scores"))
    assert torch.equal(kept.scores, found.scores)
    assert all(torch.equal(kept.parts[name], part) for name, part in found.parts.items())
    assert repr(kept) == repr(found)
    assert kept.to_frame().equals(found.to_frame())
    assert isinstance(Result.load(tmp_path / "scores"), ks.GradientScores)


def test_classes_are_noted_where_there_are_some():
    train, test = ks.data.digits("train"), ks.data.digits("test")
    model = nn.Linear(64, 10)
    found = ks.gradient_scores(model, torch.utils.data.Subset(test, range(4)), train, loss=F.cross_entropy)
    assert torch.equal(found.labels, train.y)
    assert torch.equal(found.query_labels, test.y[:4])
    assert found.class_names == list("0123456789")
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(train, range(9)), batch_size=4)
    assert ks.gradient_scores(model, loader, loss=F.cross_entropy).class_names == list("0123456789")
    numbers = (torch.randn(3, 64), torch.randn(3, 10))
    quantities = ks.gradient_scores(model, numbers, loss=F.mse_loss)
    assert quantities.labels is None
    assert "label" not in quantities.to_frame()


@pytest.mark.parametrize(("changes", "row"), [
    ({"scores": torch.full((2, 2), torch.nan)}, "finite"), ({"parts": {"0": torch.ones(2, 2)}}, "parts"),
    ({"cosine": True, "scores": 1.2 * torch.ones(2, 2)}, "bound")])
def test_a_check_fails_where_it_should(changes, row):
    fields = {"scores": torch.zeros(2, 2), "parts": None, "of": "losses", "cosine": False, "rates": [1.0],
              "square": False, "query_labels": None, "labels": None, "class_names": None, "error": None,
              "dtype": "float32"}
    assert ks.GradientScores(**fields).check().ok
    check = ks.GradientScores(**(fields | changes)).check()
    assert [r.name for r in check.rows if r.status == "fail"] == [row]


def test_a_rounded_score_says_how_far_it_is_off(model):
    test, train = both()
    found = ks.gradient_scores(model, test, train, loss=F.cross_entropy, precision="bf16", check=True)
    (row,) = [row for row in found.check().rows if row.name == "exactness"]
    assert row.status == "warn"
    assert 1e-6 < row.value < 1e-1


# -- what is left alone and what is refused --------------------------------------------------------------------------


def test_the_model_and_the_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, CLASSES)).double().train()
    test, train = both()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    ks.gradient_scores(model, test, train, loss=F.cross_entropy, checkpoints=[before, before], check=True)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("options", "match"), [
    ({"by": "neuron"}, "by must be one of all, parameter, layer; 'neuron' came"),
    ({"k": 0}, "from 1 on; 0 came"), ({"k": 2.5}, "2.5 came"), ({"k": True}, "True came"),
    ({"k": 2, "by": "layer"}, "Leave k out"), ({"k": 2, "check": True}, "told by the whole result"),
    ({"checkpoints": []}, "list of state dictionaries"), ({"checkpoints": ["a.pt"]}, "list of state dictionaries"),
    ({"learning_rates": [0.1, 0.2]}, "one for each of the 1 states"),
    ({"learning_rates": "fast"}, "must be numbers"), ({"learning_rates": float("nan")}, "must be a number"),
    ({"loss": "cross_entropy"}, "must be a function of outputs and targets, and 'cross_entropy' came"),
    ({"output": 1}, "Either an output or a loss"),
])
def test_an_option_that_means_nothing_is_refused(model, options, match):
    with pytest.raises(DataError, match=match):
        ks.gradient_scores(model, *both(), **({"loss": F.cross_entropy} | options))


def test_samples_without_targets_are_refused(model):
    with pytest.raises(DataError, match="needs its target"):
        ks.gradient_scores(model, both()[0], both()[1][0], loss=F.cross_entropy)


@pytest.mark.parametrize(("change", "match"), [
    (lambda state: {**state, "9.weight": torch.ones(1)}, "has another '9.weight'"),
    (lambda state: {**state, "0.weight": torch.ones(1)}, "has another '0.weight'"),
    (lambda state: {name: p for name, p in state.items() if name != "2.bias"}, "lacks '2.bias'"),
])
def test_a_state_of_another_module_is_refused(model, change, match):
    with pytest.raises(ModelError, match=match):
        ks.gradient_scores(model, *both(), loss=F.cross_entropy, checkpoints=[change(model.state_dict())])


def test_a_loss_of_the_whole_batch_is_refused(model):
    with pytest.raises(ModelError, match="one number for each"):
        ks.gradient_scores(model, *both(), loss=lambda outputs, y: F.cross_entropy(outputs, y))


def test_a_target_is_no_input_where_outputs_are_compared(model):
    with pytest.raises(ModelError, match="inputs alone"):
        ks.gradient_scores(model, *both(), loss=None)


def test_a_network_that_is_one_layer_is_a_part_without_a_name(tmp_path):
    found = ks.gradient_scores(nn.Linear(4, CLASSES).double(), samples(TESTS, 1), loss=F.cross_entropy, by="layer")
    assert torch.equal(found.parts[""], found.scores)
    assert "by the network itself" in found.plot(part="").get_xlabel()
    kept = ks.GradientScores.load(found.save(tmp_path / "scores"))
    assert torch.equal(kept.parts[""], found.scores)
