"""Fine-tuning's parts: LoRA, new variables, heads of every kind, and what each mode trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earthssl.downstream.features.store_windows import StoreWindows
from earthssl.downstream.finetune.config import FinetuningConfig
from earthssl.downstream.finetune.finetune import finetune
from earthssl.downstream.finetune.head import TaskNetwork, cells_of, cut_fields, near
from earthssl.downstream.finetune.predictor import load_finetuned
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.downstream.finetune.rows import label_rows
from earthssl.downstream.finetune.samples import LabelSamples, later
from earthssl.downstream.finetune.tuning import FrozenTokens, Probe, Problem, make_network, outputs, solve_again, tune
from earthssl.downstream.training.fine_tuning import MODES, FinetuneConfig, fine_tune
from earthssl.downstream.training.lora import LowRank, adapt, merge
from earthssl.ssl.checkpoint.start_from import start_from
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.model.tokens import Patches, patchify
from earthssl.ssl.store.store import Store
from scipy.special import softmax

PATCH = (1, 2, 3)


def new_encoder(variables: tuple[str, ...] = ("sst", "u10", "v10"), seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return EncoderConfig("nano", 3, PATCH).build(variables)


@pytest.fixture(scope="module")
def patches(small_windows: Callable[..., Any]) -> Patches:
    return patchify(small_windows("train").batch(list(range(6))), PATCH)


def config(**more: Any) -> FinetuneConfig:
    usual: dict[str, Any] = {"steps": 4, "batch_size": 16, "warmup_steps": 1, "check_every": 2, "patience": 0,
                             "lr": 1e-3, "average": 0.0}  # fmt: skip
    return FinetuneConfig(**{**usual, **more})


def make_labels(folder: Path, data: xr.Dataset, kind: str) -> Path:
    """Labels of each kind that the fields tell."""
    box = data["u10"].isel(lat=slice(2, 5), lon=slice(0, 3)).mean(("lat", "lon")).values
    days = np.datetime_as_string(data["time"].values, "D")
    if kind == "field":
        made = (data["u10"] * 2 + 1).rename("rain").assign_attrs(units="mm")
        made[:, 0, 0] = np.nan
        made.to_dataset().to_netcdf(folder / "rain.nc")
        return folder / "rain.nc"
    file = folder / f"{kind}.csv"
    if kind == "places":
        lines = ["time,lat,lon,wind"]
        for k, day in enumerate(days):
            for row, column in ((2, 1), (5, 7)):
                value = float(data["u10"][k, row, column])
                lines.append(f"{day},{float(data.lat[row])},{float(data.lon[column])},{value}")
        file.write_text("\n".join(lines))
        return file
    words = np.where(box > np.median(box), "strong", "calm") if kind == "classification" else box
    file.write_text("\n".join(["time,wind", *[f"{day},{value}" for day, value in zip(days, words, strict=True)]]))
    return file


@pytest.fixture(scope="module")
def problems(
    small_store: Path, small_data: xr.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Problem]:
    """Maker of a problem of a kind; each is made once."""
    store, made = Store(small_store), {}
    folder = tmp_path_factory.mktemp("labels")
    windows = StoreWindows(store, 3)

    def make(kind: str) -> Problem:
        if kind not in made:
            own = "regression" if kind == "places" else kind
            target = "rain" if kind == "field" else "wind"
            labels = read_labels(str(make_labels(folder, small_data, kind)), [target], own)
            samples = LabelSamples.match(labels, store, 3, 0)
            made[kind] = Problem(samples, windows, near=2, components=(5,))
        return made[kind]

    return make


def last_probe(problem: Problem, encoder: Encoder) -> Probe:
    layer = encoder.depth - 1
    tokens = FrozenTokens.extract(encoder, problem.windows, problem.samples, [layer], problem.near, "probe")
    return problem.linear(tokens, encoder.config.patch, [layer])


def network_of(problem: Problem, encoder: Encoder) -> TaskNetwork:
    return make_network(problem, encoder, last_probe(problem, encoder))


def silence(network: TaskNetwork) -> None:
    """Let a head begin at 0 instead of the linear probe, so that there is something to learn."""
    with torch.no_grad():
        network.head.linear.weight.zero_()
        network.head.linear.bias.zero_()


# ---- LoRA --------------------------------------------------------------------------------------------------


def test_lora_starts_as_the_encoder_and_merges_to_what_was_adapted(patches: Patches) -> None:
    plain, encoder = new_encoder().eval(), new_encoder().eval()
    adapt(encoder, 3, 6.0, seed=1)
    layers = [module for module in encoder.modules() if isinstance(module, LowRank)]
    assert len(layers) == 6
    with torch.no_grad():
        assert torch.equal(encoder(patches), plain(patches))
        for layer in layers:
            layer.up.normal_(std=0.05)
        adapted = encoder(patches)
        assert not torch.allclose(adapted, plain(patches), atol=1e-3)
        merge(encoder)
        assert set(encoder.state_dict()) == set(plain.state_dict())
        assert float((encoder(patches) - adapted).abs().max()) < 1e-6 * float(adapted.abs().max())


def test_lora_trains_its_additions_and_the_head_alone(problems: Callable[[str], Problem]) -> None:
    problem, encoder = problems("regression"), new_encoder().eval()
    network = network_of(problem, encoder)
    scores = iter(range(9, 0, -1))  # so that the last step counts, not the first

    def loss(rows: np.ndarray) -> torch.Tensor:
        out = network(problem.patches(rows, PATCH))
        return ((out - torch.from_numpy(problem.samples.departures(rows)).float()) ** 2).mean()

    own, train = config(mode="lora", rank=2), problem.samples.parts["train"]
    done = fine_tune(network, network.encoder, train, loss, lambda: float(next(scores)), own, 0, "test")
    assert done.steps > 0
    moved = {name for name, value in network.encoder.state_dict().items()
             if not torch.equal(value, encoder.state_dict()[name])}  # fmt: skip
    assert moved
    assert all("attn.qkv.weight" in name or "attn.proj.weight" in name for name in moved)
    assert done.trained == sum(p.numel() for p in network.head.parameters()) + 3 * 2 * (64 + 192 + 64 + 64)
    assert done.frozen["sha256_before"] == done.frozen["sha256_after"]
    assert done.frozen["merged_afterwards"] == len(moved) == 6


# ---- What each mode trains, and the proof -------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_reproducible_and_proves_what_stayed_frozen(
    problems: Callable[[str], Problem], mode: str
) -> None:
    problem, encoder = problems("regression"), new_encoder().eval()
    made = []
    for _ in range(2):
        network = network_of(problem, encoder)
        made.append((network, tune(problem, network, config(mode=mode), 3, "test")))
    (first, one), (second, two) = made
    assert one == two
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert one.frozen["steps_without_gradient"] == 4
    assert one.frozen["tensors"] == {"head": 48, "last": 34, "full": 0, "lora": 48}[mode]
    if mode == "head":
        state = encoder.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in first.encoder.state_dict().items())


def test_a_frozen_weight_that_gets_a_gradient_or_moves_is_an_error(problems: Callable[[str], Problem]) -> None:
    problem = problems("regression")
    network = network_of(problem, new_encoder().eval())

    def disturbed(rows: Any) -> Any:
        with torch.no_grad():
            network.encoder.norm.weight.add_(1e-7)
        return network(problem.patches(rows, PATCH)).square().mean()

    rows = problem.samples.parts["train"]
    with pytest.raises(EarthSSLError, match="not what they were before"):
        fine_tune(network, network.encoder, rows, disturbed, lambda: 1.0, config(mode="head"), 0, "test")

    def thawed(rows: Any) -> Any:
        network.encoder.norm.weight.requires_grad_(True)
        return network(problem.patches(rows, PATCH)).square().mean()

    with pytest.raises(EarthSSLError, match=r"encoder\.norm\.weight got a gradient"):
        fine_tune(network, network.encoder, rows, thawed, lambda: 1.0, config(mode="head"), 0, "test")


# ---- New variables ------------------------------------------------------------------------------------------


def test_new_variables_change_nothing_at_first_and_are_trained_in_every_mode(
    small_pretrain: Callable[..., Path], small_data: xr.Dataset, small_store: Path, problems: Callable[[str], Problem],
    patches: Patches, tmp_path: Path,
) -> None:  # fmt: skip
    from earthssl.ssl.fields.splits import SplitsConfig
    from earthssl.ssl.prepare.config import PrepareConfig
    from earthssl.ssl.prepare.prepare import prepare

    small_data.to_netcdf(tmp_path / "small.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "small.nc"), "variables": ["sst", "u10"]}
    fewer = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options))
    folder = small_pretrain(tmp_path / "run", store=fewer)
    encoder, donor = new_encoder(seed=5), new_encoder(("sst", "u10"))
    transfer = start_from(folder, encoder, Store(small_store).grid, 30.4)
    assert any("embedding of v10: zero weights" in words for words in transfer.new)
    start_from(folder, donor, Store(small_store).grid, 30.4)
    known = copy.copy(patches)
    for name, value in (("values", patches.values[:, :, :2]), ("valid", patches.valid[:, :, :2]),
                        ("variables", ("sst", "u10"))):  # fmt: skip
        object.__setattr__(known, name, value)
    with torch.no_grad():
        np.testing.assert_allclose(encoder.eval()(patches), donor.eval()(known), atol=1e-6)
    problem = problems("regression")
    network = network_of(problem, encoder)
    done = tune(problem, network, config(mode="head", check_every=1, lr=1e-2), 0, "test", new=("v10",))
    assert done.frozen["tensors"] == 47
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]) == (name != "embedding.blocks.v10" or not done.steps), (
            name
        )
    live = network_of(problem, encoder)
    tune(problem, live, config(mode="head", check_every=4, lr=1e-2), 0, "test", new=("v10",))
    assert live.encoder.embedding.blocks["v10"].requires_grad
    assert not live.encoder.embedding.blocks["sst"].requires_grad
    labels = make_labels(tmp_path, small_data, "regression")
    out = finetune(FinetuningConfig(
        checkpoint=str(folder), store=str(small_store), labels=str(labels), target="wind", out=str(tmp_path / "out"),
        mode="head", steps=2, warmup_steps=1, check_every=1, seeds=1, scratch_seeds=0, untrained_seeds=0,
        layers=[-1], unit="month", random_seeds=0, fractions=[],
    ))  # fmt: skip
    assert "New variables, not seen by pretraining: v10; zero at first" in (out / "table.txt").read_text()
    tuned = load_finetuned(out)
    assert tuned.task["variables_added"] == ["v10"]
    assert tuned.record.variables == ("sst", "u10", "v10")
    assert tuned.record.statistics.scale.shape[0] == 3
    with pytest.warns(UserWarning, match="predicting without v10"):
        tuned.predict(small_data[["sst", "u10"]].isel(time=slice(0, 5)))


# ---- Heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["regression", "classification", "field", "places"])
def test_a_network_says_at_first_what_its_linear_probe_says(problems: Callable[[str], Problem], kind: str) -> None:
    problem, encoder = problems(kind), new_encoder().eval()
    probe = last_probe(problem, encoder)
    network = make_network(problem, encoder, probe).eval()
    out = outputs(problem, network, problem.samples.parts["test"])
    if kind == "classification":
        np.testing.assert_allclose(softmax(out, -1), probe.head.predicted, atol=0.02)
    else:
        # The probe reads the tokens in half precision.
        np.testing.assert_allclose(out, probe.head.predicted, atol=0.02)
    assert probe.pooling in {"field": ("patch",), "places": ("near", "near+mean")}.get(
        kind, ("mean", "last", "mean+pcs")
    )


@pytest.mark.parametrize("kind", ["regression", "classification", "places"])
def test_a_head_solved_again_on_unchanged_features_is_the_probe_and_is_taken_only_if_better(
    problems: Callable[[str], Problem], kind: str
) -> None:
    problem, encoder = problems(kind), new_encoder().eval()
    probe = last_probe(problem, encoder)
    network = make_network(problem, encoder, probe).eval()
    before = outputs(problem, network, problem.samples.parts["test"])
    silence(network)
    error = solve_again(problem, network, 1e9)
    assert error == pytest.approx(probe.head.error, rel=0.02)
    np.testing.assert_allclose(outputs(problem, network, problem.samples.parts["test"]), before, atol=0.02)
    kept = copy.deepcopy(network.state_dict())
    assert solve_again(problem, network, error * 0.99) is None
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


def test_fields_keep_their_head(problems: Callable[[str], Problem]) -> None:
    problem = problems("field")
    assert solve_again(problem, network_of(problem, new_encoder().eval()), 1e9) is None


@pytest.mark.parametrize("kind", ["classification", "field", "places"])
def test_every_kind_learns(problems: Callable[[str], Problem], kind: str) -> None:
    problem = problems(kind)
    network = network_of(problem, new_encoder().eval())
    silence(network)
    done = tune(problem, network, config(steps=12, check_every=4, lr=5e-4, warmup_steps=3), 0, "test")
    assert done.score < done.history[0][1]


def test_fields_are_cut_into_patches_and_put_together_again(patches: Patches) -> None:
    fields = torch.randn(2, 7, 12)
    again = cells_of(cut_fields(fields, patches), patches)
    assert torch.equal(again, fields)
    fields[0, 3, 4] = torch.nan
    again = cells_of(cut_fields(fields, patches), patches)
    assert torch.equal(torch.isnan(again), torch.isnan(fields))


def test_the_nearest_patches_are_nearest_on_the_sphere(patches: Patches) -> None:
    from earthssl.ssl.model.tokens import token_places

    lat, lon = (x[: patches.count // 3] for x in token_places(patches))
    places = torch.tensor([[10.0, 359.0], [-89.0, 120.0]])
    found = near(patches, places, 3)
    for row, (y, x) in zip(found, places.numpy(), strict=True):
        cosine = np.sin(np.deg2rad(y)) * np.sin(np.deg2rad(lat)) + np.cos(np.deg2rad(y)) * np.cos(
            np.deg2rad(lat)
        ) * np.cos(np.deg2rad(x - lon))
        assert set(np.round(np.sort(cosine)[-3:], 5)) == set(np.round(cosine[row.numpy()], 5))


# ---- Samples ------------------------------------------------------------------------------------------------


def test_labels_meet_the_window_that_ends_lead_steps_before_them(
    small_store: Path, small_data: xr.Dataset, tmp_path: Path
) -> None:
    store = Store(small_store)
    labels = read_labels(str(make_labels(tmp_path, small_data, "regression")), ["wind"], "regression")
    samples = LabelSamples.match(labels, store, 3, 2)
    assert (samples.times.astype("datetime64[M]") - store.times[samples.last].astype("datetime64[M]")).astype(
        int
    ).tolist() == [2] * len(samples.rows)
    for part in ("train", "val", "test"):
        rows = samples.parts[part]
        first = store.times[samples.last[rows] - 2]
        assert store.splits.inside(first.astype("datetime64[ns]"), part).all()
        assert store.splits.inside(samples.times[rows].astype("datetime64[ns]"), part).all()
    past, when = samples.past_values(samples.parts["test"])
    assert (
        when.astype("datetime64[M]") == store.times[samples.last[samples.parts["test"]]].astype("datetime64[M]")
    ).all()
    now = LabelSamples.match(labels, store, 3, 0)
    _, before = now.past_values(now.parts["test"])
    assert (before < now.times[now.parts["test"]]).all()
    assert (later(store.times[:3], store.times, 2) == store.times[2:5]).all()
    assert past.shape == (len(samples.parts["test"]), 1)


@pytest.mark.parametrize(
    ("change", "lead", "words"),
    [
        (lambda lines: lines[:100], 0, r"at least 8 labels in the val block 2002-01-01…2005-12-31, got 0 of 99"),
        (lambda lines: [lines[0], *[line.replace("19", "18", 1) for line in lines[1:200]]], 0, "none of which fits"),
        (lambda lines: [lines[0], *[line.split(",")[0] + ",1.5" for line in lines[1:]]], 0, "that vary"),
        (lambda lines: [*lines, "2010-12-15,3"], 0, "one label a step of the store"),
        (lambda lines: lines, 20, "expected at least .* days"),
        (lambda lines: lines, -1, "lead: expected steps from 0"),
    ],
)
def test_labels_that_do_not_fit_the_store_are_refused(
    small_store: Path, small_data: xr.Dataset, tmp_path: Path, change: Any, lead: int, words: str
) -> None:
    file = make_labels(tmp_path, small_data, "regression")
    file.write_text("\n".join(change(file.read_text().split("\n"))))
    labels = read_labels(str(file), ["wind"], "regression")
    with pytest.raises(EarthSSLError, match=words):
        LabelSamples.match(labels, Store(small_store), 3, lead)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_places_that_differ_for_good_have_a_climatology_of_their_own(
    small_store: Path, tmp_path: Path, kind: str
) -> None:
    store, file = Store(small_store), tmp_path / "labels.csv"
    lines = ["time,lat,lon,wind"]
    for k, day in enumerate(np.datetime_as_string(store.times, "D")):
        for lat, level in ((0, 10), (60, 20)):
            value = ("strong" if lat else "calm") if kind == "classification" else level + k % 2
            lines.append(f"{day},{lat},30,{value}")
    lines.append(f"{day},-50,30,{'calm' if kind == 'classification' else 0}")  # once, in the test block: as all places
    file.write_text("\n".join(lines))
    samples = LabelSamples.match(read_labels(str(file), ["wind"], kind), store, 3, 0)
    climatology, row, *_ = label_rows(samples, False)
    assert row.name == "climatology of the place"
    truth, test = samples.target[samples.parts["test"]], samples.places[samples.parts["test"]]
    twice = test[:, 0] != -50
    assert (~twice).sum() == 1
    said, everywhere = row.forecast["wind"], climatology.forecast["wind"]
    np.testing.assert_array_equal(said[~twice], everywhere[~twice])
    if kind == "classification":
        assert (said[twice].argmax(1) == truth[twice]).all()
    else:
        assert np.abs(said - truth[:, 0])[twice].max() < 1.5
        assert np.abs(everywhere - truth[:, 0])[twice].min() > 3
    object.__setattr__(samples.labels, "places", np.random.default_rng(0).uniform(0, 90, samples.labels.places.shape))
    assert [one.name for one in label_rows(samples, False)] == ["climatology"]


def test_classes_that_training_lacks_are_named(small_store: Path, small_data: xr.Dataset, tmp_path: Path) -> None:
    file = make_labels(tmp_path, small_data, "classification")
    lines = file.read_text().split("\n")
    lines[280] = lines[280].split(",")[0] + ",hurricane"
    file.write_text("\n".join(lines))
    labels = read_labels(str(file), ["wind"], "classification")
    with pytest.raises(EarthSSLError, match=r"line 281: expected the classes of training \(calm, strong\) in val"):
        LabelSamples.match(labels, Store(small_store), 3, 0)
