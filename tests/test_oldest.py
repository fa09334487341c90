"""The lowest versions that are promised: each is named, none is above what the results were made with; and when they
are tested, as ``.ci/changed`` finds it."""

import os
import shutil
import subprocess
import tomllib

import pytest
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


@pytest.fixture
def clone(tmp_path):
    """A repository that has the script, what runs git in it, and what the script says of two files."""
    script = REPOSITORY / ".ci" / "changed"
    if not script.is_file() or not shutil.which("git") or not shutil.which("bash"):
        pytest.skip("it is a script of the repository")
    (tmp_path / ".ci").mkdir()
    shutil.copy(script, tmp_path / ".ci")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def run(*command, **more):
        given = {**environment, **more}
        done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
        return done.stdout.split(), done.stderr

    def git(*words, day=1):
        when = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"2030-01-{day:02d}T00:00:00Z")
        run("git", "-c", "user.name=a", "-c", "user.email=a@b", *words, **when)

    def commit(name, text="x", day=1):
        (tmp_path / name).write_text(text)
        git("add", name)
        git("commit", "-q", "-m", name, day=day)

    return git, commit, lambda: run("bash", ".ci/changed", "pyproject.toml", "constraints.txt")


def test_a_clone_without_history_names_nothing_and_does_not_fail(clone):
    git, commit, changed = clone
    said = ([], "no earlier commit is here to compare with\n")
    assert changed() == said  # no repository at all
    git("init", "-q", "-b", "main")
    assert changed() == said  # and one without a commit
    commit("pyproject.toml")
    assert changed() == said


def test_what_the_last_landing_changed_is_named(clone):
    git, commit, changed = clone
    git("init", "-q", "-b", "main")
    commit("a", day=1)
    commit("constraints.txt", day=2)
    assert changed() == (["constraints.txt"], "")
    commit("b", day=2)  # a landing may be many commits
    commit("c", day=2)
    assert changed() == (["constraints.txt"], "")
    commit("d", day=4)
    assert changed() == ([], "")
    git("switch", "-q", "-c", "branch")  # a branch counts as a whole
    commit("pyproject.toml", day=6)
    commit("e", day=9)
    assert changed() == (["pyproject.toml"], "")
    git("switch", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "landed", "branch", day=9)
    assert changed() == (["pyproject.toml"], "")
