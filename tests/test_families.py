"""Vision Transformers that nobody here wrote, small and random: which layers are the image's, and nothing changes."""

import dataclasses
import itertools
import warnings
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from svda_analysis.analysis import analyze
from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.indicators import attention_entropy
from svda_analysis.layer_inputs import LayerInputs
from svda_analysis.maps import ImageMap, map_of_image, whole_maps
from svda_analysis.tap import capture, records, without_head
from svda_analysis.tokens import GivenLayout, Layout

TIMM_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 5}
HF_SIZE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def answer_of(output):
    """What a model returned: a tensor, or the first that Hugging Face's outputs hold."""
    if isinstance(output, dict) and "logits" in output:
        return output["logits"]
    names = ("logits", "pooler_output", "last_hidden_state")
    return output if isinstance(output, torch.Tensor) else next(getattr(output, n) for n in names if hasattr(output, n))


def of_timm(name, **size):
    def build():
        return pytest.importorskip("timm", reason="timm is optional").create_model(name, **{**TIMM_SIZE, **size})

    return build


def of_transformers(name, kernel="sdpa", usual=HF_SIZE, **size):
    def build():
        library = pytest.importorskip("transformers", reason="transformers is optional")
        bare = name
        for ending in ("ForImageClassification", "ForVideoClassification", "ConvProcessing", "Model"):
            bare = bare.removesuffix(ending)
        config = getattr(library, bare + "Config")
        model = getattr(library, name)(config(**{**usual, **size}))
        if kernel:
            model.set_attn_implementation(kernel)
        return model

    return build


def open_clip_tower():
    library = pytest.importorskip("open_clip", reason="open_clip is optional")
    size = library.model.CLIPVisionCfg(layers=2, width=24, head_width=12, patch_size=8, image_size=32)
    return library.model._build_vision_tower(16, size)


def of_timm_stages(name, **size):
    def build():
        return pytest.importorskip("timm", reason="timm is optional").create_model(name, **{"num_classes": 5, **size})

    return build


def unfused(model):
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def torchvision_vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48
    )


class Own(nn.Module):
    """Patches, then nn.MultiheadAttention with everything it can do."""

    num_prefix_tokens = 0

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, stride=8)
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]  # need_weights
        return self.head(self.encoder(x).mean(1))


class Cut(nn.Module):
    """Patches that ``embed`` cuts, ``depth`` layers whose attention is multiplied by hand."""

    def __init__(self, embed, depth=2):
        super().__init__()
        self.embed = embed
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(depth))
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        t = self.embed(x)
        for layer in self.qkv:
            q, k, v = layer(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            t = t + torch.einsum(
                "bhij,bhjd->bihd", (torch.einsum("bhid,bhjd->bhij", q, k) / 12**0.5).softmax(-1), v
            ).flatten(2)
        return self.head(t.mean(1))


class ByUnfold(nn.Module):
    """Patches by unfold and a linear layer; ``pad``: up to whole patches."""

    def __init__(self, *, pad=False):
        super().__init__()
        self.pad, self.linear = pad, nn.Linear(192, 24)

    def forward(self, x):
        if self.pad:
            x = nn.functional.pad(x, (0, -x.shape[-1] % 8, 0, -x.shape[-2] % 8))
        return self.linear(nn.functional.unfold(x, 8, stride=8).mT)


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(2).mT


def conv_stem():
    return Cut(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 24, 3, 2, 1), nn.MaxPool2d(2), Flat()))


