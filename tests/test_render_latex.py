"""Tables as LaTeX: the right columns, and no character that LaTeX would read as its own."""

from __future__ import annotations

import re
import shutil
import subprocess

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svda_analysis.document import Table
from svda_analysis.render.latex import booktabs, latex_escape, latex_file, latex_table, to_latex


def test_a_table_of_text():
    frame = pd.DataFrame({"Source": ["cls_attention"], "svda": ["50 %"], "p (Holm)": ["<0.001"], "Why": ["x" * 41]})
    assert booktabs(frame) == (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{tabular}{lrrp{3cm}}\n"
        "\\toprule\n"
        "Source & svda & p (Holm) & Why \\\\\n"
        "\\midrule\n"
        f"cls\\_attention & 50 \\% & $<$0.001 & {'x' * 41} \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_names_hold_what_latex_reads_as_its_own():
    assert latex_escape(r"a\b{c}$d~e^f#g&h%i_j<k>l|m±n") == (
        r"a\textbackslash{}b\{c\}\$d\textasciitilde{}e\^{}f\#g\&h\%i\_j$<$k$>$l$|$m$\pm$n"
    )
    assert r"\$\{x\}" in booktabs(pd.DataFrame({"${x}": ["1"]}))


def test_letters_that_the_fonts_of_latex_lack_are_written_as_numbers():
    assert latex_escape("Ångström naïve 5 \u00d7 \u03c3") == r"Ångström naïve 5 $\times$ $\sigma$"
    assert latex_escape("中\x1b[31m") == r"{[}U+4E2D]\textbackslash{}x1b[31m"


NASTY = [
    *("a\\b{c}$d~e^f#g&h%i_j<k>l|m±n", "[no interval]", "*", "\\input{/etc/passwd}", "}\\end{tabular}", "$x$ % gone"),
    *("中文 Σ Ω ж é ß Å ǖ 🙂 \u202e", "a\nb\tc\x00\x1b[2J", '^^M "quoted" `x\' --- <<', "\udc80"),
]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_a_real_latex_sets_every_name(tmp_path):
    frame = pd.DataFrame({"Model": NASTY, "\\$}{_^": NASTY, "Why": [text * 9 for text in NASTY]})
    table = Table(name="t", text=frame, title=NASTY[0], note=NASTY[-1])
    body = to_latex([table, Table(name="u", text=frame[:1])], NASTY) + latex_file(table)
    page = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "t.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]


@given(st.text())
def test_escaped_text_is_one_line_with_balanced_braces(text):
    escaped = latex_escape(text)
    assert len(escaped.splitlines()) <= 1
    known = "textbackslash|textasciitilde|pm|times|le|ge|surd|sigma|Sigma|lambda|mu|tau"
    bare = re.sub(rf"\\[{{}}$%_&#^]|\\({known})\b", "", escaped)
    assert "\\" not in bare
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not set(bare) & set("%_&#^")


def test_a_long_note_is_whole_in_caption_and_comment():
    note = " ".join(f"word{i}" for i in range(500))
    table = Table(name="t", note=note, text=pd.DataFrame({"a": ["1"]}))
    assert all(note in made for made in (latex_file(table), latex_table(table, width=3.0)))


def test_a_row_may_begin_with_a_bracket():
    assert "\n{[}no interval] & 1 \\\\\n" in booktabs(pd.DataFrame({"95 % CI": ["[no interval]"], "n": ["1"]}))


def test_a_table_may_be_empty():
    assert "Source & Mean" in booktabs(pd.DataFrame(columns=["Source", "Mean"]))


def test_warnings_and_notes_stay_comments():
    table = Table(name="t", text=pd.DataFrame({"Model": ["a"]}), title="Accuracy", note="Of all\nimages.")
    assert latex_file(table) == f"% Accuracy. Of all images.\n{booktabs(table.text)}"
    assert latex_file(Table(name="t", text=table.text)) == booktabs(table.text)
    assert to_latex([table, table], ["a\nb"]) == f"% WARNING: a b\n{booktabs(table.text)}\n{booktabs(table.text)}"
