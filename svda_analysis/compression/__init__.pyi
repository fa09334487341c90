from .keep import CRITERIA, Keep
from .ranking import Ranking, direction_energy, rank
from .removal import compress, compress_model, remove, removed_shares
from .run import compress_and_verify

__all__ = [
    "CRITERIA",
    "Keep",
    "Ranking",
    "compress",
    "compress_and_verify",
    "compress_model",
    "direction_energy",
    "rank",
    "remove",
    "removed_shares",
]
