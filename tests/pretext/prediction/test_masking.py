"""Masking: the loss counts hidden, valid cells by area and variable; the task is learnable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.pretext.prediction.field_scores import score
from earthssl.pretext.prediction.masking import Masking, MaskingConfig, asked
from earthssl.pretext.prediction.masks import KINDS, Mask, MaskConfig, draw
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.randomness import fold
from earthssl.ssl.fields.batch import Batch, from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import Patches, gather, patchify, unpatchify
from earthssl.ssl.training.objective import Context, Outcome

PATCH = (1, 2, 3)
NAMES = ("sst", "u10", "v10")
DRAWN = {  # kind -> digest
    "random": "5820d4fc941910b9",
    "block": "ed002fe990979ef3",
    "tube": "9355d59bbb147d61",
    "last": "f93d1ddd60ef6a58",
    "variable": "c1469aa2191fce0a",
}


@pytest.fixture
def batch(small_windows: Callable[..., Any]) -> Batch:
    """Four windows of the small store, some more cells missing at some times."""
    made = small_windows("train").batch([0, 50, 100, 150])
    valid = made.valid.clone()
    valid[1, 2, 1, 2:5] = False
    return replace(made, valid=valid, values=made.values * valid)


def objective(grid: LatLonGrid, masks: list[MaskConfig], names: tuple[str, ...] = NAMES) -> tuple[Any, Masking]:
    """Return a new encoder and a new masking objective, always the same."""
    torch.manual_seed(0)
    encoder = EncoderConfig("nano", 3, PATCH).build(names)
    return encoder, MaskingConfig(masks=masks, decoder_width=32).build(Context(encoder, names, grid))


def _score(rebuilt: torch.Tensor, patches: Patches, mask: Mask) -> Outcome:
    found = score(rebuilt, *asked(patches, mask))
    return Outcome(found.loss, found.terms(patches.variables))


@pytest.mark.parametrize("kind", KINDS)
def test_loss_by_brute_force(kind: str, batch: Batch) -> None:
    """Loops over samples, tokens, variables and cells give the same loss and skill."""
    patches = patchify(batch, PATCH)
    mask = draw(MaskConfig(kind, ratio=0.5), patches, batch.keys)
    rebuilt = torch.randn(4, patches.count, 3, 6, generator=torch.Generator().manual_seed(3))
    error, power, total = np.zeros(3), np.zeros(3), np.zeros(3)
    for b in range(4):
        for place, token in enumerate(mask.order[b].tolist()):
            for v in range(3):
                gone = mask.hidden_variables is not None and bool(mask.hidden_variables[b, v])
                whole = place >= mask.visible or gone
                for c in range(6):
                    alone = mask.hidden_cells is not None and bool(mask.hidden_cells[b, token, c])
                    if patches.valid[b, token, v, c] and (whole or alone):
                        area = float(patches.area[token, c])
                        truth = float(patches.values[b, token, v, c])
                        error[v] += area * (float(rebuilt[b, place, v, c]) - truth) ** 2
                        power[v] += area * truth**2
                        total[v] += area
    outcome = _score(rebuilt, patches, mask)
    assert float(outcome.loss) == pytest.approx((error / total).mean(), rel=1e-5)
    for v, name in enumerate(NAMES):
        assert float(outcome.terms[f"skill_{name}"]) == pytest.approx(1 - error[v] / power[v], rel=1e-4)


def test_the_climatology_has_no_skill(batch: Batch) -> None:
    """Zero anomaly everywhere scores 0, the truth scores 1 with no loss, by variable and in all."""
    patches = patchify(batch, PATCH)
    mask = draw(MaskConfig(), patches, batch.keys)
    nothing = _score(torch.zeros(4, patches.count, 3, 6), patches, mask)
    assert all(float(term) == pytest.approx(0, abs=1e-6) for term in nothing.terms.values())
    truth = patches.values[torch.arange(4)[:, None], mask.order]
    perfect = _score(truth, patches, mask)
    assert float(perfect.loss) == 0
    assert all(float(term) == 1 for term in perfect.terms.values())


def test_values_where_nothing_was_observed_do_not_matter(batch: Batch) -> None:
    """Poison in missing cells, on land and in the padding changes neither loss nor skill."""
    patches = patchify(batch, PATCH)
    mask = draw(MaskConfig(), patches, batch.keys)
    rebuilt = torch.randn(4, patches.count, 3, 6)
    poisoned = replace(patches, values=torch.where(patches.valid, patches.values, torch.tensor(1e4)))
    assert not patches.valid.all()
    clean, dirty = _score(rebuilt, patches, mask), _score(rebuilt, poisoned, mask)
    assert torch.equal(clean.loss, dirty.loss)
    assert all(torch.equal(clean.terms[name], dirty.terms[name]) for name in clean.terms)
    valid = patches.valid[torch.arange(4)[:, None], mask.order]
    other = torch.where(valid, rebuilt, torch.tensor(1e4))
    assert torch.equal(_score(other, patches, mask).loss, clean.loss)


def test_missing_marked_by_any_value_is_the_same_batch(batch: Batch) -> None:
    """From NaN to loss: what stands in a missing cell never reaches the network."""
    fields = torch.where(batch.valid, batch.values, torch.tensor(float("nan")))
    infinite = torch.where(batch.valid, batch.values, torch.tensor(float("inf")))
    encoder, masking = objective(batch.grid, [MaskConfig()])
    losses = [
        masking(encoder, from_fields(x, batch.times, batch.keys, batch.known, NAMES, batch.grid)).loss
        for x in (fields, infinite)
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], masking(encoder, batch).loss)


def test_the_encoder_never_sees_what_is_hidden(batch: Batch) -> None:
    """Other values in hidden tokens and hidden variables leave what is rebuilt as it was."""
    encoder, masking = objective(batch.grid, [MaskConfig()])
    for kind in KINDS:
        patches = patchify(batch, PATCH)
        mask = draw(MaskConfig(kind, ratio=0.5), patches, batch.keys)
        back = mask.order.argsort(1)
        hidden = mask.concealed()[torch.arange(4)[:, None], back]
        other = replace(patches, values=torch.where(hidden & patches.valid, patches.values + 5, patches.values))
        before, after = masking.rebuild(encoder, patches, mask), masking.rebuild(encoder, other, mask)
        assert torch.equal(before, after)
        assert not torch.equal(patches.values, other.values)


def test_a_variable_never_observed_costs_and_gains_nothing(batch: Batch) -> None:
    """Its skill is 0 and the loss is the mean over the others; nothing observed at all gives loss 0."""
    keep = torch.tensor([True, True, False])[:, None, None]
    without = replace(batch, values=batch.values * keep, valid=batch.valid & keep)
    encoder, masking = objective(batch.grid, [MaskConfig()])
    outcome = masking(encoder, without)
    assert float(outcome.terms["skill_v10"]) == 0
    two = [float(outcome.terms[f"skill_{name}"]) for name in NAMES[:2]]
    assert float(outcome.terms["skill"]) == pytest.approx(sum(two) / 2, rel=1e-5)
    empty = replace(batch, values=0 * batch.values, valid=batch.valid & False)
    loss = masking(encoder, empty).loss
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_the_kinds_take_their_shares(batch: Batch) -> None:
    """Over many batches, each kind is drawn by its weight; the kind depends on the batch's number only."""
    _, masking = objective(batch.grid, [MaskConfig("random", weight=3.0), MaskConfig("last"), MaskConfig("tube", 0.0)])
    kinds = [masking._kind(number).kind for number in range(1000)]
    assert kinds.count("random") == pytest.approx(750, abs=50)
    assert kinds.count("tube") == 0
    assert kinds == [masking._kind(number).kind for number in range(1000)]


