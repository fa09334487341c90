"""Threads in the place of processes: each has its part of a team, and hands over copies alone, as processes do.

For processes themselves, a port at which they meet.
"""

import contextlib
import pickle
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from svda_analysis.team import Team


def in_team(world, work):
    """What ``work(team)`` gives in each process of a team, by rank; an error in its place."""
    meet, held = threading.Barrier(world, timeout=300), [b""] * world

    def member(rank):
        def exchange(own):
            held[rank] = pickle.dumps(own)
            meet.wait()
            found = [pickle.loads(one) for one in held]
            meet.wait()
            return found

        try:
            return work(Team(rank, world, exchange, lambda own: exchange(own)[0]))
        except Exception as error:
            meet.abort()  # who waits for it does so in vain
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(member, range(world)))


def free_port():
    """One that is not given to whoever asks for any, as other tests do meanwhile."""
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
