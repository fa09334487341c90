"""Verification of a compression: paired statistics, counts and times, the sweep, the search, the command."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import urllib.error

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import nn
from torch.utils.data import Subset

from svda_analysis import cli, plots, verify
from svda_analysis.checkpoint import build_model, load, save
from svda_analysis.compression.ranking import rank
from svda_analysis.compression.removal import compress, kept_share, remove, removed_shares, to_budget
from svda_analysis.compression_report import compression_table, verification_table, write_compression
from svda_analysis.data import DATASETS, load_dataset
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.sources import open_source
from svda_analysis.specs import open_model
from svda_analysis.tap import records
from svda_analysis.verify import (
    accuracy_change,
    adjusted_wald,
    compress_and_verify,
    file_size,
    finetune,
    macs,
    map_divergence,
    mcnemar,
    over_runs,
    predictions,
    smallest,
    sweep,
    time_ratio,
)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_mcnemar_is_the_sum_of_binomial_terms(lost, won):
    n, k = lost + won, min(lost, won)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar(lost, won) == pytest.approx(1.0 if lost == won else min(1.0, 2 * tail))
    assert mcnemar(lost, won) == pytest.approx(mcnemar(won, lost))


def test_accuracy_change_by_hand():
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    before = torch.tensor([0, 1, 2, 3, 1, 1, 1, 1])  # 5 of 8
    after = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])  # 6 of 8; one lost, two won
    change = accuracy_change(before, after, labels)
    differences = np.array([0, 0, 0, -1, 1, 0, 1, 0])
    low, high = stats.t.interval(0.95, 7, differences.mean(), differences.std(ddof=1) / math.sqrt(8))
    assert (change.before, change.after, change.change, change.n) == (5 / 8, 6 / 8, 1 / 8, 8)
    assert (change.ci_low, change.ci_high) == pytest.approx((low, high))
    assert change.p == 1.0
    assert change.agreement == 4 / 8


def test_the_adjusted_interval_by_hand():
    """lost 2, won 5 of 98: 3 and 6 of 100, difference 0.03, variance (0.09 - 0.0009) / 100."""
    half = 1.959964 * math.sqrt(0.0891) / 10
    assert adjusted_wald(2, 5, 98) == pytest.approx((0.03 - half, 0.03 + half), abs=1e-7)
    low, high = adjusted_wald(0, 0, 50)
    assert -low == high == pytest.approx(1.959964 * math.sqrt(2) / 52)
    assert adjusted_wald(0, 0, 10_000)[0] == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("n", [50, 400])
@pytest.mark.parametrize(("lose", "win"), [(0.01, 0.005), (0.03, 0.03), (0.1, 0.04)])
def test_the_adjusted_interval_covers(n, lose, win):
    """95 of 100 intervals hold the true difference, few images and few flips or not."""
    drawn = np.random.default_rng(0).multinomial(n, [lose, win, 1 - lose - win], 4000)[:, :2]
    ends = np.array([adjusted_wald(lost, won, n) for lost, won in drawn.tolist()])
    covered = (ends[:, 0] <= win - lose) & (win - lose <= ends[:, 1])
    assert covered.mean() > 0.94


def small(**changes) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(depth=2, dim=24, heads=2, **changes)).eval()
    nn.init.normal_(model.head.weight)
    return model


def test_map_divergence_against_scipy():
    first, second, images = small(), small(attention="svda"), torch.randn(3, 1, 28, 28)
    expected = [
        jensenshannon(a.a.numpy(), b.a.numpy(), axis=-1, base=2) ** 2
        for a, b in zip(records(first, images), records(second, images), strict=True)
    ]
    assert map_divergence(first, second, images) == pytest.approx(np.mean(expected), rel=1e-4)
    assert map_divergence(first, first, images) == 0


def test_macs_of_a_vit_by_hand():
    N, C = 50, 24
    block = 3 * C * C * N + 2 * N * N * C + C * C * N + 2 * 4 * C * C * N
    whole = 49 * 16 * C + 2 * block + C * 10
    assert macs(small(), torch.randn(1, 1, 28, 28)) == whole


def test_time_ratio_sees_twice_the_work():
    one, images = small(), torch.randn(16, 1, 28, 28)
    twice = nn.Sequential(one, nn.Flatten(), nn.Linear(10, 10))
    twice.forward = lambda x: (one(x), one(x), one(x))[0]  # type: ignore[method-assign]
    found = time_ratio(one, twice, images, rounds=12)
    assert found["ci_low"] > 1.3
    assert found["ci_low"] < found["change"] < found["ci_high"]
    with pytest.raises(InputError, match="rounds must be at least 2"):
        time_ratio(one, one, images, rounds=1)


def test_file_size_falls_with_the_rows(tiny):
    origin = load(tiny["svda"])
    smaller = compress(origin, torch.randn(8, 1, 28, 28), energy=0.3)
    assert file_size(build_model(smaller)) < file_size(build_model(origin))


@pytest.fixture(scope="module")
def opened(tiny, fashion):
    subject = open_model(tiny["svda"])
    images = next(load_dataset("fashion_mnist", root=fashion, train=True).batches(24))[0]
    return subject, images, open_source(None, subject, fashion)


def test_sweep_rows(opened):
    subject, images, source = opened
    options = {"energies": (0.5, 1.0), "criteria": ("operator", "random"), "norm_logit": math.inf}
    curve = sweep(subject.model, images, source, test_images=40, budgets=(0.01, 0.5), **options)
    assert list(curve["criterion"]) == ["operator"] * 3 + ["random"] * 2
    assert list(curve["budget"].dropna()) == [0.5]  # 1 % is less than one direction a head
    assert curve["rows_removed"][0] >= 0.5
    one = to_budget(subject.model, rank(subject.model, images), 0.5, norm_logit=math.inf)[1]
    assert curve["rows_removed"][0] == pytest.approx(removed_shares(one)["rows_removed"])
    assert list(compression_table(curve[:1]).columns[:2]) == ["Budget", "Directions removed"]
    curve = curve[1:].reset_index(drop=True)
    kept = curve[curve["energy"] == 1.0]
    assert (kept["masked_change"].abs() < 1e-9).all()
    assert (kept["directions_removed"] == 0).all()
    half = curve[curve["energy"] == 0.5]
    assert (half["directions_removed"] > 0.1).all()
    assert half["directions_removed"].iloc[0] == half["directions_removed"].iloc[1]  # the control keeps as many
    assert (half["parameters_change"] < 0).all()
    assert (half["macs_change"] < 0).all()
    assert (curve["masked_low"] <= curve["masked_change"]).all()
    figure = plots.plot_compression({"svda": curve})
    lines = figure.axes[1].get_lines()
    np.testing.assert_allclose(sorted(lines[0].get_xdata()), sorted(100 * curve["rows_removed"][:2]))
    assert list(compression_table(curve)["Energy"]) == ["0.5", "1"] * 2
    control = curve["criterion"] == "random"
    figure = plots.plot_compression({"svda": curve.assign(removed_change=curve["removed_change"].mask(control, -0.5))})
    assert [text.get_text() for text in figure.axes[1].texts] == ["random: below, -50 at best"]
    with pytest.raises(InputError, match="budgets must lie in"):
        sweep(subject.model, images, source, budgets=(2.0,), energies=())
    with pytest.raises(InputError, match="no rows"):
        plots.plot_compression({"svda": curve[:0]})


def test_the_smallest_model_within_a_tolerance(opened, monkeypatch):
    """Of the models that the search tries it returns the one of fewest rows that passes; looser is smaller."""
    subject, images, source = opened
    found, kept = rank(subject.model, images), []
    guesses, labels = predictions(subject.model, source)
    right = guesses == labels
    for tolerance in (0.03, 0.06, 0.12):
        tried = []

        def remember(*given, tried=tried, **options):
            tried.append(remove(*given, **options))
            return tried[-1]

        with monkeypatch.context() as patch:
            patch.setattr(verify, "remove", remember)
            least, model, change = smallest(subject.model, found, source, tolerance=tolerance)
        assert len(tried) == 9  # steps + 1
        lows = []
        for one in tried:
            still = predictions(one, source)[0] == labels
            lows.append(adjusted_wald(int((right & ~still).sum()), int((~right & still).sum()), len(labels))[0])
        passing = [one for one, low in zip(tried, lows, strict=True) if low >= -tolerance]
        assert min(lows) < -tolerance  # some were too small
        assert kept_share(model) == min(map(kept_share, passing))
        assert change.ci_low == pytest.approx(lows[tried.index(model)])
        assert least > 0
        kept.append(kept_share(model))
    assert kept[0] > kept[1] > kept[2]
    with pytest.raises(InputError, match="tolerance must lie"):
        smallest(subject.model, found, source, tolerance=0.0)


def test_few_images_prove_no_tolerance(opened, fashion):
    """No image of 50 flips, and a point is still not excluded; with enough images the same model passes."""
    subject, images, _ = opened
    found = rank(subject.model, images)
    few, many = (open_source(Subset(load_dataset("fashion_mnist", root=fashion, train=True), range(n)), subject)
                 for n in (50, 300))  # fmt: skip
    with pytest.raises(InputError, match=r"tolerance 0.01 cannot be met.* on 50 images is in \[-0.05"):
        smallest(subject.model, found, few, tolerance=0.01, norm_logit=0)
    assert smallest(subject.model, found, many, tolerance=0.01, norm_logit=0)[2].n == 300


def test_finetuning_continues_from_the_weights(tiny, fashion):
    origin = load(tiny["svda"])
    smaller = compress(origin, torch.randn(8, 1, 28, 28), energy=0.5)
    teacher = build_model(origin)
    trained = finetune(smaller, teacher, 1, lr=0.0, data_root=fashion)
    assert trained.config == smaller.config
    assert trained.epoch == smaller.epoch + 1
    for name, value in smaller.model.items():
        torch.testing.assert_close(trained.model[name], value, atol=0, rtol=0)
    moved = finetune(smaller, teacher, 1, data_root=fashion)
    assert any(not torch.equal(moved.model[name], value) for name, value in smaller.model.items())
    with pytest.raises(InputError, match="finetune must be at least 1"):
        finetune(smaller, teacher, 0)


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compress", *map(str, arguments)])
    return stop.value.code


@pytest.mark.parametrize("kind", ["svda", "dot"])
def test_the_command_writes_a_smaller_checkpoint_and_a_report(kind, tiny, fashion, tmp_path, capsys):
    out, report = tmp_path / "small.pt", tmp_path / "report"
    common = ["--data-root", fashion, "--images", "40", "--report", report, "--out", out]
    assert run(tiny[kind], "--energy", "0.8", "--norm-logit", "inf", *common, "--finetune", "1") == 0
    assert load(out).config.score_dims is not None
    assert {path.name for path in report.iterdir()} == {f"compression.{e}" for e in ("csv", "md", "json", "pdf", "png")}
    content = json.loads((report / "compression.json").read_text())
    rows = pd.DataFrame(content["runs"][0]["verification"]).set_index("quantity")
    assert rows.loc["parameters", "change"] < 1
    assert rows.loc["macs", "change"] < 1
    assert rows.loc["bytes", "change"] < 1
    before, after = (rows[end].to_dict() for end in ("before", "after"))
    assert before["before_finetuning"] == before["accuracy"]
    assert before["finetuning"] == after["before_finetuning"]
    assert after["finetuning"] == after["accuracy"]
    source = open_source(None, open_model(tiny[kind]), fashion)  # all rows speak of the file that was written
    guesses = [predictions(build_model(load(path)), source, images=40) for path in (tiny[kind], out)]
    assert after["accuracy"] == float((guesses[1][0] == guesses[1][1]).double().mean())
    assert after["agreement"] == float((guesses[0][0] == guesses[1][0]).double().mean())
    batch = torch.cat([x for x, _ in source.batches(32, 128, 0)])
    models = [build_model(load(path)) for path in (tiny[kind], out)]
    assert after["map_divergence"] == pytest.approx(map_divergence(*models, batch))
    page = (report / "compression.md").read_text()
    assert "are gone, after 1 epoch of fine-tuning (criterion" in page
    assert ("### What keeps the norm (without fine-tuning)" in page) == (kind == "svda")
    assert '"norm_logit": "inf"' in (report / "compression.json").read_text()
    printed = capsys.readouterr().out
    assert "score directions gone" in printed
    assert str(out) in printed
    cli_again = tmp_path / "smaller.pt"  # a compressed checkpoint compresses again, and is analysed as any other
    assert run(out, "--no-sweep", "--data-root", fashion, "--images", "20", "--report", report, "--out", cli_again) == 0
    assert sum(map(sum, load(cli_again).config.score_dims)) <= sum(map(sum, load(out).config.score_dims))
    with pytest.raises(SystemExit) as stop:
        cli.main(["analyze", str(out), "--data-root", str(fashion), "--out", str(tmp_path / "a"), "--images", "20"])
    assert stop.value.code == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--energy", "0"], "energy must lie in (0, 1], got 0.0"),
        (["--energy", "1.5"], "energy must lie in (0, 1], got 1.5"),
        (["--norm-logit", "-1"], "norm_logit must be at least 0"),
        (["--budget", "2"], "budget must lie in (0, 1], got 2.0"),
        (["--tolerance", "0"], "tolerance must lie between"),
        (["--criterion", "best"], "criterion"),
        (["--energy", "0.5", "--min-logit", "1"], "exclude each other"),
        (["--images", "0"], "--images must be at least 1, got 0"),
        (["--sweep-images", "0"], "--sweep-images must be at least 1, got 0"),
        (["--images", "-9000"], "--images must be at least 1, got -9000"),
        (["--finetune", "-1"], "finetune must be at least 1 epoch, got -1"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(options, complaint, tiny, fashion, tmp_path, capsys):
    out, report = tmp_path / "small.pt", tmp_path / "report"
    code = run(tiny["svda"], "--data-root", fashion, "--out", out, "--report", report, "--images", "20", *options)
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert complaint in errors[-1]
    assert not out.exists()
    assert not report.exists()


def test_the_checkpoint_itself_is_never_overwritten(tiny, fashion, capsys):
    assert run(tiny["svda"], "--data-root", fashion, "--out", tiny["svda"]) == 2
    assert "--out must not be the checkpoint itself" in capsys.readouterr().err


def test_nor_another_of_the_checkpoints(tiny, fashion, tmp_path, capsys):
    """Two checkpoints, and what compressing the first would be named is the second."""
    first, second = tmp_path / "vit.pt", tmp_path / "vit_b40.pt"
    for path in (first, second):
        path.write_bytes(tiny["dot"].read_bytes())
    before = second.read_bytes()
    common = ["--budget", "0.4", "--no-sweep", "--data-root", fashion, "--images", "20", "--report", tmp_path / "r"]
    assert run(first, second, *common) == 2
    assert "--out must not be the checkpoint itself, nor another" in capsys.readouterr().err
    assert run(first, second, "--out", tmp_path / "." / ".." / tmp_path.name, *common) == 2
    assert second.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit.pt", "vit_b40.pt"]


def test_one_checkpoint_goes_into_a_folder_that_is_there(tiny, fashion, tmp_path):
    common = ["--budget", "0.4", "--no-sweep", "--data-root", fashion, "--images", "20", "--report", tmp_path / "r"]
    (tmp_path / "small").mkdir()
    assert run(tiny["dot"], "--out", tmp_path / "small", *common) == 0
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["dot_s0_b40.pt"]


def test_a_report_without_a_sweep_takes_the_figure_of_an_earlier_one_away(tiny, fashion, tmp_path):
    done = compress_and_verify(tiny["dot"], energy=0.5, data_root=fashion, test_images=20, sweep_images=0)
    for name in ("compression.csv", "compression.pdf", "compression.png", "other.csv"):
        (tmp_path / name).write_text("of an earlier run")
    write_compression([done], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"compression.md", "compression.json", "other.csv"}


def test_json_of_a_report_is_json(tiny, fashion, tmp_path):
    options = {"data_root": fashion, "test_images": 20, "sweep_images": 0}
    done = compress_and_verify(tiny["svda"], energy=0.5, norm_logit=math.inf, **options)
    write_compression([dataclasses.replace(done, meta={**done.meta, "nothing": [math.nan]})], tmp_path)

    def refuse(word):
        pytest.fail(f"{word} is not JSON")

    content = json.loads((tmp_path / "compression.json").read_text(), parse_constant=refuse)
    assert content["runs"][0]["norm_logit"] == "inf"
    assert content["runs"][0]["nothing"] == ["nan"]


def test_the_page_says_what_a_tolerance_led_to(tiny, fashion, tmp_path):
    options = {"data_root": fashion, "test_images": 20, "sweep_images": 0, "rank_images": 40, "held_out": 200}
    done = compress_and_verify(tiny["svda"], tolerance=0.1, **options)
    page = write_compression([done], tmp_path)[0].read_text()
    held = done.meta["held_out"]
    assert held["n"] == 200
    interval = f"[{100 * held['ci_low']:+.2f}, {100 * held['ci_high']:+.2f}]"
    assert "a tolerance of 10 points led to the threshold" in page
    assert f"on 200 held-out training images accuracy changes by {100 * held['change']:+.2f} points" in page
    assert interval in page
    assert "fine-tuning (criterion" not in page


def test_finetuning_on_what_only_the_sample_stands_for_is_refused_first(tiny, monkeypatch, tmp_path):
    """The evaluation falls back to the bundled sample; training does not, and says so before the work."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("SVDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, spec in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(spec, usual_folders=()))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    monkeypatch.setattr(verify, "rank", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(InputError, match=r"FashionMNIST failed .* or pass --data-root"):
        compress_and_verify(tiny["svda"], epochs=1)
    with pytest.raises(pytest.fail.Exception, match="it began"):
        compress_and_verify(tiny["svda"], rank_images=10, held_out=10)


def test_test_images_are_at_least_one(tiny, fashion):
    with pytest.raises(InputError, match="test_images must be at least 1, got 0"):
        compress_and_verify(tiny["svda"], data_root=fashion, test_images=0)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "svda_analysis.cli",
            "compress",
            "timm:vit_tiny_patch16_224",
            "--report",
            tmp_path / "r",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_numbers_of_the_table_read_well(tiny, fashion):
    done = compress_and_verify(tiny["dot"], energy=0.5, data_root=fashion, test_images=20, sweep_images=0)
    shown = verification_table([done]).set_index("Quantity")
    assert shown.loc["parameters", "Change"].startswith("x 0.")
    assert shown.loc["accuracy", "Before"].endswith("%")
    assert done.curve.empty


def test_runs_are_pooled_by_the_t_interval_of_their_changes():
    changes, ratios = np.array([0.01, -0.02, 0.03]), np.array([0.5, 0.6, 0.9])
    frames = [
        pd.DataFrame(
            {
                "quantity": ["accuracy", "macs"],
                "source": pd.array([None, None], dtype="string"),
                "before": [0.9, 100.0],
                "after": [0.9 + change, 100 * ratio],
                "change": [change, ratio],
                "ci_low": math.nan,
                "ci_high": math.nan,
                "p": math.nan,
                "n": pd.array([100, None], dtype="Int64"),
            }
        )
        for change, ratio in zip(changes, ratios, strict=True)
    ]
    pooled = over_runs(frames, ["quantity", "source"]).set_index("quantity")
    low, high = stats.t.interval(0.95, 2, changes.mean(), stats.sem(changes))
    found = pooled.loc["accuracy", ["change", "ci_low", "ci_high", "p"]].to_list()
    assert found == pytest.approx([changes.mean(), low, high, stats.ttest_1samp(changes, 0).pvalue])
    logs = np.log(ratios)
    low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    found = pooled.loc["macs", ["change", "ci_low", "ci_high"]].to_list()
    assert found == pytest.approx([stats.gmean(ratios), low, high])
    assert list(pooled["n"]) == [3, 3]
    assert over_runs(frames[:1], ["quantity", "source"]) is frames[0]


def test_equal_changes_show_no_spread_whatever_their_rounding():
    changes = (-0.006, 0.294 - 0.3, 0.694 - 0.7)
    assert len(set(changes)) > 1  # they differ in their last digits
    known = {"quantity": "accuracy", "source": "", "before": 0.7, "ci_low": -0.1, "ci_high": 0.1, "p": 0.5, "n": 9}
    frames = [pd.DataFrame([{**known, "after": 0.7 + x, "change": x}]).astype({"n": "Int64"}) for x in changes]
    row = over_runs(frames, ["quantity", "source"]).iloc[0]
    assert row["change"] == pytest.approx(-0.006)
    assert math.isnan(row["ci_low"])
    assert math.isnan(row["p"])


def test_several_checkpoints_share_a_report(tiny, fashion, tmp_path, capsys):
    again = tmp_path / "svda_s1.pt"  # the same model with another seed: another run of it
    origin = load(tiny["svda"])
    weights = {name: value * 1.01 for name, value in origin.model.items()}
    save(dataclasses.replace(origin, model=weights, recipe={**origin.recipe, "seed": 1}), again)
    common = ["--data-root", fashion, "--images", "40", "--report", tmp_path / "r", "--out", tmp_path / "small"]
    assert run(tiny["svda"], again, tiny["dot"], "--budget", "0.4", "--no-sweep", *common) == 0
    assert len(list((tmp_path / "small").glob("*_b40.pt"))) == 3
    content = json.loads((tmp_path / "r" / "compression.json").read_text())
    assert [one["rows_removed"] >= 0.6 for one in content["runs"]] == [True] * 3
    page = (tmp_path / "r" / "compression.md").read_text()
    assert "mean of 2 training runs" in page
    assert page.count("### What keeps the norm") == 1
    printed = capsys.readouterr().out
    assert "svda: " in printed
    assert "dot_s0: " in printed or "dot: " in printed


def test_the_means_for_the_norm_are_told_apart(tiny, fashion):
    done = compress_and_verify(tiny["svda"], energy=0.5, data_root=fashion, test_images=20, sweep_images=0)
    removed = done.norms.set_index("kept")["rows_removed"]
    assert list(removed.index) == ["all rows (masked)", "norm rows and constant", "norm rows", "constant", "neither"]
    assert removed["all rows (masked)"] == 0
    assert removed["neither"] == removed["constant"] == pytest.approx(done.meta["directions_removed"])
    assert removed["norm rows and constant"] == pytest.approx(done.meta["rows_removed"])