def test_a_rank_one_field_is_learnt() -> None:
    """One pattern times a number: hidden places follow from visible ones, and 80 steps find that out."""
    rng = np.random.default_rng(0)
    grid = LatLonGrid(np.linspace(40, -40, 4), np.arange(6.0) * 30)
    pattern = 1.5 * np.cos(np.deg2rad(grid.lat))[:, None] * np.cos(np.deg2rad(grid.lon))
    known = torch.ones(1, 4, 6, dtype=torch.bool)
    encoder, masking = objective(grid, [MaskConfig(ratio=0.5)], ("sst",))
    parameters = [*encoder.parameters(), *masking.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, betas=(0.9, 0.95))
    skills = []
    for number in range(80):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (number + 1) / 20)
        fields = rng.normal(size=(32, 1, 1, 1, 1)) * np.ones((1, 3, 1, 1, 1)) * pattern
        keys, times = fold(torch.arange(32), number), torch.zeros(32, 3, dtype=torch.int64)
        outcome = masking(encoder, from_fields(torch.from_numpy(fields), times, keys, known, ("sst",), grid, number))
        optimizer.zero_grad()
        outcome.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        skills.append(float(outcome.terms["skill"]))
    assert np.mean(skills[:3]) < 0.1
    assert np.mean(skills[-5:]) > 0.7


