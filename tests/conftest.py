"""Shared fixtures."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Before any numeric library is imported: one thread, so that sums are the same everywhere.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("32-true", "bf16-mixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suite passes in either precision on any processor (slowly in bf16 where that has no instructions for it)."""
    parser.addoption("--auto-precision", choices=PRECISIONS, help="what `precision: auto` stands for in the tests")


def pytest_configure(config: pytest.Config) -> None:
    """Hand the option on to all processes, those that tests start too."""
    if word := config.getoption("--auto-precision"):
        os.environ["EARTHSSL_AUTO_PRECISION"] = word
    gc.disable()  # until all is imported, and nearly nothing is garbage: it is a third of the collection's time


def pytest_collection_finish() -> None:
    """Collect garbage again, but for what was there before the first test, and stays."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def signals_are_forgotten() -> Iterator[None]:
    """What one test leaves as a handler does not reach the next; work that was stopped forgets what it heard."""
    from earthssl.ssl.runtime.signals import EARS, HEARD

    before = {number: signal.getsignal(number) for number in HEARD}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    heard, EARS.heard = EARS.heard, 0
    assert not heard, "it would stop the next training in this process"


@pytest.fixture(scope="session")
def auto_precision() -> str:
    """What `precision: auto` stands for on this CPU with the nano encoder of the tests; tolerances follow it."""
    from earthssl.ssl.training.precision import resolve

    return resolve("auto", "cpu", 64)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample files beside the repository; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real sample data (../shared/data) are not at hand")
    return folder


# ---- A tiny store, made once a session; its own test is tests/ssl/store/test_small_store.py --------------------


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One thread wherever torch is in use: the same sums in the same order, and no fight for cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_data() -> Any:
    """30 years of months on a 7×12 globe (xarray, canonical): sst with land, u10 and v10, unequal variances.

    Every field is its seasonal cycle, plus noise, plus a wave that travels west and one fixed pattern in red
    noise (shared by sst and u10): something to rebuild from neighbours, partners and the past.
    """
    import numpy as np
    import xarray as xr

    rng = np.random.default_rng(7)
    times = np.arange("1981-01", "2011-01", dtype="datetime64[M]").astype("datetime64[ns]")
    lat, lon = np.linspace(90, -90, 7), np.arange(0.0, 360, 30)
    month = np.arange(len(times))[:, None, None]
    y, x = np.deg2rad(lat)[:, None], np.deg2rad(lon)[None, :]
    season = np.cos(2 * np.pi * month / 12) * np.sin(y)
    red = np.zeros(len(times))
    for k in range(1, len(times)):
        red[k] = 0.9 * red[k - 1] + 0.44 * rng.normal()
    pattern = red[:, None, None] * np.cos(y) * np.cos(x)
    wave = np.cos(x * 2 + 2 * np.pi * month / 9 + 0 * y)
    noise = 0.3 * rng.normal(size=(3, *wave.shape))
    sst = 290 + 5 * season + pattern + wave + noise[0]
    sst[:, 1:5, 2:5] = np.nan  # land
    fields = {
        "sst": (sst, "K"),
        "u10": (4 * (season + pattern + wave + noise[1]), "m s-1"),
        "v10": (0.2 * (season + np.roll(wave, 1, 2) + noise[2]), "m s-1"),
    }
    dims = ("time", "lat", "lon")
    arrays = {name: (dims, values.astype(np.float32), {"units": units}) for name, (values, units) in fields.items()}
    return xr.Dataset(arrays, {"time": times, "lat": lat, "lon": lon}, {"title": "small", "licence": "none"})


@pytest.fixture(scope="session")
def small_store(small_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the training store made of `small_data`: train 1981–2000, val 2002–2005, test 2007–2010."""
    from earthssl.ssl.fields.splits import SplitsConfig
    from earthssl.ssl.prepare.config import PrepareConfig
    from earthssl.ssl.prepare.prepare import prepare

    folder = tmp_path_factory.mktemp("small")
    small_data.to_netcdf(folder / "small.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(folder / "small.nc"), "variables": ["sst", "u10", "v10"]}
    return prepare(PrepareConfig("files", str(folder / "store"), splits, options, chunk_mb=0.05))


@pytest.fixture(scope="session")
def small_windows(small_store: Path) -> Callable[..., Any]:
    """Maker of windows of the small store: `small_windows("train", length=3, seed=0)`."""
    from earthssl.ssl.data.windows import Windows
    from earthssl.ssl.store.store import Store

    def make(part: str = "train", length: int = 3, seed: int = 0) -> Any:
        return Windows(Store(small_store), part, length, seed)

    return make


@pytest.fixture(scope="session")
def small_config(small_store: Path) -> Callable[..., Any]:
    """Maker of a `PretrainConfig` on the small store: `small_config(out, objectives, resume, **training)`."""
    from earthssl.ssl.constraints.config import ConstraintConfig
    from earthssl.ssl.model.encoder import EncoderConfig
    from earthssl.ssl.training.config import TrainingConfig
    from earthssl.ssl.training.multitask import MultitaskConfig
    from earthssl.ssl.training.pretrain import PretrainConfig

    usual = {"steps": 12, "batch_size": 8, "warmup_steps": 2, "val_every": 6, "save_every": 3, "log_every": 2}

    def make(
        out: Path,
        objectives: dict[str, Any] | None = None,
        *,
        resume: bool = False,
        store: Path | None = None,
        drop_path: float = 0.0,
        multitask: Any = None,
        constraints: Sequence[dict[str, Any]] = (),
        **training: Any,
    ) -> Any:
        settings = TrainingConfig(**{**usual, "accelerator": "cpu", **training})
        tasks = objectives if objectives is not None else {"masking": {}}
        encoder = EncoderConfig("nano", 3, (1, 2, 3), drop_path)
        shared = multitask or MultitaskConfig()
        held = [ConstraintConfig(**own) for own in constraints]
        return PretrainConfig(
            str(store or small_store), str(out), tasks, shared, encoder, settings, licence="none", constraints=held,
            resume=resume,
        )  # fmt: skip

    return make  # fmt: skip


@pytest.fixture(scope="session")
def small_pretrain(small_config: Callable[..., Any]) -> Callable[..., Path]:
    """Pretrainer on the small store: takes what `small_config` takes, returns the checkpoint folder."""
    from earthssl.pretext import TASKS
    from earthssl.ssl.training.pretrain import pretrain

    def run(out: Path, objectives: dict[str, Any] | None = None, label: Any = None, **more: Any) -> Path:
        return pretrain(small_config(out, objectives, **more), TASKS, label)

    return run


@pytest.fixture(scope="session")
def small_run(small_pretrain: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on the small store (masking, 12 steps), to be looked at, never changed."""
    return small_pretrain(tmp_path_factory.mktemp("run") / "run").parent


@pytest.fixture(scope="session")
def columns_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns in the layout of RFMIP-IRF, 14 sites × 4 experiments, 12 layers, with the fluxes of a grey atmosphere."""
    import numpy as np
    import xarray as xr

    sites, layers, rng = 14, 12, np.random.default_rng(0)
    names = ["Present day (PD)", "4xCO2", "+4K", "PI"]
    ps = rng.uniform(9e4, 1.03e5, sites)
    level = 1 + (ps[:, None] - 1) * np.linspace(0, 1, layers + 1) ** 1.5
    layer = (level[:, 1:] + level[:, :-1]) / 2
    sigma = layer / ps[:, None]
    warm = np.array([0.0, 0, 4, 0])[:, None, None]
    t = 220 + warm + 70 * sigma + rng.normal(0, 4, (1, sites, 1)) + rng.normal(0, 1, (1, sites, layers))
    vapour = np.broadcast_to(1e-5 + 0.01 * sigma**3 * rng.uniform(0.3, 1.5, (sites, 1)), t.shape)
    skin = t[:, :, -1] + rng.normal(0, 3, (1, sites))
    co2 = np.array([400.0, 1600, 400, 280])
    albedo, emissivity = rng.choice([0.06, 0.3, 0.7], sites), np.full(sites, 0.98)
    zenith, irradiance = np.linspace(15, 120, sites), np.full(sites, 1361.0)
    thin = np.exp(-(0.1 * np.log(co2)[:, None, None] + 60 * vapour) * np.diff(level) / ps[:, None] * 1.66)
    source = 5.670374419e-8 * t**4 * (1 - thin)
    down, up = np.zeros((2, 4, sites, layers + 1))
    for k in range(layers):
        down[..., k + 1] = down[..., k] * thin[..., k] + source[..., k]
    up[..., -1] = 0.98 * 5.670374419e-8 * skin**4 + 0.02 * down[..., -1]
    for k in reversed(range(layers)):
        up[..., k] = up[..., k + 1] * thin[..., k] + source[..., k]
    sun = irradiance * np.maximum(np.cos(np.deg2rad(zenith)), 0)
    clear = np.concatenate([np.ones((4, sites, 1)), np.cumprod(thin**0.1, axis=-1)], axis=-1)
    back = albedo[:, None] * sun[:, None] * clear[..., -1:] ** 2 / clear
    gases = {"methane": 1800.0, "nitrous_oxide": 320.0, "cfc11eq": 800.0, "cfc12eq": 1000.0}
    arrays = {
        "pres_layer": (("site", "layer"), layer), "pres_level": (("site", "level"), level),
        "temp_layer": (("expt", "site", "layer"), t), "water_vapor": (("expt", "site", "layer"), vapour),
        "ozone": (("expt", "site", "layer"), np.full(t.shape, 1e-6)), "surface_temperature": (("expt", "site"), skin),
        "surface_emissivity": ("site", emissivity), "surface_albedo": ("site", albedo),
        "solar_zenith_angle": ("site", zenith), "total_solar_irradiance": ("site", irradiance),
        "carbon_dioxide_GM": ("expt", co2), **{f"{name}_GM": ("expt", np.full(4, own)) for name, own in gases.items()},
        "rld": (("expt", "site", "level"), down), "rlu": (("expt", "site", "level"), up),
        "rsd": (("expt", "site", "level"), sun[:, None] * clear), "rsu": (("expt", "site", "level"), back),
    }  # fmt: skip
    file = tmp_path_factory.mktemp("columns") / "columns.nc"
    xr.Dataset(arrays, {"expt_label": ("expt", names)}).to_netcdf(file)
    return file


@pytest.fixture(scope="session")
def radar_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of a radar, two events of 22, 5 minutes apart, 36×48 cells: rain that moves a column east a frame.

    The radar does not see the four northernmost rows.
    """
    import numpy as np
    import xarray as xr
    from scipy.ndimage import gaussian_filter

    rng, rain = np.random.default_rng(0), []
    for _ in range(2):
        field = gaussian_filter(rng.normal(size=(36, 48)), 2.5, mode="wrap")
        field = np.maximum(field / field.std() - 0.3, 0) ** 2 * 2
        rain += [np.roll(field, k, axis=1) for k in range(22)]
    values = np.array(rain, np.float32)
    values[:, :4] = np.nan
    starts = np.array(["2016-09-28T00:00", "2017-05-09T00:00"], "datetime64[ns]")
    times = (starts[:, None] + np.arange(22) * np.timedelta64(5, "m")).ravel()
    arrays = {"rain_rate": (("frame", "y", "x"), values, {"units": "mm h-1"})}
    file = tmp_path_factory.mktemp("radar") / "radar.nc"
    xr.Dataset(arrays, {"time": ("frame", times)}, {"license": "CC0-1.0"}).to_netcdf(file)
    return file
