"""Censoring leaves a cue and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from earthssl.pretext.censoring import KINDS, censored, censoring
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import Patches, patchify

PATCH = (1, 2, 3)


@pytest.fixture
def patches(small_windows: Callable[..., Any]) -> Patches:
    return patchify(small_windows("train").batch([0, 60, 120]), PATCH)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig("nano", 3, PATCH).build(("sst", "u10", "v10")).eval()


def other(patches: Patches, scale: float = 2.0) -> Patches:
    """The same gaps with other values."""
    return replace(
        patches, values=torch.where(patches.valid, scale * patches.values.roll(1, 0) + 1, 0 * patches.values)
    )


@pytest.mark.parametrize("kind", ["validity", "position", "nothing"])
def test_values_do_not_pass(kind: str, patches: Patches, encoder: Encoder) -> None:
    """Other values, the same features; uncensored they differ."""
    with torch.no_grad(), censoring(encoder, kind):
        assert torch.equal(encoder(patches), encoder(other(patches)))
    with torch.no_grad():
        assert not torch.allclose(encoder(patches), encoder(other(patches)))


def test_validity_passes_where_it_is_the_cue(patches: Patches, encoder: Encoder) -> None:
    """Other gaps are seen with "validity", and not with "position"."""
    gappy = replace(patches, valid=patches.valid & (torch.arange(6) % 2 == 0))
    with torch.no_grad(), censoring(encoder, "validity"):
        assert not torch.allclose(encoder(patches), encoder(gappy))
    with torch.no_grad(), censoring(encoder, "position"):
        assert torch.equal(encoder(patches), encoder(gappy))


def test_statistics_are_mean_and_deviation_of_valid_cells(patches: Patches) -> None:
    """By hand; shuffling the cells of a patch changes nothing."""
    values = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0]).expand_as(patches.values)
    valid = torch.tensor([True, True, True, False, False, False]).expand_as(patches.valid)
    shown = censored(replace(patches, values=values, valid=valid), "statistics")
    assert shown.values[0, 0, 0].tolist() == pytest.approx([2, 2, 2, *[(2 / 3) ** 0.5] * 3])
    order = torch.tensor([5, 2, 0, 1, 3, 4])
    shuffled = replace(patches, values=patches.values[..., order], valid=patches.valid[..., order])
    assert torch.allclose(censored(patches, "statistics").values, censored(shuffled, "statistics").values, atol=1e-6)


def test_nothing_is_nothing_and_everything_is_restored(patches: Patches, encoder: Encoder) -> None:
    """Features 0 inside; afterwards, and with no kind, the encoder is as before."""
    with torch.no_grad():
        before = encoder(patches)
        with censoring(encoder, "nothing"):
            assert not encoder(patches).any()
        with censoring(encoder, ""):
            assert torch.equal(encoder(patches), before)
        with pytest.raises(ZeroDivisionError), censoring(encoder, "validity"):
            raise ZeroDivisionError
        assert torch.equal(encoder(patches), before)


def test_unknown_kinds_are_refused(patches: Patches, encoder: Encoder) -> None:
    with pytest.raises(EarthSSLError, match=f"expected {', '.join(KINDS)}, got 'validty'.*Did you mean 'validity'"):
        censored(patches, "validty")
    with pytest.raises(EarthSSLError, match="got 'blur'"), censoring(encoder, "blur"):
        pass
