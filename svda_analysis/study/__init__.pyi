from .costs import Size, model_size
from .manifest import Manifest, PlannedRun, StudyOptions, load_manifest, packaged_manifests
from .report import read_study, render_study_again, write_paper, write_study
from .result import DatasetResult, StudyResult
from .runs import Trained, find_checkpoints, train_missing

__all__ = [
    "DatasetResult",
    "Manifest",
    "PlannedRun",
    "Size",
    "StudyOptions",
    "StudyResult",
    "Trained",
    "find_checkpoints",
    "load_manifest",
    "model_size",
    "packaged_manifests",
    "read_study",
    "render_study_again",
    "train_missing",
    "write_paper",
    "write_study",
]
