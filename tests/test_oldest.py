"""The lowest versions that are promised: each is named, none is above what the results were made with."""

import tomllib

from making import REPOSITORY
from oldest import PYPROJECT, lowest
from packaging.version import Version

# below these a file of weights can run code, an image too, or a frame cannot be written as LaTeX
SAFE = {"torch": "2.10", "pillow": "10.3", "jinja2": "3.1.2"}


def test_every_dependency_has_a_lowest_version_that_is_safe_and_not_above_the_pinned_one():
    found = dict(line.split("==") for line in lowest(tomllib.loads(PYPROJECT.read_text())["project"]))
    assert all(Version(found[name]) >= Version(safe) for name, safe in SAFE.items())
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line]
    pinned = {name.lower().replace("-", "_"): text for name, text in (line.split("==") for line in lines)}
    assert {name for name in found if name in pinned} >= {"torch", "torchvision", "numpy", "pandas", "pillow"}
    assert not [name for name in found if name in pinned and Version(found[name]) > Version(pinned[name])]
