"""Words that a report explains where it first uses them (``vocabulary.GLOSSES``), in markdown and on a page alike.

No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import escape

from svda_analysis.vocabulary import GLOSSES

_NO_TEXT = ("#", "|", "!", "<", "**Warning", "Made by")  # how lines of markdown begin that are no running text
_UNTOUCHED = {"h1", "h2", "h3", "h4", "a", "code", "pre", "table", "figcaption", "nav", "button", "dl", "footer"}


def _at_first_use(pieces: Iterable[tuple[str, bool]], mark: Callable[[str, str], str]) -> tuple[str, list[str]]:
    """The pieces (a text, and whether words are looked for in it) as one text, with the first use of each word as
    ``mark(word, found)`` writes it; and the words that were found, in that order."""
    left, written = dict(GLOSSES), list[str]()
    found: list[tuple[int, int, str]] = []
    for text, is_open in pieces:
        hits = [(name, hit) for name, one in left.items() if is_open and (hit := re.search(one.pattern, text))]
        end = len(text) + 1
        for name, hit in sorted(hits, key=lambda one: -one[1].start()):  # from the end: places before stay
            if hit.end() <= end:
                text = text[: hit.start()] + mark(name, hit[0]) + text[hit.end() :]
                end = hit.start()
                del left[name]
                found.append((len(written), hit.start(), name))
        written.append(text)
    return "".join(written), [name for *_, name in sorted(found)]


def gloss_markdown(text: str) -> str:
    """Markdown with a footnote at the first use of each word, and the footnotes at its end."""
    pieces: list[tuple[str, bool]] = []
    for line in text.splitlines(keepends=True):
        parts = re.split(r"(`[^`]*`)", line)
        pieces += [(part, not line.startswith(_NO_TEXT) and not part.startswith("`")) for part in parts]
    written, found = _at_first_use(pieces, lambda name, said: f"{said}[^{name}]")
    notes = "".join(f"[^{name}]: {GLOSSES[name].said}\n" for name in found)
    return f"{written}\n{notes}" if notes else written


def gloss_html(body: str) -> str:
    """The body of a page with a link at the first use of each word, and at the end of its main part what it says."""
    pieces, closed = [], 0
    for part in re.split(r"(<[^>]*>)", body):
        if tag := re.match(r"<(/?)(\w+)", part):
            closed += (-1 if tag[1] else 1) if tag[2] in _UNTOUCHED else 0
        pieces.append((part, closed == 0 and not tag))
    written, found = _at_first_use(pieces, lambda name, said: f'<a class="term" href="#word-{escape(name)}">{said}</a>')
    entries = "\n".join(
        f'<dt id="word-{name}">{name}</dt><dd><p>{escape(GLOSSES[name].said)}</p></dd>' for name in found
    )
    listed = f'<h2 id="words">Words</h2>\n<dl class="glossary">\n{entries}\n</dl>\n</main>'
    return written.replace("</main>", listed, 1) if found else written
