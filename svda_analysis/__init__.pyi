from . import figures as plots
from .alarms import ALARMS, Alarm, AttentionWarning
from .analysis import analyze, analyze_runs
from .attention import Attention, cosine_attention, dot_product_attention, svda_attention
from .attribution import METHODS, attribute
from .callbacks import lightning_callback, trainer_callback
from .calls import AttentionRecord
from .checkpoint import Checkpoint, load_model
from .comparison import compare, summarise
from .compression import Keep, compress, compress_and_verify, compress_model
from .conversion import convert, distill, distill_output, sigma_parameters
from .converted import load_converted, save_converted
from .data import DATASETS, load_dataset
from .errors import InputError
from .explanations import explain
from .faithful import faithfulness
from .indicators import INDICATORS, indicator
from .kinds import ATTENTIONS
from .map_comparison import compare_maps
from .maps import whole_maps
from .matching import MapBatch, MapComparison
from .model import ViT, ViTConfig
from .monitor import Monitor
from .penalties import forget_row_energy, penalty, track_row_energy
from .recipe import TrainConfig
from .results import Analysis, Examples, Run
from .sections import write_report
from .specs import open_model
from .subject import Subject
from .tap import capture, records
from .training import train
from .vocabulary import QUANTITIES, Quantity

__version__: str
__all__ = [
    "ALARMS",
    "ATTENTIONS",
    "DATASETS",
    "INDICATORS",
    "METHODS",
    "QUANTITIES",
    "Alarm",
    "Analysis",
    "Attention",
    "AttentionRecord",
    "AttentionWarning",
    "Checkpoint",
    "Examples",
    "InputError",
    "Keep",
    "MapBatch",
    "MapComparison",
    "Monitor",
    "Quantity",
    "Run",
    "Subject",
    "TrainConfig",
    "ViT",
    "ViTConfig",
    "analyze",
    "analyze_runs",
    "attribute",
    "capture",
    "compare",
    "compare_maps",
    "compress",
    "compress_and_verify",
    "compress_model",
    "convert",
    "cosine_attention",
    "distill",
    "distill_output",
    "dot_product_attention",
    "explain",
    "faithfulness",
    "forget_row_energy",
    "indicator",
    "lightning_callback",
    "load_converted",
    "load_dataset",
    "load_model",
    "open_model",
    "penalty",
    "plots",
    "records",
    "save_converted",
    "sigma_parameters",
    "summarise",
    "svda_attention",
    "track_row_energy",
    "train",
    "trainer_callback",
    "whole_maps",
    "write_report",
]