class Detr(nn.Module):
    """An encoder over the patches, then a decoder whose queries are learned."""

    def __init__(self):
        super().__init__()
        self.patches, self.queries = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 16, 24))
        self.transformer = nn.Transformer(24, 2, 2, 2, 48, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        t = self.patches(x).flatten(2).mT
        return self.head(self.transformer(t, self.queries.expand(len(t), -1, -1)).mean(1))


class Latents(nn.Module):
    """Perceiver-like: 16 latents look at the patches, then at each other."""

    def __init__(self):
        super().__init__()
        self.patches, self.latents = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 16, 24))
        self.look, self.think = (nn.MultiheadAttention(24, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        t, latents = self.patches(x).flatten(2).mT, self.latents.expand(len(x), -1, -1)
        latents = latents + self.look(latents, t, t)[0]
        return self.head((latents + self.think(latents, latents, latents)[0]).mean(1))


class Rearranged(nn.Module):
    """Patches by a rearrangement and norms, a class token, attention in a module of its own: as vit-pytorch has it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 24), nn.LayerNorm(24))
        self.cls, self.place = nn.Parameter(torch.zeros(24)), nn.Parameter(torch.zeros(1, 17, 24))
        self.layers = nn.ModuleList(nn.ModuleDict(self.parts()) for _ in range(2))
        self.head = nn.Linear(24, 5)

    def parts(self):
        made = {"norm": nn.LayerNorm(24), "qkv": nn.Linear(24, 72, bias=False), "attend": nn.Softmax(-1)}
        return {**made, "dropout": nn.Dropout(0.1), "out": nn.Sequential(nn.Linear(24, 24), nn.Dropout(0.1))}

    def forward(self, x):
        B, C, H, W = x.shape
        t = x.view(B, C, H // 8, 8, W // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(B, -1, 64 * C)
        t = self.embed(t)
        t = torch.cat([self.cls.expand(B, 1, -1), t], 1) + self.place
        for layer in self.layers:
            q, k, v = (x.view(B, -1, 2, 12).transpose(1, 2) for x in layer["qkv"](layer["norm"](t)).chunk(3, dim=-1))
            a = layer["dropout"](layer["attend"](torch.matmul(q, k.transpose(-1, -2)) * 12**-0.5))
            t = t + layer["out"](torch.matmul(a, v).transpose(1, 2).reshape(B, -1, 24))
        return self.head(t[:, 0])


class Volume(nn.Module):
    """A volume of one channel, cut into cubes."""

    def __init__(self):
        super().__init__()
        self.cubes = nn.Conv3d(1, 24, 8, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 2, 48, batch_first=True), 2)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.encoder(self.cubes(x).flatten(2).mT).mean(1))


class WithMean(nn.Module):
    """The mean of all patches stands before them."""

    def __init__(self, embed):
        super().__init__()
        self.embed = embed

    def forward(self, x):
        t = self.embed(x)
        return torch.cat([t.mean(1, keepdim=True), t], 1)


class Fewer(Cut):
    """After the first layer, ``change`` leaves fewer tokens."""

    def __init__(self, change):
        super().__init__(ByUnfold())
        self.change = change

    def forward(self, x):
        t = self.embed(x)
        for layer in self.qkv:
            q, k, v = layer(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            t = self.change(t + ((q @ k.mT / 12**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.head(t.mean(1))


def merged(t):
    return (t[:, ::2] + t[:, 1::2]) / 2


def heaviest(t):
    index = t.norm(dim=-1).topk(t.shape[1] // 2).indices.sort().values
    return t.gather(1, index[..., None].expand(-1, -1, t.shape[-1]))


class TwoPasses(nn.Module):
    """An image and its mirror image through one model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) + self.model(x.flip(-1))


class ZeroShot(nn.Module):
    """A model of images and texts that is asked for fixed prompts."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("prompts", torch.arange(48).view(3, 16) % 40)

    def forward(self, x):
        return self.model(pixel_values=x, input_ids=self.prompts).logits_per_image


def zero_shot(name):
    def build():
        library = pytest.importorskip("transformers", reason="transformers is optional")
        text = {**HF_SIZE, "vocab_size": 50, "max_position_embeddings": 16, "eos_token_id": 49, "projection_size": 24}
        config = getattr(library, f"{name}Config")(text_config=text, vision_config=HF_SIZE)
        return ZeroShot(getattr(library, f"{name}Model")(config))

    return build


class Checkpointed(Cut):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = nn.Sequential(model, nn.Identity())

    def forward(self, x):
        return {"logits": self.inner(x)}


def changed(build, change):
    return lambda: change(build())


def quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def swin_of_torchvision():
    return torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [1, 2], [4, 4], num_classes=5)


@dataclasses.dataclass(frozen=True)
class Family:
    """``layouts``: of the layers that are the image's, how many of each layout; ``left_out``: how many calls are none,
    by the reason. ``about`` is a row of README's table: what is measured, and what is refused and why."""

    build: Callable[[], nn.Module]
    layouts: dict[Layout, int]
    about: str
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    images: tuple[int, ...] = (3, 32, 32)
    gaps: str = ""  # why rollout and relevance are refused
    gradients: bool = True
    pooled: bool = False  # its head reads the mean over patches, and no token beside them

    def __hash__(self):
        return id(self)


GRID, POOLED, FEWER = (4, 4), "of one query that pools", "with other keys than queries"
QUERIES = "of queries or latents that stand for no patches"
TEXT = "over what is not the image (text, or queries that were learned)"
PLAIN, BY_HAND = "every layer", "every layer, multiplied by hand"
STAGES = "layers where queries and keys are the same tokens"
WINDOWS = "every layer, by window; drawn where windows make up the image"


def plain(prefix=1, suffix=0, layers=2):
    return {Layout(GRID, prefix, suffix): layers}


FAMILIES = {
    "timm vit": Family(of_timm("vit_tiny_patch16_224"), plain(), PLAIN),
    "timm vit, no class token": Family(of_timm("vit_base_patch16_siglip_gap_224"), plain(0), PLAIN),
    "timm vit, unfused": Family(changed(of_timm("vit_tiny_patch16_224"), unfused), plain(), BY_HAND),
    "timm vit, padding": Family(
        of_timm("vit_tiny_patch16_224", dynamic_img_size=True, dynamic_img_pad=True),
        {Layout((4, 6), 1): 2},
        PLAIN,
        images=(3, 28, 45),
    ),
    "timm vit, parallel": Family(
        of_timm("vit_small_patch16_18x2_224"), plain(layers=4), PLAIN, gaps="its layers do not follow one another"
    ),
    "timm naflexvit": Family(
        of_timm("naflexvit_base_patch16_gap"),
        {Layout((2, 8), 4): 2},
        "every layer, any aspect ratio",
        images=(3, 16, 64),
        pooled=True,
    ),
    "timm deit, distilled": Family(of_timm("deit_tiny_distilled_patch16_224"), plain(2), PLAIN),
    "timm eva02, rotary": Family(of_timm("eva02_tiny_patch14_224"), plain(), PLAIN, pooled=True),
    "timm beit, bias": Family(of_timm("beit_base_patch16_224"), plain(), PLAIN, pooled=True),
    "timm dinov2, registers": Family(of_timm("vit_small_patch14_reg4_dinov2"), plain(5), PLAIN),
    "timm dinov3": Family(of_timm("vit_small_patch16_dinov3"), plain(5), PLAIN, pooled=True),
    "timm siglip, pooling": Family(of_timm("vit_base_patch16_siglip_224"), plain(0), PLAIN, {POOLED: 1}),
    "timm cait": Family(
        of_timm("cait_xxs24_224"), plain(0), BY_HAND, {POOLED: 2}, gaps="heads are mixed after the softmax"
    ),
    "timm convit": Family(of_timm("convit_tiny", depth=4, embed_dim=12), plain(0, layers=4), BY_HAND),
    "timm xcit": Family(
        of_timm("xcit_nano_12_p16_224", img_size=64, patch_size=16, embed_dim=128),
        {},
        "nothing",
        {"between 64 channels, each of the whole image": 2, POOLED: 2},
        images=(3, 64, 64),
    ),
    "timm swin": Family(
        of_timm_stages(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            patch_size=4,
            window_size=4,
            embed_dim=12,
            depths=(2, 2),
            num_heads=(1, 2),
        ),
        {Layout((8, 8)): 2, Layout(GRID): 2},
        WINDOWS,
        gaps="layers have another grid",
    ),
    "timm swin, padded windows": Family(
        of_timm_stages(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            patch_size=4,
            window_size=3,
            embed_dim=12,
            depths=(2,),
            num_heads=(1,),
        ),
        {Layout((8, 8)): 2},
        WINDOWS,
    ),
    "timm swinv2": Family(
        of_timm_stages(
            "swinv2_tiny_window8_256",
            img_size=32,
            patch_size=4,
            window_size=4,
            embed_dim=12,
            depths=(2,),
            num_heads=(2,),
        ),
        {Layout((8, 8)): 2},
        WINDOWS,
    ),
    "timm pvt v2": Family(
        of_timm_stages("pvt_v2_b0", depths=(1, 1, 1, 2)),
        {Layout((2, 2)): 2},
        STAGES,
        {FEWER: 3},
        images=(3, 64, 64),
        gaps="3 calls with other keys than queries",
    ),
    "torchvision vit": Family(torchvision_vit, plain(), PLAIN),
    "torchvision swin": Family(
        swin_of_torchvision, {Layout((8, 8)): 2, Layout(GRID): 2}, WINDOWS, gaps="layers have another grid"
    ),
    "hf vit": Family(of_transformers("ViTForImageClassification"), plain(), PLAIN),
    "hf vit, eager": Family(of_transformers("ViTForImageClassification", "eager"), plain(), BY_HAND),
    "hf deit": Family(of_transformers("DeiTForImageClassification"), plain(2), PLAIN),
    "hf dinov2": Family(of_transformers("Dinov2ForImageClassification", mlp_ratio=2), plain(), PLAIN),
    "hf dinov2, registers": Family(
        of_transformers("Dinov2WithRegistersForImageClassification", mlp_ratio=2), plain(5), PLAIN
    ),
    "hf clip": Family(of_transformers("CLIPVisionModel"), plain(), PLAIN),
    "hf yolos": Family(of_transformers("YolosModel", image_size=[32, 32], num_detection_tokens=3), plain(1, 3), PLAIN),
    "hf vitmae": Family(
        of_transformers("ViTMAEModel"), {}, "nothing", {"of other patches in each image (some are dropped)": 2}
    ),
    "hf swin": Family(
        of_transformers(
            "SwinForImageClassification",
            usual={"image_size": 32},
            patch_size=4,
            embed_dim=12,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=4,
        ),
        {Layout((8, 8)): 2, Layout(GRID): 2},
        WINDOWS,
        gaps="layers have another grid",
    ),
    "hf segformer": Family(
        of_transformers(
            "SegformerForImageClassification",
            None,
            usual={},
            depths=[1, 1, 1, 2],
            hidden_sizes=[8, 16, 16, 32],
            num_attention_heads=[1, 2, 2, 4],
        ),
        {Layout((2, 2)): 2},
        STAGES,
        {FEWER: 3},
        images=(3, 64, 64),
        gaps="3 calls with other keys than queries",
    ),
    "hf videomae": Family(
        of_transformers("VideoMAEForVideoClassification", num_frames=4, tubelet_size=2),
        {Layout(GRID, frames=2): 2},
        "every layer, over frames",
        images=(4, 3, 32, 32),
    ),
    "hf timesformer": Family(
        of_transformers("TimesformerForVideoClassification", None, num_frames=4),
        {Layout(GRID, frames=4): 2, "windows": 2},
        "every layer: in time by patch, in space by frame",
        images=(4, 3, 32, 32),
        gaps="inside windows or frames",
    ),
    "hf vivit": Family(
        of_transformers("VivitForVideoClassification", num_frames=4, tubelet_size=[2, 8, 8]),
        {Layout(GRID, 1, frames=2): 2},
        "every layer, over frames",
        images=(4, 3, 32, 32),
    ),
    "hf pvt": Family(
        of_transformers(
            "PvtForImageClassification",
            None,
            usual={},
            image_size=64,
            depths=[1, 1, 1, 2],
            hidden_sizes=[8, 16, 16, 32],
            num_attention_heads=[1, 2, 2, 4],
            sequence_reduction_ratios=[8, 4, 2, 1],
        ),
        {Layout((2, 2), 1): 2},
        STAGES,
        {FEWER: 3},
        images=(3, 64, 64),
        gaps="3 calls with other keys than queries",
    ),
    "timm levit": Family(
        of_timm_stages("levit_128s", img_size=96),
        {Layout((6, 6)): 2, Layout((3, 3)): 3, Layout((2, 2)): 4},
        STAGES,
        {FEWER: 2},
        images=(3, 96, 96),
        gaps="2 calls with other keys than queries",
    ),
    "timm samvit, some layers in windows": Family(
        of_timm("samvit_base_patch16", depth=3, window_size=2, global_attn_indexes=(2,)),
        {Layout(GRID): 3},
        WINDOWS,
    ),
    "hf clip, zero-shot": Family(zero_shot("CLIP"), plain(), "every layer of the image's tower", {TEXT: 2}),
    "hf siglip, zero-shot": Family(
        zero_shot("Siglip"), plain(0), "every layer of the image's tower", {TEXT: 2, POOLED: 1}
    ),
    "open_clip": Family(open_clip_tower, plain(), PLAIN),
    "nn.MultiheadAttention": Family(Own, plain(0), PLAIN),
    "unfold and linear": Family(lambda: Cut(ByUnfold()), {Layout((2, 8)): 2}, BY_HAND, images=(3, 16, 64)),
    "unfold, padding": Family(lambda: Cut(ByUnfold(pad=True)), {Layout((4, 6)): 2}, BY_HAND, images=(3, 28, 45)),
    "rearranged, as vit-pytorch": Family(Rearranged, plain(), BY_HAND),
    "the mean as a first token": Family(lambda: Cut(WithMean(ByUnfold())), plain(), BY_HAND),
    "volume": Family(Volume, {Layout((2, 3), frames=4): 2}, "every layer, over frames", images=(1, 32, 16, 24)),
    "merged tokens": Family(
        lambda: Fewer(merged), {Layout(GRID): 1, Layout((4, 2)): 1}, BY_HAND, gaps="layers have another grid"
    ),
    "dropped tokens": Family(
        lambda: Fewer(heaviest),
        plain(0, layers=1),
        "layers before any is dropped",
        {"of other patches in each image (some are dropped)": 1},
        gaps="some are dropped",
    ),
    "two passes": Family(
        changed(of_timm("vit_tiny_patch16_224"), TwoPasses),
        plain(layers=4),
        "every layer of each pass",
        gaps="its layers do not follow one another: two passes or towers",
    ),
    "conv stem": Family(conv_stem, {Layout((2, 8)): 2}, BY_HAND, images=(3, 16, 64)),
    "detr-like": Family(Detr, plain(0), "the encoder", {QUERIES: 1, TEXT: 1, FEWER: 2}),
    "perceiver-like": Family(Latents, {}, "nothing", {FEWER: 1, QUERIES: 1}),
    "checkpointed": Family(lambda: Checkpointed(ByUnfold()), plain(0), BY_HAND, gradients=False),
    "compiled": Family(
        changed(of_timm("vit_tiny_patch16_224"), lambda model: torch.compile(model, backend="eager")), plain(), PLAIN
    ),
    "quantised": Family(changed(of_timm("vit_tiny_patch16_224"), quantised), plain(), PLAIN, gradients=False),
    "wrapped": Family(changed(of_timm("vit_tiny_patch16_224"), Wrapper), plain(), PLAIN),
}


def family_table():
    """The families as a table in Markdown: what of each is measured, and what is refused and why."""
    rows = {}
    for name, kind in FAMILIES.items():
        refused = [f"{why} ({count})" for why, count in kind.left_out.items()]
        refused += [f"rollout and relevance: {kind.gaps}"] if kind.gaps else []
        rows.setdefault((kind.about, "; ".join(refused)), []).append(name)
    lines = [f"| {'; '.join(names)} | {about} | {refused} |" for (about, refused), names in rows.items()]
    return "\n".join(["| family | measured | refused, and why (calls) |", "|---|---|---|", *lines])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    kind = FAMILIES[request.param]
    torch.manual_seed(0)
    model = kind.build().eval()
    for parameter in model.parameters():  # many libraries begin with a head, or a scale, of zeros
        nn.init.normal_(parameter, std=0.2)
    return kind, model, torch.randn(2, *kind.images)


@pytest.fixture(autouse=True)
def slow_path():
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def judged(model, images):
    """What became of each attention call of one forward: an ImageMap, or a reason."""
    return [map_of_image(record, len(images), GivenLayout()) for record in records(model, images)]


def test_the_images_layers_are_told_from_what_is_none(family):
    kind, model, images = family
    torch.manual_seed(0)
    found = judged(model, images)
    layouts = Counter(one.whole or "windows" for one in found if isinstance(one, ImageMap))
    assert layouts == kind.layouts
    assert Counter(one for one in found if isinstance(one, str)) == kind.left_out


def test_nothing_is_taken_for_attention_that_shows_no_map(family):
    _, model, images = family
    with torch.no_grad(), capture(model, lambda record: None) as hidden:
        for few in (images, images[:1]):
            model(few)
            assert not hidden


def test_nothing_changes(family):
    _, model, images = family
    with torch.no_grad():
        torch.manual_seed(0)
        plain = answer_of(model(images))
        torch.manual_seed(0)
        with capture(model, lambda record: None):
            assert torch.equal(answer_of(model(images)), plain)
        torch.manual_seed(0)
        assert torch.equal(answer_of(model(images)), plain)
        torch.manual_seed(0)
        with capture(model, lambda record: None, output="map"):
            rebuilt = answer_of(model(images))
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(rebuilt, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


def test_maps_weigh_the_values(family):
    """a @ v is what the layer goes on with: rows are distributions, and gradients reach them."""
    kind, model, images = family
    found = records(model, images)
    for record in found:
        torch.testing.assert_close(record.a.sum(-1), torch.ones(record.a.shape[:-1]), rtol=1e-4, atol=1e-4)
    if not kind.gradients:
        return
    maps = []
    with capture(model, maps.append, output="map"):
        logits = answer_of(model(images))
    gradients = torch.autograd.grad(logits[..., 0].sum(), [record.a for record in maps], allow_unused=True)
    heard = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
    assert sum(heard) >= len(maps) - (TEXT in kind.left_out)


def noted(model, images, **wanted):
    """The records of one forward, with the tokens that layers read, and what was noted of these."""
    found, inputs = [], LayerInputs(**wanted)
    with torch.no_grad(), capture(model, found.append, inputs=inputs):
        model(images)
    return found, inputs


def whole(records, images):
    """Those of the records whose maps are the image's as they are."""
    judgements = [(record, map_of_image(record, len(images), GivenLayout())) for record in records]
    return [record for record, one in judgements if isinstance(one, ImageMap) and one.plain]


UNTOLD = {"quantised"}  # its projections are no calls of torch.nn.functional.linear


def test_the_tokens_that_a_layer_reads_are_told(request, family):
    kind, model, images = family
    found = whole(noted(model, images)[0], images)
    if request.node.callspec.params["family"] in UNTOLD:
        assert all(record.tokens is None for record in found)
        return
    assert [record.tokens.shape[:2] for record in found] == [(2, record.a.shape[-1]) for record in found]
    for first, second in itertools.pairwise(record.tokens for record in found):
        assert kind.gaps or not torch.equal(first, second)  # layers side by side read the same


ROTARY = {"timm eva02, rotary", "timm dinov3"}  # q and k are turned after their projections
NO_NORM = {"nn.MultiheadAttention"}  # before the projections


def test_the_weights_give_the_rows_that_the_layer_attends_with(request, family):
    kind, model, images = family
    name = request.node.callspec.params["family"]
    if kind.about != PLAIN or name in UNTOLD:
        return
    records, inputs = noted(model, images, weights=True)
    for record in whole(records, images):
        weights = inputs.weights[record.layer]
        assert weights.w_v is not None
        assert weights.w_o.shape == weights.w_v.mT.shape
        assert (weights.w_q is None) == (weights.w_k is None) == (name in ROTARY)
        for w, rows in ((weights.w_q, record.q), (weights.w_v, record.v)):
            if w is None:
                continue
            x = record.tokens[0].double()
            if name not in NO_NORM:
                x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)
            got = x @ w.double().mT  # (H, N, D), without biases
            got, want = (y - y.mean(1, keepdim=True) for y in (got, rows[0].double()))
            assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.999


def test_a_head_is_silenced_and_speaks_again(family):
    _kind, model, images = family
    (record, *_) = whole(records(model, images), images) or [None]
    if record is None:
        return
    torch.manual_seed(0)
    with torch.no_grad():
        plain = answer_of(model(images))
        with without_head(model, record.layer, record.a.shape[1] - 1):
            torch.manual_seed(0)
            silent = answer_of(model(images))
        assert not torch.allclose(silent, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
        with without_head(model, 99, 0):
            torch.manual_seed(0)
            assert torch.equal(answer_of(model(images)), plain)
        torch.manual_seed(0)
        assert torch.equal(answer_of(model(images)), plain)


def test_a_silent_head_is_one_whose_output_has_no_weight():
    torch.manual_seed(0)
    model, images = torchvision_vit().eval(), torch.randn(2, 3, 32, 32)
    nn.init.normal_(model.heads.head.weight)
    with torch.no_grad(), without_head(model, 1, 0):
        silent = model(images)
    with torch.no_grad():
        model.encoder.layers[1].self_attention.out_proj.weight[:, :12] = 0
        torch.testing.assert_close(silent, model(images), rtol=1e-4, atol=1e-5)


def test_a_silent_head_of_attention_by_hand_is_one_without_values():
    torch.manual_seed(0)
    model, images = Cut(ByUnfold()).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        with without_head(model, 1, 0):
            silent = model(images)
        for parameter in (model.qkv[1].weight, model.qkv[1].bias):
            parameter.view(3, 2, 12, -1)[2, 0] = 0
        torch.testing.assert_close(silent, model(images), rtol=1e-4, atol=1e-5)


def test_rollout_is_of_an_unbroken_stack_or_refused(family):
    kind, model, images = family
    if not kind.layouts:
        with pytest.raises(InputError, match="no self-attention over whole images"):
            attribute_any(model, images)
    elif kind.gaps:
        with pytest.raises(InputError, match=kind.gaps):
            attribute_any(model, images)
    else:
        found = whole_maps(model, images)
        N = found.layout.tokens
        whole = torch.eye(N)
        for a in found.layers:
            whole = (a.mean(1) + torch.eye(N)) / 2 @ whole
        row = whole[:, 0] if found.layout.prefix else whole.mean(1)
        if kind.pooled:
            row = whole[:, found.layout.prefix :].mean(1)
        patches = found.layout.of_patches(row).unflatten(-1, (found.layout.frames, *found.layout.grid))
        got = attribute_any(model, images)
        got = got if got.ndim == 4 else got[:, None]
        rows, columns = found.layout.cells(images.shape[-2:])
        torch.testing.assert_close(got, patches[:, :, rows][..., columns], rtol=1e-4, atol=1e-6)


def attribute_any(model, images):
    with torch.no_grad():
        return attribute(model, images, method="rollout")


def test_analysis_measures_the_images_layers_and_draws_them(family):
    kind, model, images = family
    names = ["attention_entropy", "attention_distance"]
    if not kind.layouts:
        with pytest.raises(InputError, match="no self-attention over whole images"):
            analyze(model, images, indicators=names)
        return
    result = analyze(model, images, indicators=names, examples=2)
    layers = sum(kind.layouts.values())
    assert sorted(result.table["layer"].unique()) == list(range(layers))
    assert result.table["mean"].notna().all()
    shown = next(iter(result.examples.values()))
    assert shown.layout in kind.layouts
    assert shown.maps.shape[-1] == shown.layout.tokens
    count = sum(kind.left_out.values())
    said = f"{count} of {layers + count} attention calls are no maps of the image and are left out"
    assert any(said in line for line in result.meta["warnings"]) == bool(count)


def test_square_windows_are_measured_and_average_over_an_image():
    timm = pytest.importorskip("timm", reason="timm is optional")
    torch.manual_seed(0)
    model = timm.create_model("maxvit_rmlp_pico_rw_256", img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    result = analyze(model, images, indicators=["attention_entropy", "attention_distance"])
    assert (result.table["n"] == 2).all()
    assert result.meta["warnings"] == [
        "MaxxVit attends inside windows: its numbers speak of windows, not of the whole image"
    ]
    first, second = records(model, images)[:2]
    by_window = attention_entropy(first.a)  # (images * windows, heads)
    expected = by_window.view(2, -1, by_window.shape[-1]).mean((0, 1))
    entropy = result.table[result.table["indicator"] == "attention_entropy"]
    got = entropy[entropy["layer"] == 0].sort_values("head")["mean"].to_numpy()
    torch.testing.assert_close(torch.tensor(got), expected.double(), rtol=1e-5, atol=1e-6)
    distances = result.table[result.table["indicator"] == "attention_distance"]
    assert 1 not in set(distances["layer"])  # its windows are of patches that are far from each other
    spread = map_of_image(second, 2, GivenLayout())
    a = spread.map()[0, 0].unflatten(-1, (16, 16)).unflatten(0, (16, 16))
    assert bool((a[0, 0].nonzero() % 8 == 0).all())  # every eighth patch, each way


def test_windows_of_swin_are_stitched_to_the_image():
    torch.manual_seed(0)
    model, images = swin_of_torchvision().eval(), torch.randn(2, 3, 32, 32)
    plain, shifted = (one.map() for one in judged(model, images)[:2])  # (2, 1, 64, 64)
    same = torch.zeros(64, 64, dtype=torch.bool)
    for i in range(64):
        for j in range(64):
            same[i, j] = (i // 32, i % 8 // 4) == (j // 32, j % 8 // 4)
    assert bool(((plain > 0) == same).all())
    moved = shifted.view(2, 1, 8, 8, 8, 8).roll((-2, -2, -2, -2), (2, 3, 4, 5)).reshape(2, 1, 64, 64)
    assert bool((moved[..., ~same] == 0).all())
    torch.testing.assert_close(shifted.sum(-1), torch.ones(2, 1, 64))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"kdim": 10, "vdim": 6},
        {"batch_first": True},
    ],
)
def test_multihead_attention_in_all_its_forms(options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    shape = (2, 5) if options.get("batch_first") else (5, 2)
    x, key, value = (torch.randn(*shape, options.get(name, 12)) for name in ("x", "kdim", "vdim"))
    mask = torch.ones(5, 5).triu(1).bool()
    padding = torch.tensor([[False] * 4 + [True], [False] * 5])
    for masks in (
        {},
        {"attn_mask": mask},
        {"key_padding_mask": padding},
        {"attn_mask": mask, "key_padding_mask": padding},
    ):
        for weights in ({"need_weights": False}, {"average_attn_weights": True}, {"average_attn_weights": False}):
            plain = module(x, key, value, **masks, **weights)
            with capture(module, lambda record: None, output="map"):
                rebuilt = module(x, key, value, **masks, **weights)
            torch.testing.assert_close(rebuilt[0], plain[0], rtol=1e-4, atol=1e-5)
            assert (rebuilt[1] is None) == (plain[1] is None)
            if plain[1] is not None:
                torch.testing.assert_close(rebuilt[1], plain[1], rtol=1e-4, atol=1e-5)


def test_a_model_that_has_no_attention_says_what_was_looked_for():
    with pytest.raises(
        InputError, match="ResNet shows no attention: no softmax over tokens that weighs values was seen"
    ):
        records(torchvision.models.resnet18(), torch.randn(1, 3, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        scripted = torch.jit.trace(Own().eval(), torch.randn(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"torch\.jit made it, which hides its calls"):
        records(scripted, torch.randn(1, 3, 32, 32))


def test_nested_tensors_are_refused():
    class Ragged(nn.Module):
        def forward(self, x):
            t = torch.nested.nested_tensor([torch.randn(n, 2, 12) for n in (9, 16)], layout=torch.jagged).transpose(
                1, 2
            )
            return nn.functional.scaled_dot_product_attention(t, t, t)

    with pytest.raises(InputError, match="attention over nested tensors has no map of one shape: pad the images"):
        records(Ragged(), torch.randn(2, 3, 8, 8))


if __name__ == "__main__":
    print(family_table())  # what README says of the families


class TwoViews(nn.Module):
    """Sees each image and a view of it in one batch: its mirror image, or itself once more."""

    def __init__(self, view):
        super().__init__()
        self.view, self.embed = view, nn.Conv2d(3, 8, 8, 8)

    def forward(self, x):
        tokens = self.embed(torch.cat([x, self.view(x)])).flatten(2).transpose(1, 2)  # (2 B, N, C)
        q = tokens.unflatten(-1, (2, 4)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q, q).mean((1, 2))


@pytest.mark.parametrize("view", [lambda x: x.flip(-1), lambda x: x + 1])
def test_views_of_an_image_in_one_batch_are_said_to_be_views(view):
    torch.manual_seed(0)
    model, images = TwoViews(view).eval(), torch.randn(4, 3, 32, 32)
    found = analyze(model, images, examples=0, indicators=["attention_entropy"])
    (said,) = [line for line in found.warnings if "view" in line]
    assert said == "TwoViews sees several views of an image in one batch: its numbers are means over these"
    assert not any("windows" in line for line in found.warnings)
    (record,) = records(model, images)
    by_view = attention_entropy(record.a).unflatten(0, (2, 4)).mean((0, 1))  # over views and images
    means = found.table.sort_values("head")["mean"].to_numpy()
    torch.testing.assert_close(torch.tensor(means, dtype=torch.float32), by_view, rtol=0, atol=1e-6)