def test_example_shows_truth_mask_and_rebuilt(batch: Batch) -> None:
    """Fields of the first window: truth as it was, shown a part of it, rebuilt wherever the truth is."""
    encoder, masking = objective(batch.grid, [MaskConfig(ratio=0.5)])
    example = masking.eval().example(encoder.eval(), batch)
    valid = batch.valid[0]
    assert torch.equal(example.truth.isfinite(), valid)
    assert torch.equal(example.truth[valid], batch.values[0][valid])
    shown = example.shown.isfinite()
    assert torch.equal(example.shown[shown], batch.values[0][shown])
    assert 0.3 < float(shown.sum() / valid.sum()) < 0.7
    assert torch.equal(example.rebuilt.isfinite(), valid)
    assert torch.equal(example.rebuilt[shown], example.shown[shown])
    assert not torch.equal(example.rebuilt[valid & ~shown], example.truth[valid & ~shown])


def with_gaps(batch: Batch, seed: int = 4) -> tuple[Batch, torch.Tensor]:
    """Hide half of the places in all variables, whole tokens among them; return what is left and where."""
    numbers = torch.rand(4, 3, 1, 7, 12, generator=torch.Generator().manual_seed(seed))
    seen = (numbers < 0.5).expand_as(batch.valid).clone()
    seen[:, :, :, :2, :6] = False
    seen[2, 1:] = False
    return replace(batch, values=batch.values * seen, valid=batch.valid & seen), seen


def test_fill_gives_every_known_cell_and_keeps_what_is_observed(batch: Batch) -> None:
    """Land stays empty; windows with unequal gaps in one batch are filled as each alone."""
    encoder, masking = objective(batch.grid, [MaskConfig()])
    encoder.eval(), masking.eval()
    gappy, _ = with_gaps(batch)
    filled = masking.fill(encoder, gappy)
    known = batch.known.expand_as(filled)
    assert torch.equal(filled.isfinite(), known)
    assert torch.equal(filled[gappy.valid], gappy.values[gappy.valid])
    for k in range(4):
        one = replace(
            gappy, values=gappy.values[[k]], valid=gappy.valid[[k]], times=gappy.times[[k]], keys=gappy.keys[[k]]
        )
        alone = masking.fill(encoder, one)[0]
        assert torch.allclose(alone[known[k]], filled[k][known[k]], atol=1e-5)


def test_fill_sees_no_hidden_value_and_hides_empty_tokens(batch: Batch) -> None:
    """Poison in the gaps changes nothing; with whole tokens missing it is the decoder of pretraining."""
    encoder, masking = objective(batch.grid, [MaskConfig()])
    encoder.eval(), masking.eval()
    gappy, _ = with_gaps(batch)
    poisoned = from_fields(
        torch.where(gappy.valid, gappy.values, torch.tensor(float("nan"))),
        batch.times, batch.keys, batch.known, NAMES, batch.grid,
    )  # fmt: skip
    first, second = (masking.fill(encoder, one).nan_to_num(7.0) for one in (gappy, poisoned))
    assert torch.equal(first, second)
    # Hide whole tokens as a mask does: the same fields come out.
    patches = patchify(batch, PATCH)
    mask = draw(MaskConfig("random", ratio=0.5), patches, batch.keys)
    with torch.no_grad():
        rebuilt = gather(masking.rebuild(encoder, patches, mask), mask.order.argsort(1))
    whole = gather(mask.concealed(), mask.order.argsort(1)).expand(patches.values.shape)
    hidden = unpatchify(whole.float(), patches, PATCH) == 1
    shown = replace(batch, values=batch.values * ~hidden, valid=batch.valid & ~hidden)
    seen = patchify(shown, PATCH).valid.any((2, 3))
    same = seen.sum(1) == mask.visible  # where no visible token happens to hold no observation
    assert same.any()
    fields, filled = unpatchify(rebuilt, patches, PATCH), masking.fill(encoder, shown)
    at = (hidden & batch.known)[same]
    assert torch.allclose(filled[same][at], fields[same][at], atol=1e-5)


