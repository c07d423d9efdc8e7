"""The encoder: a set function of tokens that takes any subset of them, and of the variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import Batch
from earthssl.ssl.model import encoder as module
from earthssl.ssl.model.encoder import SIZES, Encoder, EncoderConfig, fuse_attention, transformer
from earthssl.ssl.model.tokens import LAYOUT, PLACE, SEASON, Patches, patchify
from torch import Tensor

NAMES = ("sst", "u10", "v10")
PATCH = (1, 2, 3)
GOLDEN = {
    "embedding.blocks.sst": [-0.0020252, 0.1451085, -0.2226344],
    "encodings.place.weight": [0.400082, -0.7222375, 0.309308],
    "encodings.season.weight": [0.067158, -0.5322806, -1.1828086],
    "blocks.2.mlp.fc2.weight": [-0.1033706, 0.0251533, 0.1343079],
}


@pytest.fixture
def encoder() -> Encoder:
    """A new encoder, always the same, in evaluation mode."""
    torch.manual_seed(0)
    return EncoderConfig("nano", 3, PATCH).build(NAMES).eval()


@pytest.fixture
def patches(small_windows: Callable[..., Any]) -> Patches:
    """Patches of four windows of the small store."""
    return patchify(small_windows("train").batch([0, 60, 120, 180]), PATCH)


def near(a: Tensor, b: Tensor) -> None:
    """Assert equality to the rounding of sums in another order."""
    torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_tokens_in_another_order_come_out_in_that_order(encoder: Encoder, patches: Patches) -> None:
    """Equivariance: permuting the kept ids permutes the features."""
    ids = torch.stack(
        [torch.randperm(patches.count, generator=torch.Generator().manual_seed(k))[:20] for k in range(4)]
    )
    shuffle = torch.randperm(20, generator=torch.Generator().manual_seed(9))
    near(encoder(patches, ids)[:, shuffle], encoder(patches, ids[:, shuffle]))
    whole = torch.arange(patches.count).expand(4, -1)
    near(encoder(patches, whole), encoder(patches))


@torch.no_grad()
def test_dropped_tokens_are_as_if_they_had_never_been(encoder: Encoder, patches: Patches) -> None:
    """Features of kept tokens equal a run on patches that hold those tokens only; what was dropped is not read."""
    keep = torch.arange(3, patches.count, 4)
    subset = replace(
        patches,
        **{name: getattr(patches, name)[:, keep] for name in ("values", "valid", "season")},
        **{name: getattr(patches, name)[keep] for name in ("area", "place", "layout", "slot", "step", "cell")},
    )
    kept = encoder(patches, keep.expand(4, -1))
    near(kept, encoder(subset))
    poisoned = patches.values.clone()
    dropped = torch.ones(patches.count, dtype=torch.bool)
    dropped[keep] = False
    poisoned[:, dropped] = float("nan")
    assert torch.equal(kept, encoder(replace(patches, values=poisoned), keep.expand(4, -1)))


@torch.no_grad()
def test_samples_do_not_mix(encoder: Encoder, patches: Patches) -> None:
    """Each sample's features are those it has alone."""
    alone = replace(patches, values=patches.values[2:3], valid=patches.valid[2:3], season=patches.season[2:3])
    near(encoder(patches)[2:3], encoder(alone))


@torch.no_grad()
def test_any_subset_of_the_variables(encoder: Encoder, small_windows: Callable[..., Any]) -> None:
    """An absent variable equals one that was never observed, in any order of those present."""
    batch: Batch = small_windows("train").batch([0, 100])
    for present in (("u10",), ("v10", "sst"), ("v10", "u10", "sst")):
        places = [NAMES.index(name) for name in present]
        # Land where only sst is known: keep the same tokens in both by calling every cell known.
        part = replace(
            batch,
            values=batch.values[:, :, places],
            valid=batch.valid[:, :, places],
            variables=present,
            known=torch.ones(len(present), 7, 12, dtype=torch.bool),
        )
        shown = torch.tensor([name in present for name in NAMES])[:, None, None]
        whole = replace(batch, values=batch.values * shown, valid=batch.valid & shown)
        near(encoder(patchify(part, PATCH)), encoder(patchify(whole, PATCH)))


@torch.no_grad()
def test_an_unknown_variable_is_refused(encoder: Encoder, patches: Patches) -> None:
    """By name, with the nearest one known."""
    with pytest.raises(EarthSSLError, match=r"knows sst, u10, v10, got u1; leave it out\. Did you mean 'u10'"):
        encoder(replace(patches, variables=("sst", "u1", "v10")))


