"""Words are explained where they are first used, once, and nowhere but in running text."""

import re

import pandas as pd

from svda_analysis.document import Document, Points, Section, Table
from svda_analysis.render.glosses import gloss_html, gloss_markdown
from svda_analysis.render.html import to_html
from svda_analysis.render.markdown import to_markdown
from svda_analysis.vocabulary import GLOSSES

TEXT = """# Sigma and scores

`sigma` stays. Its p after Holm, and after Holm again; the rank of scores (attention).

| scores | Hedges' g |
"""


def test_markdown_gets_a_footnote_at_the_first_use():
    found = gloss_markdown(TEXT)
    assert found.startswith("# Sigma and scores\n\n`sigma` stays. Its p after Holm[^Holm], and after Holm again; ")
    assert "the rank of scores[^scores] (attention)[^attention].\n\n| scores | Hedges' g |\n" in found
    notes = re.findall(r"^\[\^(\w+)\]: (.*)$", found, re.MULTILINE)
    assert notes == [(name, GLOSSES[name].said) for name in ("Holm", "scores", "attention")]
    assert gloss_markdown("Nothing of the kind.\n") == "Nothing of the kind.\n"


def test_a_page_gets_a_link_at_the_first_use_and_the_word_at_its_end():
    body = (
        '<header><h1>Holm</h1></header><main><p title="scores">By <code>Holm</code>, Holm\'s method, Holm.</p>'
        "<table><td>scores</td></table><p>Of scores.</p></main>"
    )
    found = gloss_html(body)
    assert (
        '<h1>Holm</h1></header><main><p title="scores">By <code>Holm</code>, <a class="term" href="#word-Holm">'
        in found
    )
    assert '<table><td>scores</td></table><p>Of <a class="term" href="#word-scores">scores</a>.</p>' in found
    assert found.count("<a ") == 2
    assert found.endswith("</dl>\n</main>")
    assert found.count('<dt id="word-') == 2
    assert gloss_html("<main><p>Nothing</p></main>") == "<main><p>Nothing</p></main>"


def test_both_ways_to_show_a_document_explain_the_same_words():
    table = Table(name="t", text=pd.DataFrame({"p (Holm)": ["0.1"]}))
    lines = ("p 0.1 after Holm.", "By two one-sided tests.", "Of the operator of scores.")
    shown = Document(title="A", sections=(Section(name="s", title="S", blocks=(Points(lines), table)),))
    page, text = to_html(shown), to_markdown(shown)
    words = re.findall(r'<dt id="word-(\w+)">', page)
    assert words == re.findall(r"^\[\^(\w+)\]:", text, re.MULTILINE) == ["Holm", "equivalence", "operator", "scores"]


def test_every_word_is_found_and_its_explanation_is_a_sentence():
    samples = {
        "Holm": "Holm's method", "Hedges": "(Hedges' correction)", "equivalence": "p 0.1 for equivalence",
        "McNemar": "McNemar's exact p", "sigma": "Sigma", "scores": "scores", "attention": "rank (attention)",
        "operator": "the operator",
    }  # fmt: skip
    assert set(samples) == set(GLOSSES)
    for name, one in GLOSSES.items():
        assert re.search(one.pattern, samples[name])
        assert one.said.endswith(".")
