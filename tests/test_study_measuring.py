"""Every run of a study measured once, and what its report keeps of that."""

import numpy as np
import pytest

from svda_analysis.faithful import faithfulness
from svda_analysis.results import Analysis
from svda_analysis.study.costs import TIMED
from svda_analysis.study.manifest import load_manifest
from svda_analysis.study.measuring import measure_dataset
from svda_analysis.study.result import NOT_AT_HAND
from svda_analysis.study.runs import find_checkpoints

pytestmark = pytest.mark.usefixtures("bare_machine")


def test_runs_of_a_data_set_stand_under_their_models_with_their_own_accuracy(manifest, tiny, fashion, tmp_path):
    study, (trained, _) = load_manifest(manifest), find_checkpoints(tiny["dot"].parent)
    found = measure_dataset(study, "fashion_mnist", trained, tmp_path, root=fashion)
    assert (found.title, found.baseline) == ("FashionMNIST", "dot")
    assert set(found.trained) == {"dot", "svda"}
    assert found.source.startswith("FashionMNIST test, 120 images from ")
    for run in trained:
        history = run.subject.history
        last = history[(history["indicator"] == "accuracy") & (history["source"] == "test")]["mean"].iloc[-1]
        rows = found.table[(found.table["model"] == run.name) & (found.table["indicator"] == "accuracy")]
        assert rows["mean"].tolist() == [last]  # over all test images, not the twenty that were measured
    assert [(run.path, run.seconds) for run in found.analysis.runs] == [
        (f"{tiny[run.name].parent.name}/{run.name}_s0.pt", 0.0)
        for run in trained  # nothing of this machine and hour
    ]
    assert "directions_90" in set(found.table["indicator"])
    assert not set(TIMED) & set(found.history["indicator"])
    assert all(np.isfinite(found.sizes[run.name].seconds) for run in trained)
    heads = found.history[found.history["layer"].notna()]["mean"]
    assert [float(f"{x:.6g}") for x in heads] == heads.tolist()


def test_faithfulness_is_measured_where_the_manifest_asks(manifest, tiny, fashion, tmp_path):
    text = manifest.read_text().replace("[analysis]", "[analysis]\nfaithfulness = 4\nmetrics = ['source']")
    (tmp_path / "m.toml").write_text(text)
    study, (trained, _) = load_manifest(tmp_path / "m.toml"), find_checkpoints(tiny["dot"].parent)
    found = measure_dataset(study, "fashion_mnist", trained, tmp_path / "cache", root=fashion).table
    rows = found[found["indicator"] == "source_deletion_30"].set_index(["model", "source"])["mean"]
    alone = faithfulness(tiny["svda"], "fashion_mnist", images=4, metrics=["source"], data_root=fashion)
    expected = alone[alone["indicator"] == "source_deletion_30"].set_index("source")["mean"]
    assert set(expected.index) == {"cls_attention", "random"}
    for source, value in expected.items():
        assert rows["svda", source] == pytest.approx(value, abs=1e-6)


def test_without_checkpoints_or_images_it_says_why_there_is_nothing(manifest, tiny, fashion, tmp_path):
    study, (trained, _) = load_manifest(manifest), find_checkpoints(tiny["dot"].parent)
    for runs, root, why in (([], fashion, "no checkpoint"), ([], None, NOT_AT_HAND), (trained, None, NOT_AT_HAND)):
        found = measure_dataset(study, "fashion_mnist", runs, tmp_path, root=root)
        assert why in found.missing
        assert isinstance(found.analysis, Analysis)
        assert found.table.empty
        assert found.sizes
    assert list(tmp_path.glob("*/meta.json")) == []
