"""One registration each at run time, found in the table, the figures, the report, the help and the comparison."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import pytest
import torch
from compression_cases import a_run
from PIL import Image
from torch import Tensor, nn

import svda_analysis as sa
from svda_analysis.attention import Rule, dot_product_attention, unit_rows
from svda_analysis.checkpoint import Checkpoint, save
from svda_analysis.cli import main
from svda_analysis.compression import Compressions, terminal_compression, write_compression
from svda_analysis.data import DATASETS, load_dataset, register_dataset
from svda_analysis.document import Picture, Section
from svda_analysis.figures.registry import FIGURES, figure, pictures
from svda_analysis.indicators import INDICATORS, indicator
from svda_analysis.kinds import ATTENTIONS, AttentionKind, register_attention
from svda_analysis.metrics import METRICS, metric
from svda_analysis.render.terminal import print_document
from svda_analysis.sections import SECTIONS, section
from svda_analysis.study.report import read_study, write_study
from svda_analysis.vocabulary import QUANTITIES

IMAGES = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def registries_as_before():
    """What a test registers is gone after it."""
    registries = (INDICATORS, METRICS, QUANTITIES, FIGURES, SECTIONS, ATTENTIONS, DATASETS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def a_model(kind: str = "dot"):
    torch.manual_seed(0)
    model = sa.ViT(sa.ViTConfig(attention=kind, dim=16, depth=2, heads=2, patch_size=7)).eval()
    nn.init.normal_(model.head.weight)
    return model


def two_models(**options):
    """A baseline and a studied model, measured."""
    named = [sa.open_model(a_model(kind), name=name) for name, kind in (("vit", "dot"), ("svda", "svda"))]
    return sa.analyze_runs(named, IMAGES, names=["vit", "svda"], examples=0, **options)


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0
    return capsys.readouterr().out


def report_of(analysis, folder) -> str:
    written = sa.write_report(analysis, folder)
    assert {"summary.md", "report.html"} <= {path.name for path in written}
    return (folder / "summary.md").read_text() + (folder / "report.html").read_text()


def test_an_indicator(tmp_path, capsys):
    @indicator(
        label="Brightest key",
        sources=("attention",),
        low=0.0,
        high=1.0,
        higher_means="one key has more",
        reference="made up here",
        direction={"attention": +1},
    )
    def brightest_key(a: Tensor) -> Tensor:
        return a.amax(-1).mean(-1)

    analysis = two_models(indicators=["brightest_key", "attention_entropy"])
    rows = analysis.table[analysis.table["indicator"] == "brightest_key"]
    assert len(rows) == 2 * 2 * 2  # models, layers, heads
    assert rows["mean"].between(0, 1).all()
    assert "brightest_key" in set(analysis.comparison["indicator"])
    text = report_of(analysis, tmp_path / "out")
    assert "Brightest key (attention): " in text  # a sentence, by its direction
    assert "| attention | Brightest key |" in text
    axes = sa.plots.plot_all_by_layer(analysis.table).axes
    assert "Brightest key" in {ax.get_title() for ax in axes}
    assert "Brightest key. Higher: one key has more. Reference: made up here." in printed(capsys, "indicators")


def test_a_metric(tmp_path, capsys):
    @metric(name="map_peak", label="Peak of the map", low=0.0, higher_means="a sharper map", direction={"*": +1})
    def peak(trial) -> Tensor:
        return trial.maps.flatten(1).amax(1)

    analysis = two_models(indicators=["attention_entropy"], faithfulness=4)
    rows = analysis.table[analysis.table["indicator"] == "map_peak"]
    assert set(rows["source"]) == {"random", "brightness", "centre", "rollout", "relevance", "cls_attention"}
    compared = analysis.comparison[analysis.comparison["indicator"] == "map_peak"]
    assert set(compared["source"]) == set(rows["source"])
    text = report_of(analysis, tmp_path / "out")
    assert "Peak of the map (rollout): " in text
    (drawn,) = (one for one in pictures(analysis) if one.name == "faithfulness_metrics")
    assert "Peak of the map" in [ax.get_title() for ax in drawn.draw().axes]
    assert "| rollout | Peak of the map |" in text
    assert "map_peak  (0 to infinity)\n    Peak of the map. Higher: a sharper map." in printed(capsys, "indicators")


def test_a_figure(tmp_path):
    @figure("seeds", where=("analysis",))
    def seeds(analysis):
        def draw():
            drawn, ax = plt.subplots(figsize=(1, 1))
            ax.set_title(", ".join(analysis.models))
            return drawn

        yield Picture(name="who_is_here", draw=draw, caption="Who is here")

    text = report_of(two_models(indicators=["attention_entropy"]), tmp_path / "out")
    assert "![Who is here](figures/who_is_here.png)" in text
    assert {path.suffix for path in (tmp_path / "out/figures").glob("who_is_here.*")} == {".pdf", ".png"}


def test_a_section(tmp_path, capsys):
    @section("weather", where=("analysis", "terminal"))
    def weather(analysis):
        return Section(name="weather", title="The weather", blocks=(f"Fine for {len(analysis.models)} models.",))

    analysis = two_models(indicators=["attention_entropy"])
    text = report_of(analysis, tmp_path / "out")
    assert "## The weather\n\nFine for 2 models." in text
    assert "Fine for 2 models.</p>" in text


def test_a_section_and_a_figure_of_a_compression(tmp_path, capsys):
    @section("weather", where=("compression", "compression terminal"))
    def weather(compressions):
        return Section(name="weather", title="The weather", blocks=(f"Fine for {len(compressions.runs)} runs.",))

    @figure("sizes", where=("compression",))
    def sizes(compressions):
        yield Picture(name="sizes", draw=lambda: plt.figure(figsize=(1, 1)), caption=" ".join(compressions.by_model))

    runs = [a_run(), a_run("vit", swept=False)]
    pages = {path.name: path for path in write_compression(runs, tmp_path)}
    assert {"sizes.pdf", "sizes.png"} <= pages.keys()
    for name in ("compression.md", "compression.html"):
        text = pages[name].read_text()
        assert "The weather" in text
        assert "Fine for 2 runs." in text
        assert "svda vit" in text
    assert "sizes.png" in pages["compression.md"].read_text()
    print_document(terminal_compression(Compressions(tuple(runs))))
    assert "Fine for 2 runs." in capsys.readouterr().out


def test_a_section_of_a_study(whole_study, tmp_path, monkeypatch):
    monkeypatch.setattr("svda_analysis.figures.registry.pictures", lambda *_, **__: [])  # they take most of the time

    @section("weather", where=("study",))
    def weather(study):
        return Section(name="weather", title="The weather", blocks=(f"Fine on {len(study.datasets)} data sets.",))

    study, meta = read_study(whole_study.out)
    pages = {
        path.name: path.read_text() for path in write_study(study, tmp_path, meta) if path.suffix in (".md", ".html")
    }
    for name in ("README.md", "report.html"):
        assert "The weather" in pages[name]
        assert "Fine on 2 data sets." in pages[name]


def test_a_figure_of_explanations(tmp_path):
    @figure("means", where=("explanations",))
    def means(page):
        yield Picture(name="means", draw=lambda: plt.figure(figsize=(1, 1)), caption=", ".join(page.labels))

    model, image = tmp_path / "dot_s0.pt", tmp_path / "shoe.png"
    vit = a_model()
    config = sa.TrainConfig(dataset="sample")
    about = {"recipe": dataclasses.asdict(config), "data": {"name": "sample", "mean": [0.3], "std": [0.3]}}
    save(Checkpoint(config=vit.config, model=vit.state_dict(), epoch=1, **about), model)
    Image.new("L", (28, 28), 100).save(image)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "means-2.png").write_text("of an earlier call")
    with pytest.raises(SystemExit) as stopped:
        main(["explain", str(model), str(image), "--methods", "rollout", "--out", str(tmp_path / "out"), "--force"])
    assert stopped.value.code == 0
    made = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = {f"{name}.{kind}" for name in ("explanations", "means") for kind in ("pdf", "png")}
    assert made == drawn | {"explanations.npz"}


def test_a_data_set(tmp_path, capsys):
    spec = dataclasses.replace(DATASETS["sample"], name="my_shoes", title="My shoes", classes=("shoe",) * 10)
    register_dataset(spec)
    assert load_dataset("my_shoes").name == "my_shoes"
    for command in ("analyze", "train"):
        assert "my_shoes" in printed(capsys, command, "--help")
    torch.manual_seed(0)
    analysis = sa.analyze(a_model(), "my_shoes", images=20, indicators=["attention_entropy"], examples=1)
    assert set(analysis.table["dataset"]) == {"my_shoes"}
    assert "My shoes test, 1 000 images" in report_of(analysis, tmp_path / "out")
    recipe = sa.TrainConfig(dataset="my_shoes", epochs=1, train_images=64, probe_images=4, monitor_images=8)
    config = sa.ViTConfig(depth=1, dim=8, heads=2, patch_size=7)
    assert sa.train(config, recipe, tmp_path / "shoes_s0.pt").data["name"] == "my_shoes"


def test_an_attention_kind(tmp_path, capsys):
    def attend(layer, q, k, v, dropout_p):
        return dot_product_attention(q * 4, unit_rows(k), v, dropout_p=dropout_p)

    register_attention(
        AttentionKind(name="keys", model="keys", role="studied", layer=Rule(attend=attend), about="unit keys alone")
    )
    assert "keys" in printed(capsys, "train", "--help")
    arguments = ["--dataset", "sample", "--attention", "keys", "--epochs", "1", "--set", "depth=1", "--set", "dim=8"]
    arguments += [
        "--set",
        "heads=2",
        "--set",
        "train_images=64",
        "--set",
        "probe_images=4",
        "--set",
        "monitor_images=8",
    ]
    path = str(tmp_path / "keys_s0.pt")
    assert "checkpoint" in printed(capsys, "train", *arguments, "--out", path)
    vit = sa.open_model(a_model(), name="vit")
    analysis = sa.analyze_runs([path, vit], "sample", images=20, indicators=["attention_entropy"], examples=0)
    assert set(analysis.table["attention"]) == {"keys", "dot"}
    assert set(analysis.comparison["model"]) == {"keys"}
    assert "keys against vit" in report_of(analysis, tmp_path / "out")
    assert sa.open_model("keys:fashion_mnist").attention == "keys"
