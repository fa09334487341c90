"""Compress a checkpoint and verify it."""

from svda_analysis.verify import compress_and_verify

__all__ = ["compress_and_verify"]
