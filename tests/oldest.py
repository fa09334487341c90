"""``python tests/oldest.py``: the lowest versions that pyproject.toml allows, as constraints of pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_CHECKERS = ("ruff", "mypy", "pandas-stubs")  # no test needs them


def lowest(project: dict[str, object]) -> list[str]:
    """``name>=1.2`` of the dependencies and the extras as ``name==1.2``, sorted."""
    extras = project["optional-dependencies"]
    given = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    bounds = {re.split(r"[<>=~]", one)[0]: one for one in given if not one.startswith(_CHECKERS)}
    if unbound := sorted(name for name, one in bounds.items() if ">=" not in one):
        raise SystemExit(f"without a lowest version: {', '.join(unbound)}")
    return sorted(one.replace(">=", "==") for one in bounds.values())


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])))
