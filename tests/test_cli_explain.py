"""``svda explain``: figures of attributions, and what it refuses."""

import pytest

from svda_analysis.cli import main


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")  # of Pillow, in the fixture
def test_explain_writes_one_row_an_image(tiny, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("explanations-1.png", "explanations-1.pdf", "explanations of mine.png"):
        (out / name).touch()
    arguments = ["explain", str(tiny["svda"]), str(pictures), "--methods", "rollout,saliency", "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "explanations.png" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        *("explanations.pdf", "explanations.png"),
        "explanations of mine.png",  # no page of an earlier call, which go
    }
    for extra, complaint in (
        (["--methods", "rollot"], "--methods must be among rollout"),
        (["--target", "10"], "target"),
        (["--out", str(pictures / "a.png")], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *extra])
        assert stopped.value.code == 2
        assert complaint in capsys.readouterr().err


def test_files_that_are_not_read_are_said(tiny, pictures, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures / "a.png").read_bytes())
    for name in ("b.heic", "c.svg"):
        (folder / name).write_bytes(b"x")
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        main(["explain", str(tiny["svda"]), str(folder), "--methods", "cls_attention", "--out", out])
    assert stopped.value.code == 0
    said = f"warning: left out of {folder}, as no images that are read: 1 .heic, 1 .svg"
    assert capsys.readouterr().err.splitlines() == [said]
