"""``svda explain``: figures of attributions by one model and by several, their arrays, and what it refuses."""

import json

import numpy as np
import pytest

from svda_analysis.cli import main
from svda_analysis.cli.explain import split_words
from svda_analysis.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")  # of Pillow


def explain(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *map(str, arguments)])
    return stopped.value.code


def test_models_stand_side_by_side_and_their_arrays_beside_the_figure(tiny, pictures, tmp_path, capsys):
    out, methods = tmp_path / "out", ("--methods", "rollout,saliency")
    assert explain(tiny["dot"], tiny["svda"], pictures, *methods, "--out", out) == 0
    assert capsys.readouterr().out == f"figure: {out / 'explanations.png'}\n"
    assert {path.name for path in out.iterdir()} == {"explanations.pdf", "explanations.png", "explanations.npz"}
    with np.load(out / "explanations.npz") as arrays:
        assert arrays["svda_s0/rollout"].shape == arrays["dot_s0/saliency"].shape == (3, 28, 28)
        assert ((arrays["svda_s0/probabilities"] > 0) & (arrays["svda_s0/probabilities"] <= 1)).all()


def test_explanations_are_written_over_with_force_alone(tiny, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("explanations-1.png", "explanations-1.pdf", "explanations of mine.png"):
        (out / name).touch()
    arguments = [tiny["svda"], pictures, "--methods", "rollout", "--out", out]
    assert explain(*arguments) == 2
    assert "holds explanations-1.p" in capsys.readouterr().err
    assert explain(*arguments, "--force") == 0
    assert {path.name for path in out.iterdir()} == {
        *("explanations.pdf", "explanations.png", "explanations.npz"),
        "explanations of mine.png",  # no page of an earlier call, which go
    }


def test_what_it_refuses_is_one_line(tiny, pictures, tmp_path, capsys):
    start = [tiny["svda"], pictures, "--out", tmp_path / "out"]
    for extra, complaint in (
        (["--methods", "rollot"], "--methods must be among rollout"),
        (["--target", "10"], "target must lie in 0..9"),
        (["--target=--5"], "target must be a class of svda_s0"),
        (["--target", "9" * 23], "target must be a class of svda_s0"),
        (["--target", "Sandle"], "target must be a class of svda_s0, like Sandal"),
        (["--out", pictures / "a.png"], "cannot be written"),
    ):
        assert explain(*start, *extra) == 2
        assert complaint in capsys.readouterr().err
    assert explain(tiny["svda"]) == 2
    assert "needs MODEL... and then IMAGE..." in capsys.readouterr().err


def test_words_are_models_until_the_first_image(tmp_path):
    weights, image = tmp_path / "a.pt", tmp_path / "b.png"
    weights.touch()
    image.touch()
    words = [str(tmp_path), str(weights), "timm:vit_tiny", "gone.pt", str(image), str(tmp_path)]
    assert split_words(words) == (words[:4], words[4:])
    with pytest.raises(InputError, match="got no image after"):
        split_words(words[:2])


def test_files_that_are_not_read_are_said(tiny, pictures, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures / "a.png").read_bytes())
    for name in ("b.heic", "c.svg"):
        (folder / name).write_bytes(b"x")
    out = str(tmp_path / "out")
    assert explain(tiny["svda"], folder, "--methods", "cls_attention", "--out", out) == 0
    said = f"warning: left out of {folder}, as no images that are read: 1 .heic, 1 .svg"
    assert capsys.readouterr().err.splitlines() == [said]


def test_predictions_are_told_to_a_program(tiny, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = [tiny["dot"], tiny["svda"], pictures, "--methods", "rollout", "--out", out]
    assert explain(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"] == [str(out / "explanations.png")]
    said = found["predictions"]
    assert [one["model"] for one in said] == 3 * ["dot_s0"] + 3 * ["svda_s0"]
    with np.load(out / "explanations.npz") as arrays:
        assert [one["class"] for one in said[:3]] == arrays["dot_s0/predictions"].tolist()
        assert [one["probability"] for one in said[3:]] == pytest.approx(arrays["svda_s0/probabilities"].tolist())
        assert [one["file"] for one in said[:3]] == arrays["files"].tolist()


@pytest.mark.parametrize("before", [None, "mine.txt"])
def test_a_broken_image_on_a_later_page_leaves_nothing(before, tiny, pictures, tmp_path, capsys):
    images = [pictures / "a.png"] * 9 + [tmp_path / "broken.png"]
    images[-1].write_bytes(images[0].read_bytes()[:60])
    out = tmp_path / "out"
    if before:
        out.mkdir()
        (out / before).touch()
    kept = {path.name for path in tmp_path.rglob("*")}
    assert explain(tiny["svda"], *images, "--methods", "cls_attention", "--out", out) == 2
    assert "broken.png" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} == kept
    assert explain(tiny["svda"], *images[:9], "--methods", "cls_attention", "--out", out) == 0
    assert (out / "explanations-2.png").exists()


def test_a_folder_that_is_named_as_a_figure_is_kept(tiny, pictures, tmp_path, capsys):
    (tmp_path / "out" / "explanations.png").mkdir(parents=True)
    assert explain(tiny["svda"], pictures, "--methods", "cls_attention", "--out", tmp_path / "out", "--force") == 2
    assert "explanations.png is a folder in it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explanations.png"]
