"""Which rows of a map a head reads: of models whose heads are written out here, and by what changes their outputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.attribution import attribute
from svda_analysis.head_rows import rows_read, rows_told, usual_rows
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.specs import open_model
from svda_analysis.tap import records
from svda_analysis.tokens import Layout

METHODS = ("rollout", "relevance", "cls_attention")


class Tokens(nn.Module):
    """16 patches of 3 x 3 between tokens before and behind them, ``depth`` layers, and a head that reads a ``part`` of
    the tokens: the mean over it, or more than one of them side by side."""

    def __init__(self, *parts, before=1, behind=0, depth=2, named=True):
        super().__init__()
        torch.manual_seed(1)
        self.parts = parts
        self.embed, self.head = nn.Linear(9, 8), nn.Linear(8 * len(parts), 5)
        self.others = nn.Parameter(torch.randn(1, before + behind, 8))
        self.before, self.shift = before, 0
        self.layers = nn.ModuleList(nn.Linear(8, 24) for _ in range(depth))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.7)
        if not named:
            self.cls_token = None

    def forward(self, images):
        x = self.embed(F.unfold(images, 3, stride=3).mT)
        first, last = self.others.expand(len(x), -1, -1).split([self.before, self.others.shape[1] - self.before], 1)
        x = torch.cat([first, x, last], 1)
        for layer in self.layers:
            q, k, v = layer(x)[:, None].chunk(3, -1)
            x = x + F.scaled_dot_product_attention(q, k, v)[:, 0]
        self.last = x + self.shift
        return self.head(torch.cat([self.pool(self.last, part) for part in self.parts], -1))

    def pool(self, x, part):
        return x[:, part].mean(1)


CLASS, PATCHES = slice(0, 1), slice(1, 17)
CASES = {  # how a model is made, and the rows that are read
    "class token": (lambda: Tokens(CLASS), CLASS),
    "class token of three": (lambda: Tokens(CLASS, before=3), CLASS),
    "class token and patches": (lambda: Tokens(CLASS, PATCHES), CLASS),
    "all tokens": (lambda: Tokens(slice(None)), CLASS),
    "patches beside a class token": (lambda: Tokens(PATCHES), PATCHES),
    "patches beside registers": (lambda: Tokens(slice(4, 20), before=4, named=False), slice(4, 20)),
    "all with registers": (lambda: Tokens(slice(None), before=4, named=False), slice(None)),
    "patches before registers": (lambda: Tokens(slice(0, 16), before=0, behind=4), slice(0, 16)),
    "a token behind": (lambda: Tokens(slice(16, 17), before=0, behind=1), slice(16, 17)),
    "the patches alone": (lambda: Tokens(slice(None), before=0), slice(None)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, rows = CASES[request.param]
    model = make().eval()
    return model, torch.randn(2, 1, 12, 12), rows


def on_pixels(row, model):
    """What a row ``(B, N)`` pays to the patches, at the pixels."""
    patches = row[:, model.before : model.before + 16].reshape(-1, 4, 4)
    return patches.repeat_interleave(3, 1).repeat_interleave(3, 2)


def by_hand(model, images, method, target=2):
    """The whole matrix of a method, from the maps of the layers and their gradients, ``(B, N, N)``."""
    if method == "cls_attention":
        return records(model, images)[-1].a[:, 0]
    whole = torch.eye(records(model, images)[0].a.shape[-1])
    if method == "rollout":
        for record in records(model, images):
            whole = (record.a[:, 0] + torch.eye(len(whole[-1]))) / 2 @ whole
        return whole
    x = model.embed(F.unfold(images, 3, stride=3).mT)
    first, last = model.others.expand(len(x), -1, -1).tensor_split([model.before], 1)
    x, maps = torch.cat([first, x, last], 1), []
    for layer in model.layers:
        q, k, v = layer(x).chunk(3, -1)
        maps.append((q @ k.mT / 8**0.5).softmax(-1))
        x = x + maps[-1] @ v
    logits = model.head(torch.cat([model.pool(x, part) for part in model.parts], -1))
    for a, gradient in zip(maps, torch.autograd.grad(logits[:, target].sum(), maps), strict=True):
        whole = whole + (gradient * a).relu() @ whole
    return whole.detach()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reads_the_rows_that_the_head_reads(case, method):
    model, images, rows = case
    wanted = on_pixels(by_hand(model, images, method)[:, rows].mean(1), model)
    torch.testing.assert_close(attribute(model, images, method=method, target=2), wanted, rtol=1e-4, atol=1e-6)


def test_the_rows_are_those_whose_tokens_change_the_output(case):
    model, images, rows = case
    subject, N = open_model(model), model.others.shape[1] + 16
    with torch.no_grad():
        plain, changing = model(images), []
        for at in range(N):
            model.shift = F.one_hot(torch.tensor(at), N)[:, None]
            changing.append(not torch.allclose(model(images), plain, atol=1e-6))
    model.shift = 0
    shares = rows_read(subject, images, subject.maps_of(images), lambda output: output.square().sum())
    among = range(N)[rows]
    assert shares.shape[1] == N
    for one in shares:
        assert one.tolist() == pytest.approx([changing[at] * (at in among) / len(among) for at in range(N)])


def test_a_map_is_given_where_the_class_token_goes_nowhere():
    model, images = Tokens(PATCHES, depth=1).eval(), torch.randn(2, 1, 12, 12)
    found = attribute(model, images, method="relevance", target=2)
    wanted = on_pixels(by_hand(model, images, "relevance")[:, PATCHES].mean(1), model)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.std() > 0


@pytest.mark.parametrize(("parts", "asked"), [([CLASS], [3, 1]), ([PATCHES], [3, 1, 3]), ([CLASS, PATCHES], [3, 1, 3])])
def test_one_image_tells_of_all_where_the_head_reads_the_class_token_alone(parts, asked):
    model, images, seen = Tokens(*parts).eval(), torch.randn(3, 1, 12, 12), []
    subject = open_model(model)
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for target, wanted in ((None, asked), (lambda output: output[:, 0] * torch.ones(3), [3, 3])):
        seen.clear()
        attribute(subject, images, target=target)
        assert seen == wanted


class Largest(Tokens):
    """The head reads the largest of each number over the patches: other rows of each image."""

    def pool(self, x, part):
        values, self.read = x[:, part].max(1)
        return values


@pytest.mark.parametrize("method", METHODS)
def test_each_image_has_the_rows_that_are_read_of_it(method):
    model, images = Largest(PATCHES).eval(), torch.randn(3, 1, 12, 12)
    model(images)
    read = [sorted(set(one.tolist())) for one in model.read + 1]
    assert len(set(map(tuple, read))) == 3
    if method == "relevance":
        found = attribute(model, images, method=method, target=2)
        torch.testing.assert_close(attribute(model, images[1:2], method=method, target=2), found[1:2])
        return
    whole = by_hand(model, images, method)
    wanted = torch.stack([one[rows].mean(0) for one, rows in zip(whole, read, strict=True)])
    torch.testing.assert_close(attribute(model, images, method=method), on_pixels(wanted, model), rtol=1e-4, atol=1e-6)


def test_rows_of_a_score_of_one_s_own_are_those_that_it_reads():
    class Open(Tokens):
        def forward(self, images):
            super().forward(images)
            return self.last

    model, images = Open(CLASS).eval(), torch.randn(2, 1, 12, 12)
    whole = by_hand(model, images, "rollout")
    for at, target in ((0, lambda x: x.mean((1, 2))), (7, lambda x: x[:, 7].square().sum(1))):
        found = attribute(model, images, target=target)
        torch.testing.assert_close(found, on_pixels(whole[:, at], model), rtol=1e-4, atol=1e-6)


class Cut(Tokens):
    """No gradient goes through."""

    def forward(self, images):
        with torch.no_grad():
            return super().forward(images)


@pytest.mark.parametrize(("named", "rows"), [(True, CLASS), (False, slice(None))])
@pytest.mark.parametrize("method", ["rollout", "cls_attention"])
def test_where_no_gradient_tells_the_class_token_is_read_or_all(named, rows, method):
    model, images = Cut(PATCHES, named=named).eval(), torch.randn(2, 1, 12, 12)
    wanted = on_pixels(by_hand(model, images, method)[:, rows].mean(1), model)
    torch.testing.assert_close(attribute(model, images, method=method), wanted, rtol=1e-4, atol=1e-6)
    model = Tokens(PATCHES, named=named).eval()
    nn.init.zeros_(model.head.weight)  # so that its gradients are 0
    wanted = on_pixels(by_hand(model, images, method)[:, rows].mean(1), model)
    torch.testing.assert_close(attribute(model, images, method=method), wanted, rtol=1e-4, atol=1e-6)


def test_the_last_layer_that_is_heard_tells():
    layout, N = Layout((2, 2), 1), 5
    silent, heard = torch.zeros(2, 1, N, N), torch.zeros(2, 1, N, N)
    heard[0, 0, 2, 3], heard[1, 0, 1:, 4] = -1e-30, 1
    wanted = torch.tensor([[0, 0, 1, 0, 0], [0, 0.25, 0.25, 0.25, 0.25]])
    assert torch.equal(rows_told([silent, heard, heard + 1], layout), wanted)
    assert torch.equal(rows_told([], layout), usual_rows(layout))
    assert torch.equal(rows_told([silent], layout), torch.eye(5)[:1].expand(2, -1))
    assert torch.equal(rows_told([heard], Layout((1, 5))), torch.full((1, 5), 0.2))


def test_our_own_are_not_asked(monkeypatch):
    torch.manual_seed(0)
    model, images = ViT(ViTConfig(image_size=12, dim=24, depth=2, heads=2)).eval(), torch.randn(2, 1, 12, 12)
    subject, found = open_model(model), []
    whole = subject.maps_of(images)
    monkeypatch.setattr(ViT, "forward", lambda *_: found.append(1))
    assert torch.equal(rows_read(subject, images, whole, lambda output: output.sum()), torch.eye(10)[:1])
    assert not found


def test_without_a_class_token_all_before_the_patches_are_registers():
    images = torch.randn(2, 1, 12, 12)
    named, unnamed = (Tokens(PATCHES, before=3, named=named).eval() for named in (True, False))
    options = {"indicators": ["class_mass", "register_mass"], "examples": 2}
    a = torch.stack([record.a[:, 0, 3:, :3] for record in records(named, images)])  # (layers, B, P, 3)
    for model, masses in (
        (named, {"class_mass": a[..., 0], "register_mass": a[..., 1:].sum(-1)}),
        (unnamed, {"register_mass": a.sum(-1)}),
    ):
        analysis = analyze(model, images, **options)
        assert set(analysis.table["indicator"]) == set(masses)
        for name, wanted in masses.items():
            rows = analysis.table[analysis.table["indicator"] == name].sort_values("layer")
            assert rows["mean"].tolist() == pytest.approx(wanted.mean((1, 2)).tolist(), rel=1e-5)
        (shown,) = analysis.examples.values()
        assert shown.layout.has_class_token == (model is named)
