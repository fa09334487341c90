"""What workers of the tests do: they import this module, which is small."""

import os
import signal
import time
from pathlib import Path

from svda_analysis.errors import HaltedError, InputError


class OddError(Exception):
    """An error that cannot be read where it is sent to."""

    def __init__(self, one, two):
        super().__init__(one + two)


def do(folder: Path, at: int, what: str) -> None:
    (folder / f"begun_{at}").touch()
    if what == "fail":
        while not (folder / f"begun_{at + 1}").exists():
            time.sleep(0.01)
        raise InputError(f"task {at} cannot be done")
    if what == "halt":
        raise HaltedError("stopped", 143)
    if what == "odd":
        raise OddError("a", "b")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60 if what == "long" else 0)
    (folder / f"done_{at}").touch()
