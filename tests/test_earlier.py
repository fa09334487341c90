"""Numbers of earlier versions: sources of their own, intervals by the rule of now."""

import math

import numpy as np
import pytest
from scipy import stats

from svda_analysis.earlier import as_measured_now
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, VERIFICATION_COLUMNS, make_frame


def row(indicator, source, **numbers):
    return {"model": "svda", "seed": 0, "indicator": indicator, "source": source, **numbers}


MEASURED = [
    row("effective_rank", "scores", mean=2.0, std=0.5, n=100, ci_low=1.9, ci_high=2.1, low=1.0),
    row("angular_alignment", "scores", mean=0.999, std=0.02, n=100, ci_low=0.995, ci_high=1.003, low=0.0, high=1.0),
    row("effective_rank", "sigma", mean=3.0, n=1, low=1.0),
    row("directions_90", "data", mean=0.5, n=1, low=0.0, high=1.0),
    row("accuracy", "test", mean=0.9, std=0.3, n=100, ci_low=0.84, ci_high=0.96, low=0.0, high=1.0),
]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_what_meant_something_else_has_a_source_of_its_own(version):
    found = as_measured_now(make_frame(MEASURED, TABLE_COLUMNS), version)
    assert list(found["source"]) == ["uncentred scores", "scores", "sigma", "axes", "test"]
    assert dict(found.dtypes) == dict(make_frame(MEASURED, TABLE_COLUMNS).dtypes)
    spectra = make_frame([{"source": source} for source in ("scores", "attention")], SPECTRA_COLUMNS)
    assert list(as_measured_now(spectra, version)["source"]) == ["uncentred scores", "attention"]
    rows = [{"quantity": name, "source": "scores"} for name in ("effective_rank", "mean_alignment")]
    verified = as_measured_now(make_frame(rows, VERIFICATION_COLUMNS), version)
    assert list(verified["source"]) == ["uncentred scores", "scores"]


@pytest.mark.parametrize("version", ["0.3.0", "0.10.1", "1.0"])
def test_what_this_version_measured_stays(version):
    frame = make_frame(MEASURED, TABLE_COLUMNS)
    assert as_measured_now(frame, version).equals(frame)


def test_intervals_of_the_first_version_stay_within_what_the_quantity_can_be():
    found = as_measured_now(make_frame(MEASURED, TABLE_COLUMNS), "0.1.0")
    later = as_measured_now(make_frame(MEASURED, TABLE_COLUMNS), "0.2.0")
    np.testing.assert_array_equal(later["ci_high"], make_frame(MEASURED, TABLE_COLUMNS)["ci_high"])
    wide = stats.t.ppf(0.975, 99) * 0.02 / math.sqrt(100) / (0.999 * 0.001)  # on the logit scale
    logit = math.log(0.999 / 0.001)
    ends = [1 / (1 + math.exp(-(logit + side * wide))) for side in (-1, 1)]
    np.testing.assert_allclose(found.loc[1, ["ci_low", "ci_high"]].astype(float), ends, rtol=1e-9)
    wilson = stats.binomtest(90, 100).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(found.loc[4, ["ci_low", "ci_high"]].astype(float), wilson, rtol=1e-12)
    assert found.loc[[2, 3], ["ci_low", "ci_high"]].isna().all(axis=None)
