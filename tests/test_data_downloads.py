"""Downloads that appear once they are whole."""

from pathlib import Path

import pytest

from svda_analysis.data.downloads import fetch

FILES = [("https://here/a", "a.gz", "1" * 32), ("https://here/b", "b.gz", "2" * 32)]


def test_files_are_fetched_with_their_checksums_and_stand_in_the_folder(tmp_path, monkeypatch):
    asked = []

    def download(url, root, filename, md5):
        asked.append((url, filename, md5))
        assert not (tmp_path / "new" / "a.gz").exists()  # nothing is there before all of it is
        (Path(root) / filename).write_text(url)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b.gz").write_text("of an earlier time")
    fetch(tmp_path / "new", FILES)
    assert asked == FILES
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == {
        "a.gz": "https://here/a",
        "b.gz": "https://here/b",
    }


def test_a_download_that_breaks_off_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    def download(url, root, filename, md5):
        (Path(root) / filename).write_text("half")
        if filename == "b.gz":
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    (tmp_path / "b.gz").write_text("mine")
    with pytest.raises(RuntimeError, match="corrupted"):
        fetch(tmp_path, FILES)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b.gz": "mine"}
