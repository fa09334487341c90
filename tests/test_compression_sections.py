"""What the report of compressions says, and in which order."""

from __future__ import annotations

import math

from compression_cases import a_run, of_size

from svda_analysis.compression.result import Compressions
from svda_analysis.compression.sections import compression_document, terminal_compression
from svda_analysis.render.markdown import to_markdown


def heads(document):
    return [section.title for section in document.sections if section.title]


def test_models_stand_side_by_side_then_the_cost_of_both():
    found = Compressions((a_run(seed=0), a_run(seed=1), a_run("vit")))
    document = compression_document(found, command="svda compress a b c")
    assert document.title == "Compression: svda, vit"
    assert heads(document) == [
        *("svda", "Before and after", "What keeps the norm", "vit", "Before and after", "The cost of removing"),
        *("svda: one threshold for all heads", "svda: a share of each head's energy"),
        *("vit: one threshold for all heads", "vit: a share of each head's energy", "How to read this"),
    ]
    page = to_markdown(document, figures="")
    assert (
        "67.4% of the score directions and 60.0% of the rows of W_q and W_k are gone, mean of 2 training runs" in page
    )
    assert "rows stay for the norm that move the logits by 0.003" in page
    assert [picture.name for picture in document.pictures] == ["compression"]


def test_one_run_without_a_sweep_has_no_cost_and_no_heading_of_its_own():
    tuned = a_run(swept=False, finetune_epochs=2, norm_logit=math.inf)
    document = compression_document(Compressions((tuned,)))
    assert heads(document) == ["Before and after", "What keeps the norm (without fine-tuning)", "How to read this"]
    page = to_markdown(document, figures="")
    assert "are gone, after 2 epochs of fine-tuning (criterion operator; no row stays for the norm alone)." in page


def test_the_terminal_gets_the_numbers_that_are_not_indicators():
    document = terminal_compression(Compressions((a_run(), a_run("vit", warnings=["careful"]))))
    assert document.lead == ("data: Shoes test, 40 images",)
    assert [section.name for section in document.sections] == ["svda", "vit"]
    assert not any("entropy" in name for table in document.tables for name in table.text["Quantity"])


def test_models_of_equal_size_come_first_and_say_on_how_much_they_rest():
    about = {"swept": False, "finetune_epochs": 2, "finetune_images": 128}
    runs = [
        a_run(model, seed, at_budgets=[of_size("operator", 0.2, 0.8 + seed / 70, 0.85 - seed / 90)], **about)
        for model in ("svda", "vit")
        for seed in (0, 1)
    ]
    for build in (compression_document, terminal_compression):
        first = build(Compressions(tuple(runs))).sections[0]
        assert first.title == "Accuracy of models of equal size"
        accuracy, differences = first.blocks
        assert "over 40 images; mean and standard deviation over training runs; runs: 2 seeds" in accuracy.note
        assert "2 epochs through 128 training images, the same for all" in accuracy.note
        assert list(differences.text["Points, rows kept:"]) == ["svda - vit", "svda - vit, fine-tuned"]
    without = compression_document(Compressions((a_run(at_budgets=[of_size("operator", 0.2, 0.8)]),))).sections[0]
    assert len(without.blocks) == 1
    assert "Fine-tuned" not in without.blocks[0].note
