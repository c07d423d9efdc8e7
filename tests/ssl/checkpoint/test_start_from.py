"""Transfer: copied where it fits, resized by rule, new at zero, refused where it cannot; all of it listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext import TASKS
from earthssl.ssl.checkpoint.read import read
from earthssl.ssl.checkpoint.start_from import Transfer, resize, resize_matrix, start_from
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import patchify
from earthssl.ssl.training.pretrain import pretrain

GRID = LatLonGrid(np.linspace(80, -80, 9), np.arange(0, 360, 20.0))


def moved(run: Path, config: EncoderConfig, *variables: str, grid: LatLonGrid = GRID) -> tuple[Encoder, Transfer]:
    """Return a new encoder with a run's weights, and the record."""
    encoder = config.build(variables)
    return encoder, start_from(run, encoder, grid, 30.4)


def test_the_same_shape_gets_the_same_weights(small_run: Path) -> None:
    """Bit for bit, and the random state is as before."""
    donor, record = read(small_run / "checkpoint")
    state = torch.get_rng_state()
    new = Encoder(record.encoder, record.variables)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    encoder, transfer = moved(small_run, record.encoder, *record.variables, grid=record.grid)
    assert torch.equal(torch.get_rng_state(), after)
    assert new.state_dict().keys() == encoder.state_dict().keys()
    for name, value in donor.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value)
    assert not transfer.resized
    assert transfer.new == ["pretext heads"]


def test_another_set_of_variables(small_run: Path, small_windows: Callable[..., Any]) -> None:
    """What the encoder makes of the old variables stays the same; new ones have no effect at first."""
    donor, record = read(small_run / "checkpoint")
    encoder, transfer = moved(small_run, record.encoder, "sst", "u10", "msl")
    batch = small_windows("val").batch([0, 5])
    shown = replace(
        batch,
        values=batch.values[:, :, :2],
        valid=batch.valid[:, :, :2],
        known=batch.known[:2],
        variables=("sst", "u10"),
    )
    more = replace(batch, variables=("sst", "u10", "msl"))
    with torch.no_grad():
        before = donor.eval()(patchify(shown, record.encoder.patch))
        assert torch.equal(encoder.eval()(patchify(shown, record.encoder.patch)), before)
        with_new = encoder(patchify(more, record.encoder.patch))
    assert torch.allclose(with_new, before, atol=1e-5)
    assert "embedding of msl: zero weights, at first without effect" in transfer.new
    assert "embedding of v10" in transfer.dropped
    assert any("true latitude" in words for words in transfer.notes)


@pytest.mark.parametrize("new", [(1, 4, 6), (2, 2, 3), (1, 5, 4), (3, 7, 9)])
def test_an_enlarged_field_keeps_its_token(new: tuple[int, int, int]) -> None:
    """The enlarged patch times the new weights is the patch times the old ones; the valid share's row is the same."""
    generator = torch.Generator().manual_seed(0)
    old = (1, 2, 3)
    weight = torch.randn(7, 5, generator=generator)
    made = resize(weight, old, new)
    fields = torch.randn(4, 6, generator=generator)
    larger = fields @ resize_matrix(old, new).float().T
    assert torch.allclose(larger @ made[:-1], fields @ weight[:-1], atol=1e-4)
    assert torch.equal(made[-1], weight[-1])


@pytest.mark.parametrize("new", [(1, 2, 2), (1, 3, 8), (2, 4, 4), (1, 1, 1)])
def test_a_constant_field_keeps_its_token_at_any_size(new: tuple[int, int, int]) -> None:
    weight = torch.randn(2 * 4 * 4 + 1, 5, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(resize(weight, (2, 4, 4), new)[:-1].sum(0), weight[:-1].sum(0), atol=1e-4)
    assert torch.equal(resize(weight, (2, 4, 4), (2, 4, 4)), weight)


def test_a_smaller_patch_is_the_least_squares_one() -> None:
    """No other weights with the same sum come nearer to the old tokens of white fields."""
    weight = torch.randn(17, 1, generator=torch.Generator().manual_seed(2))
    made = resize(weight, (1, 4, 4), (1, 2, 2))[:-1].double()
    matrix = resize_matrix((1, 4, 4), (1, 2, 2))

    def error(kernel: torch.Tensor) -> float:
        return float(((matrix.T @ kernel - weight[:-1].double()) ** 2).sum())

    for nudge in torch.randn(20, 4, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64):
        assert error(made + 0.1 * (nudge - nudge.mean())) > error(made)


def test_other_blocks_are_refused_with_every_difference(small_run: Path) -> None:
    encoder = EncoderConfig("micro", 3, (1, 2, 3)).build(("sst",))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(EarthSSLError, match=r"width 64, got 128; depth 3, got 6; set encoder\.size nano"):
        start_from(small_run, encoder, GRID, 30.4)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(EarthSSLError, match="none of which the store holds"):
        moved(small_run, EncoderConfig("nano", 3, (1, 2, 3)), "msl")
    with pytest.raises(EarthSSLError, match="found none"):
        moved(small_run / "nothing", EncoderConfig("nano", 3, (1, 2, 3)), "sst")


def test_a_run_says_what_it_started_from(
    small_run: Path, small_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the terminal, in run.json and in the checkpoint; the new run's weights come from the old one's."""
    config = small_config(tmp_path / "run", lr=1e-12, steps=3, val_every=3, save_every=3)
    config = replace(config, start_from=str(small_run), encoder=replace(config.encoder, patch=(1, 4, 6), window=4))
    folder = pretrain(config, TASKS)
    said = capsys.readouterr().err
    transfer = json.loads((tmp_path / "run" / "run.json").read_text())["transfer"]
    encoder, record = read(folder)
    assert record.extra["transfer"] == transfer
    assert transfer["resized"] == ["embedding of sst, u10, v10: patch 1×2×3 → 1×4×6, valid share kept"]
    assert any("window 3 → 4" in words for words in transfer["notes"])
    assert "patch 1×2×3 → 1×4×6" in said
    donor, earlier = read(small_run / "checkpoint")
    assert record.extra["ancestors"] == earlier.trainings
    assert [own["splits"] for own in record.trainings] == [earlier.splits.to_json(), record.splits.to_json()]
    for name, value in donor.blocks.state_dict().items():
        assert torch.allclose(encoder.blocks.state_dict()[name], value, atol=1e-6)
