"""What studies found, on one page in plain words."""

import dataclasses
import json
import shutil

import pytest
from study_cases import result

from svda_analysis.render.markdown import markdown_escape
from svda_analysis.study.plain_words import write_plain_words
from svda_analysis.study.report import write_study
from svda_analysis.study.result import StudyResult

pytestmark = pytest.mark.usefixtures("without_figures")  # the page is of numbers and words


def a_study(folder, title="A study", **how):
    """The report of models with known numbers: SVDA more selective, of lower rank, and hardly less accurate."""
    shown = dataclasses.replace(result(5), name="x")
    variants = {name: {"attention": size.attention} for name, size in shown.sizes.items()}
    study = StudyResult(title=title, datasets=(shown,), variants=variants, **how)
    manifest = {"title": title, "variants": variants, "analysis": {"margin": 0.5}, "of_variants": study.of_variants}
    write_study(study, folder, {"command": "svda paper", "manifest": manifest, "versions": {}, "warnings": []})


def test_each_claim_is_answered_with_its_number_and_file(tmp_path):
    a_study(tmp_path / "a" / "b", "A & B <i>")
    page = write_plain_words(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "README.md"
    assert f"## {markdown_escape('A & B <i>')}" in text
    assert "15 training runs" in text
    assert "(half a point of accuracy where a study names no other, 2 % of the range" in text
    lines = [line for line in text.split("\n") if line.startswith("- **svda against vit")]
    assert len(lines) == 4
    selective = next(line for line in lines if "more interpretable" in line)
    assert "?** yes on X (+0.100 [" in selective
    assert "no, the contrary is shown on X (-0.100 [" in next(line for line in lines if "sparser" in line)
    assert any("is it at most 0.5 points less accurate?** yes on X (-0.11 [" in line for line in lines)
    for line in lines:
        linked = line.rpartition("](")[2].rstrip(")")
        assert (tmp_path / linked).is_file()


def test_further_pairs_stand_apart_each_claim_on_a_line_of_its_own(tmp_path):
    a_study(tmp_path / "a")
    lines = write_plain_words(tmp_path).read_text(encoding="utf-8").split("\n")
    at = next(at for at, line in enumerate(lines) if line.startswith("- **What SVDA adds to normalisation"))
    assert [line.partition("?")[0] for line in lines[at + 1 : at + 5]] == [
        "  - Is attention more interpretable, as far as selectivity says it",
        "  - Is attention sparser",
        "  - Do fewer directions make up the scores",
        "  - Is it more accurate",
    ]


def test_what_became_of_claims_comes_before_parts_of_a_recipe(tmp_path):
    a_study(tmp_path / "a", "Parts", of_variants=True)
    a_study(tmp_path / "b", "Claims")
    text = write_plain_words(tmp_path).read_text(encoding="utf-8")
    assert text.index("## Claims") < text.index("## Parts") < text.index("## How it was judged")


def test_of_variants_it_says_what_each_part_does(tmp_path):
    a_study(tmp_path / "s", of_variants=True)
    text = write_plain_words(tmp_path).read_text(encoding="utf-8")
    assert "Unit rows and a temperature (cosine against vit)" in text
    assert "([README.md](s/README.md))" in text


def test_written_again_it_is_the_same_and_damaged_reports_are_left_out(tmp_path):
    a_study(tmp_path / "a")
    before = write_plain_words(tmp_path).read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "data" / "costs.csv").write_text("no table")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "meta.json").write_text(json.dumps([1]))
    for name, part in (("d", "manifest"), ("e", "datasets")):
        shutil.copytree(tmp_path / "a", tmp_path / name)
        meta = json.loads((tmp_path / name / "meta.json").read_text())
        meta[part] = {} if part == "manifest" else [{"name": "x"}]
        (tmp_path / name / "meta.json").write_text(json.dumps(meta))
    assert write_plain_words(tmp_path).read_bytes() == before


@pytest.mark.parametrize("put", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("other.md")])
def test_a_page_of_ones_own_is_left(tmp_path, put):
    a_study(tmp_path / "a")
    (tmp_path / "other.md").write_text("mine")
    put(tmp_path / "README.md")
    assert write_plain_words(tmp_path) is None
    assert (tmp_path / "README.md").read_text() == "mine"


def test_without_a_study_there_is_no_page(tmp_path):
    assert write_plain_words(tmp_path) is None
    assert not list(tmp_path.iterdir())
