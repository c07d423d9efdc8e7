"""References of attribution maps: correlations of raw cells, in blocks of columns."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from earthssl.downstream.features.anomalies import monthly_anomaly
from earthssl.downstream.metrics.seasonal import pearson
from earthssl.downstream.tasks.explain import references
from earthssl.downstream.tasks.explain.references import correlations


def test_correlations_in_blocks_are_those_of_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a constant column and a last block that is not full; memory is that of a block, not of copies of it all."""
    rng, month = np.random.default_rng(0), np.arange(120) % 12
    x = rng.normal(size=(120, 10_003)).astype(np.float32)
    x[:, 7] = 3.0
    every = np.ones(120, dtype=bool)
    y = monthly_anomaly(x[:, 0] + rng.normal(size=120), month, every)
    expected = pearson(monthly_anomaly(x, month, every), y[:, None], axis=0)
    monkeypatch.setattr(references, "BLOCK_NUMBERS", 120 * 100)
    tracemalloc.start()
    found = correlations(x, y, month)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[7] == 0
    assert peak < x.nbytes