@torch.no_grad()
def test_explicit_and_fused_attention_agree(
    encoder: Encoder, patches: Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways give the same features; bf16 on a CPU takes the explicit one."""
    outputs = {}
    for fused in (True, False):

        def choose(blocks: torch.nn.Module, x: Tensor, fused: bool = fused) -> None:
            for part in blocks.modules():
                if "fused_attn" in part.__dict__:
                    part.__dict__["fused_attn"] = fused

        monkeypatch.setattr(module, "fuse_attention", choose)
        outputs[fused] = encoder(patches)
    near(outputs[True], outputs[False])
    assert not torch.equal(outputs[True], torch.zeros_like(outputs[True]))

    def chosen() -> set[bool]:
        return {part.__dict__["fused_attn"] for part in encoder.modules() if "fused_attn" in part.__dict__}

    fuse_attention(encoder, torch.zeros(1))
    assert chosen() == {True}
    fuse_attention(encoder, torch.zeros(1, dtype=torch.bfloat16))
    assert chosen() == {False}
    with torch.autocast("cpu", torch.bfloat16):
        fuse_attention(encoder, torch.zeros(1))
    assert chosen() == {False}


def test_gradients_reach_every_parameter_in_use(encoder: Encoder, patches: Patches) -> None:
    """All but those of the encodings not asked for, and of them when they are."""
    encoder.train()
    (encoder(patches) ** 2 * torch.randn(encoder.width)).sum().backward()
    without = {name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"encodings.layout.weight", "encodings.layout.bias"}
    encoder.zero_grad()
    hidden = frozenset({PLACE, SEASON})
    (encoder(patches, hide=hidden) ** 2 * torch.randn(encoder.width)).sum().backward()
    without = {name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"encodings.place.weight", "encodings.place.bias", "encodings.season.weight"}


@torch.no_grad()
def test_hidden_place_and_season_are_not_read(encoder: Encoder, patches: Patches) -> None:
    """Features do not depend on what is hidden, and do on what is not."""
    other = replace(patches, place=patches.place + 1, season=patches.season + 1)
    for hide in (frozenset({PLACE, SEASON}), frozenset({PLACE}), frozenset({SEASON}), frozenset[str]()):
        same = torch.equal(encoder(patches, hide=hide), encoder(other, hide=hide))
        assert same == (hide == {PLACE, SEASON})


@torch.no_grad()
def test_layers_end_in_the_features(encoder: Encoder, patches: Patches) -> None:
    """One tensor a block in evaluation, the last of them what `forward` returns."""
    layers = encoder.layers(patches)
    assert len(layers) == encoder.depth == 3
    assert torch.equal(layers[-1], encoder(patches))
    assert layers[0].shape == (4, patches.count, 64)
    assert not torch.equal(layers[0], layers[1])


def test_sizes_and_initialisation() -> None:
    """Heads divide widths; Linear layers start without bias, drop path rises with depth."""
    for width, _, heads in SIZES.values():
        assert width % heads == 0
    blocks = transformer(16, 3, 2, 0.2)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks] == pytest.approx([0, 0.1, 0.2])
    assert all(not m.bias.any() for m in blocks.modules() if isinstance(m, torch.nn.Linear))
    assert EncoderConfig().to_json() == {"size": "nano", "window": 3, "patch": [1, 4, 4], "drop_path": 0.0}


def powers(patches: Patches, start: str, hide: frozenset[str] = frozenset()) -> tuple[float, float]:
    """Mean square of what values and encodings bring to a token at the start, over thirty seeds."""
    found = []
    for seed in range(30):
        torch.manual_seed(seed)
        own = EncoderConfig("nano", 3, PATCH, token_start=start).build(NAMES)
        parts = own.embedding(patches, None), own.encodings(patches, None, hide)
        found.append([float((part**2).mean()) for part in parts])
    values, encodings = torch.tensor(found).mean(0).tolist()
    return values, encodings


@torch.no_grad()
def test_values_and_encodings_begin_with_equal_power(patches: Patches) -> None:
    """One each where all cells are known and of unit variance; encodings stood at three before there was a choice."""
    noise = torch.randn(patches.values.shape, generator=torch.Generator().manual_seed(3))
    known = replace(patches, values=noise, valid=torch.ones_like(patches.valid))
    values, encodings = powers(known, "balanced")
    assert values == pytest.approx(1, abs=0.05)
    assert encodings == pytest.approx(1, abs=0.1)
    assert powers(known, "balanced", frozenset({PLACE}))[1] == pytest.approx(1, abs=0.1)
    assert powers(known, "balanced", frozenset({PLACE, LAYOUT, SEASON}))[1] == pytest.approx(1 / 3, abs=0.05)
    # Real fields: land takes cells away, the validation years are no sample of unit variance.
    values, encodings = powers(patches, "balanced")
    assert 0.7 < values / encodings < 1.3
    # The rule of before: three times the encodings, and of the values what Xavier's bound gives.
    before = powers(known, "encodings")
    assert before[1] == pytest.approx(3, abs=0.3)
    assert before[0] == pytest.approx(2 * 21 / (18 + 64), rel=0.1)


def test_encoders_of_before_begin_bit_for_bit_as_they_did() -> None:
    """Weights drawn before there was a choice: the untrained twins of their checkpoints stay what they were."""
    torch.manual_seed(0)
    drawn = EncoderConfig("nano", 3, PATCH, token_start="encodings").build(NAMES).state_dict()
    first = {name: [round(float(x), 7) for x in drawn[name].flatten()[:3]] for name in GOLDEN}
    assert first == GOLDEN
    with pytest.raises(
        EarthSSLError, match=r"token_start: expected balanced or encodings, got 'balance'\. Did you mean"
    ):
        EncoderConfig(token_start="balance")


def test_bad_shapes_are_refused() -> None:
    """One line that says what was expected."""
    with pytest.raises(EarthSSLError, match="Did you mean 'small'"):
        EncoderConfig("smal")
    with pytest.raises(EarthSSLError, match="multiple of the patch's 2 steps, got 3"):
        EncoderConfig(window=3, patch=(2, 4, 4))
    for bad in ({"window": 0}, {"patch": (1, 4)}, {"patch": (1, 0, 4)}):
        with pytest.raises(EarthSSLError, match="expected a window ≥ 1"):
            EncoderConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(EarthSSLError, match=r"drop_path: expected a chance in \[0, 1\)"):
        EncoderConfig(drop_path=1.0)