def test_fill_refuses_a_window_without_observations(batch: Batch) -> None:
    """It says which."""
    encoder, masking = objective(batch.grid, [MaskConfig()])
    valid = batch.valid.clone()
    valid[2] = False
    with pytest.raises(EarthSSLError, match="got none in window 2"):
        masking.fill(encoder, replace(batch, values=batch.values * valid, valid=valid))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_says_what_validation_scores(kind: str, batch: Batch) -> None:
    """The loss on exactly those cells, by hand, is the loss of `forward`; what is seen and scored is all."""
    encoder, masking = objective(batch.grid, [MaskConfig(kind, ratio=0.5)])
    encoder.eval(), masking.eval()
    scored, seen = masking.hidden(batch, PATCH)
    assert torch.equal(scored | seen, batch.valid)
    assert not (scored & seen).any()
    patches = patchify(batch, PATCH)
    mask = draw(masking._kind(batch.number), patches, batch.keys)
    with torch.no_grad():
        fields = unpatchify(gather(masking.rebuild(encoder, patches, mask), mask.order.argsort(1)), patches, PATCH)
    weight = scored * torch.from_numpy(batch.grid.area).float()
    error = (weight * (fields - batch.values).nan_to_num() ** 2).sum((0, 1, 3, 4)) / weight.sum((0, 1, 3, 4))
    assert float(error.mean()) == pytest.approx(float(masking(encoder, batch).loss.detach()), rel=1e-4)


def test_interpolation_is_a_cue_of_masking(batch: Batch) -> None:
    """It can be fitted and scored on the task as it is."""
    _, masking = objective(batch.grid, [MaskConfig("cells", ratio=0.5)])
    (cue,) = masking.eval().cues()
    cue.fit(masking, [batch], PATCH)
    assert -0.5 < cue.skill(masking, batch, PATCH) < 1


def test_the_other_kinds_hide_as_they_did() -> None:
    """Digests of the masks that the kinds drew before cells could be hidden, bit for bit."""
    grid = LatLonGrid(np.linspace(60, -60, 5), np.arange(6.0) * 60)
    fields = torch.zeros(2, 3, 3, 5, 6)
    known = torch.ones(3, 5, 6, dtype=torch.bool)
    drawn = from_fields(fields, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([11, 12]), known, NAMES, grid)
    patches = patchify(drawn, (1, 2, 2))
    for kind, expected in DRAWN.items():
        mask = draw(MaskConfig(kind, ratio=0.5), patches, drawn.keys)
        none = torch.zeros(2, 3, dtype=torch.bool)
        hidden = none if mask.hidden_variables is None else mask.hidden_variables
        said = (mask.order.tolist(), mask.visible, hidden.tolist())
        assert hashlib.sha256(repr(said).encode()).hexdigest()[:16] == expected
        assert mask.hidden_cells is None


def test_bad_settings_are_refused() -> None:
    """No mask with weight, or a width that the heads do not divide."""
    with pytest.raises(EarthSSLError, match="at least one kind"):
        MaskingConfig(masks=[])
    with pytest.raises(EarthSSLError, match="at least one kind"):
        MaskingConfig(masks=[MaskConfig(weight=0.0)])
    with pytest.raises(EarthSSLError, match="multiple of 4 heads"):
        MaskingConfig(decoder_width=30)
