"""Downloads: torchvision's, with its progress bar and checksums."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def fetch(folder: Path, files: Sequence[tuple[str, str, str]]) -> None:
    """Fetch ``(url, file name, md5)`` into a folder; they appear there once all are whole."""
    from torchvision.datasets import utils

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        names = [filename for _, filename, _ in files]
        for url, filename, md5 in files:
            utils.download_url(url, unfinished, filename, md5)
        for filename in names:
            os.replace(Path(unfinished) / filename, folder / filename)
