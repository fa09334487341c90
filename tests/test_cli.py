import time
from svda_analysis.cli import analyze_main, main
import pytest


def test_time(tiny, fashion, tmp_path, capsys):
    for k in (1, 2, 2):
        t = time.time()
        with pytest.raises(SystemExit) as e:
            analyze_main(
                [*map(str, list(tiny.values())[:k]), "--data-root", str(fashion), "--out", str(tmp_path / str(k))]
            )
        print(e.value.code, time.time() - t)
    import cProfile

    p = cProfile.Profile()
    p.enable()
    with pytest.raises(SystemExit) as e:
        analyze_main(
            [
                *map(str, list(tiny.values())[:1]),
                "--data-root",
                str(fashion),
                "--out",
                str(tmp_path / str(k)),
                "--images",
                "20",
                "--indicators",
                "attention_entropy",
            ]
        )
    p.disable()
    import pstats

    pstats.Stats(p).sort_stats("cumtime").print_stats(25)
    print(sorted(str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*")))
