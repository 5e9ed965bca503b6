import pytest
import torch
from torch import nn

from kernelscope.errors import DataError
from kernelscope.nn import BundledLayer, bundle, find_blocks
from tests.nn.small import points


def chains(model):
    return [block.chain for block in find_blocks(model)]


class Feed(nn.Module):
    def __init__(self, d=6, h=12):
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = nn.Linear(d, h), nn.GELU(), nn.Dropout(0.1), nn.Linear(h, d)

    def forward(self, x):
        return self.fc2(self.drop(self.act(self.fc1(x))))


class Functional(nn.Module):
    """An activation that is no module: seen as a black box."""

    def __init__(self, d=6, h=12):
        super().__init__()
        self.up, self.down = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return self.down(torch.sin(self.up(x)))


class Gated(nn.Module):
    def __init__(self, d=6, h=12):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(d, h), nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Backwards(Feed):
    """The layers are named in another order than they are called in."""

    def forward(self, x):
        return self.fc1(self.act(self.fc2(x)))


class Mixing(nn.Module):
    """Two linear layers whose rows see each other."""

    def __init__(self, d=6):
        super().__init__()
        self.one, self.two = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x):
        return self.two(torch.softmax(x @ self.one(x).mT, -1) @ x)


class Residual(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts, self.norm, self.head = nn.ModuleList(parts), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x):
        for part in self.parts:
            x = x + part(self.norm(x))
        return self.head(x)


def test_runs_in_a_sequential_are_found_two_layers_at_a_time():
    act = nn.ReLU()  # one activation in several places
    model = nn.Sequential(nn.Linear(4, 8), act, nn.Dropout(0.1), nn.Linear(8, 8), act, nn.Linear(8, 8), act,
                          nn.Linear(8, 2))
    assert chains(model) == [("0", "1", "2", "3"), ("5", "6", "7")]


@pytest.mark.parametrize("between", [(), (nn.LayerNorm(8),), (nn.ReLU(), nn.LayerNorm(8)), (nn.ReLU(), nn.Tanh()),
                                     (nn.Softmax(-1),)])
def test_what_is_not_linear_activation_linear_is_no_block(between):
    assert chains(nn.Sequential(nn.Linear(4, 8), *between, nn.Linear(8, 2))) == []


def test_named_children_black_boxes_and_gates_are_found():
    model = Residual(Feed(), Functional(), Gated())
    assert chains(model) == [("parts.0.fc1", "parts.0.act", "parts.0.fc2"), ("parts.1",), ("parts.2",)]
    assert [block.activation for block in find_blocks(model)] == ["parts.0.act", None, None]


def test_the_layers_of_torch_are_found():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert [block.name for block in find_blocks(model)] == ["layers.0.linear1-linear2", "layers.1.linear1-linear2"]


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder, self.head = nn.Embedding(9, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=x == 0)[:, 0])


def test_the_layers_of_torch_are_replaced_off_their_fast_path():
    model, x = Padded().eval(), torch.randint(1, 9, (60, 5))
    x[:, 4] = 0
    bundled, report = bundle(model, x, features=64)
    assert len(report.blocks) == 2
    with torch.no_grad():
        fast = bundled(x)
    assert torch.allclose(fast, bundled(x), atol=1e-5)
    assert float((fast - model(x)).detach().norm() / model(x).detach().norm()) < 0.3


@pytest.mark.parametrize("mode", ["ffn", "layerwise"])
def test_all_of_them_are_replaced(mode):
    model = Residual(Feed(), Functional(), Gated()).double()
    x = points(200, 6)
    bundled, report = bundle(model, x, features=64, mode=mode)
    assert [type(part).__name__ for part in bundled.parts] == ["Feed", "BundledLayer", "BundledLayer"]
    assert isinstance(bundled.parts[0].fc1, BundledLayer)
    assert report.blocks == ["parts.0", "parts.1", "parts.2"]
    assert report.error < 0.1


def test_what_only_looks_like_a_block_is_left_with_the_reason():
    model = Residual(Feed(), Mixing()).double()
    x = points(40, 30).view(40, 5, 6)
    bundled, report = bundle(model, x, features=16)
    assert report.blocks == ["parts.0"]
    assert report.left == {"parts.1": "it is not a function of one row that its linear layers and activation make"}
    assert isinstance(bundled.parts[1], Mixing)
    assert "1 block was left as it was" in repr(report)


def test_children_in_another_order_are_a_black_box():
    model = Residual(Feed(), Backwards(6, 6)).double()
    bundled, report = bundle(model, points(60, 6), features=8)
    assert report.blocks == ["parts.0", "parts.1"]
    assert isinstance(bundled.parts[1], BundledLayer)


def test_a_block_that_is_never_called_is_left():
    model = Residual(Feed()).double()
    model.spare = Feed().double()
    _, report = bundle(model, points(60, 6), features=8)
    assert report.left == {"spare": "the network does not call it"}


def test_a_block_that_is_called_twice_is_fitted_to_both():
    shared = Feed()
    bundled, report = bundle(Residual(shared, shared).double(), points(60, 6), features=8)
    assert report.blocks == ["parts.0"]
    assert bundled.parts[0] is bundled.parts[1]


def test_a_network_without_blocks_is_refused_with_a_way_out():
    with pytest.raises(DataError, match='No block Linear, activation, Linear was found in Linear.*mode="full"'):
        bundle(nn.Linear(6, 2), points(60, 6).float())
    with pytest.raises(DataError, match=r"Nothing in Residual can be replaced \(parts.0: it is not"):
        bundle(Residual(Mixing()).double(), points(40, 30).view(40, 5, 6))


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def hugging_face(name):
    hf = pytest.importorskip("transformers")
    ids = torch.randint(0, 40, (48, 7), generator=torch.Generator().manual_seed(0))
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if name == "bert":
        mask = (torch.arange(7) < 5).expand(48, 7).long()
        return hf.BertForSequenceClassification(hf.BertConfig(vocab_size=40, **SIZES)), {"input_ids": ids,
                                                                                        "attention_mask": mask}
    if name == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=8,
                                                **ends)), {"input_ids": ids}
    if name == "vit":
        config = hf.ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
        return hf.ViTForImageClassification(config), torch.randn(48, 1, 8, 8)
    if name == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=40, **SIZES, **ends)), {"input_ids": ids}
    return hf.T5EncoderModel(hf.T5Config(vocab_size=40, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8)), {
        "input_ids": ids}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "llama", "t5"])
def test_networks_of_transformers_are_bundled(name):
    model, x = hugging_face(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    training = [module.training for module in model.modules()]
    bundled, report = bundle(model, x, features=16)
    assert len(report.blocks) == 2
    assert not report.left
    assert report.parameters_after < report.parameters_before
    assert bool((report.errors < report.linear).all())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == training
    bundled.eval()
    found = bundled(**x) if isinstance(x, dict) else bundled(x)
    value = found.last_hidden_state if name == "t5" else found.logits
    assert bool(value.isfinite().all())


@pytest.mark.filterwarnings("ignore")
def test_padding_is_not_fitted_to():
    model, x = hugging_face("bert")
    one, _ = bundle(model, x, features=8)
    other, _ = bundle(model, x | {"input_ids": x["input_ids"].clone().index_fill_(1, torch.tensor([5, 6]), 3)},
                      features=8)
    first, second = (each.bert.encoder.layer[0].intermediate.weight for each in (one, other))
    assert torch.allclose(first, second, atol=1e-5)
