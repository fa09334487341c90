from .budgets import accuracy_at_budgets
from .files import compress_files, smaller_files
from .finetuning import finetune
from .keep import CRITERIA, Keep
from .ranking import Ranking, direction_energy, rank
from .removal import compress, compress_model, remove, removed_shares
from .report import render_compression_again, write_compression
from .result import Compression, Compressions
from .run import Compressed, compress_and_verify
from .search import smallest, sweep
from .sections import compression_document, terminal_compression
from .verification import verify

__all__ = [
    "CRITERIA",
    "Compressed",
    "Compression",
    "Compressions",
    "Keep",
    "Ranking",
    "accuracy_at_budgets",
    "compress",
    "compress_and_verify",
    "compress_files",
    "compress_model",
    "compression_document",
    "direction_energy",
    "finetune",
    "rank",
    "remove",
    "removed_shares",
    "render_compression_again",
    "smaller_files",
    "smallest",
    "sweep",
    "terminal_compression",
    "verify",
    "write_compression",
]
