"""PortableEncoder: raw fields in, the same features out as embed; the calendar inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.normalisation import Statistics
from earthssl.ssl.inference.compare_export import embedded
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.portable_calendar import calendar
from earthssl.ssl.inference.portable_encoder import PortableEncoder, example

SMALL = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


@pytest.fixture
def frozen() -> FrozenEncoder:
    """The encoder of the version-1 folder: two variables, months, patches that leave a padded edge."""
    return load_encoder(SMALL)


def hourly(frozen: FrozenEncoder) -> FrozenEncoder:
    """The same with a climatology by hour and harmonics, and one variable kept as a logarithm."""
    old = frozen.record.statistics
    rng = np.random.default_rng(0)
    shape = (4, 5, *old.scale.shape)
    constant = old.coefficients[:1].repeat(4, 0)
    coefficients = np.where(np.isnan(constant), np.nan, rng.normal(size=shape)).astype(np.float32)
    coefficients[:, :1, 0] = constant[:, :, 0]  # sst, K
    statistics = Statistics("hour", (0, 6, 12, 18), 2, coefficients, old.scale, (0.0, 1e-2))
    return FrozenEncoder(frozen.encoder, replace(frozen.record, statistics=statistics))


@pytest.mark.parametrize("pooling", ["mean", "last", "tokens"])
@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("by_hour", [False, True])
def test_features_are_those_of_embed(frozen: FrozenEncoder, pooling: str, layer: int, by_hour: bool) -> None:
    """Whatever the climatology, with gaps, transformed variables and padding."""
    frozen = hourly(frozen) if by_hour else frozen
    model = PortableEncoder(frozen, pooling, layer)
    fields, seconds = example(frozen, 6)
    assert torch.isnan(fields).any()
    expected = embedded(frozen, fields, seconds, pooling, layer)
    np.testing.assert_allclose(model(fields, seconds).numpy(), expected, atol=5e-6)
    fields[:, :, 0] = torch.nan
    expected = embedded(frozen, fields, seconds, pooling, layer)
    np.testing.assert_allclose(model(fields, seconds).numpy(), expected, atol=5e-6)


def test_a_variable_that_is_not_there_is_one_that_is_nowhere_observed(frozen: FrozenEncoder) -> None:
    """Left out of the data, or NaN in an exported file: the same tokens, also where it alone was known."""
    (_, rows, columns), old = frozen.encoder.config.patch, frozen.record.statistics
    coefficients = old.coefficients.copy()
    coefficients[:, :, 0, :rows, :columns] = np.nan  # sst has no value in the first patch
    frozen = FrozenEncoder(frozen.encoder, replace(frozen.record, statistics=replace(old, coefficients=coefficients)))
    fields, seconds = example(frozen, 4)
    fields[:, :, 1] = torch.nan
    found = frozen.of_windows(
        fields[:, :, :1].numpy(), seconds.numpy().astype("datetime64[s]"), ("sst",), frozen.view("tokens", -1, 64)
    )
    assert frozen.patches(("sst",)).count == frozen.patches(("sst", "u10")).count
    np.testing.assert_allclose(found[:, 0], PortableEncoder(frozen, "tokens")(fields, seconds).numpy(), atol=5e-6)


def test_an_hour_that_training_never_saw_gives_nan(frozen: FrozenEncoder) -> None:
    """A graph cannot raise: the window's features are NaN, the others are as they were."""
    model = PortableEncoder(hourly(frozen))
    fields, seconds = example(hourly(frozen), 3)
    before = model(fields, seconds)
    seconds[1] += 3600
    after = model(fields, seconds)
    assert torch.isnan(after[1]).all()
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


def test_the_calendar_is_numpys() -> None:
    """Every day from 1600 to 2400: months, leap years, years before 1970."""
    days = np.arange(np.datetime64("1600-01-01"), np.datetime64("2400-01-01"))
    month, of_year, of_month = calendar(torch.from_numpy(days.astype(np.int64)))
    np.testing.assert_array_equal(month.numpy(), days.astype("datetime64[M]").astype(int) % 12 + 1)
    np.testing.assert_array_equal(of_year.numpy(), (days - days.astype("datetime64[Y]")).astype(int))
    np.testing.assert_array_equal(of_month.numpy(), (days - days.astype("datetime64[M]")).astype(int))


def test_what_does_not_exist_is_refused(frozen: FrozenEncoder) -> None:
    """Layer and pooling."""
    with pytest.raises(EarthSSLError, match="layer: expected -"):
        PortableEncoder(frozen, layer=9)
    with pytest.raises(EarthSSLError, match="pooling: expected mean, last, tokens, got 'max'"):
        PortableEncoder(frozen, "max")
