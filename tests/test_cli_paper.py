"""``svda paper``: its options, and what it says."""

from __future__ import annotations

import pytest

from svda_analysis.cli import main


def test_from_takes_no_option_of_training(manifest, tmp_path, capsys):
    for more in (["--jobs", "2"], ["--checkpoints", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["paper", str(manifest), "--from", str(tmp_path), "--out", str(tmp_path / "out"), *more])
        assert stopped.value.code == 2
        assert "--from trains nothing" in capsys.readouterr().err
