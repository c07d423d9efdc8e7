"""pretrain: from a store and objectives to a checkpoint; resumes where it was killed."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from ..checkpoint.read import read, read_heads
from ..checkpoint.record import Record
from ..checkpoint.start_from import start_from
from ..checkpoint.write import save
from ..common.config import build
from ..common.errors import EarthSSLError
from ..common.files import digest, locked, read_json, refuse_filled, write_json
from ..common.randomness import key
from ..common.versions import versions
from ..constraints.config import ConstraintConfig
from ..constraints.field_constraints import FieldConstraints, check_training
from ..data.augmentation import AugmentConfig, check_augmentation
from ..data.data_sets import describe_sets, open_sets, open_stores
from ..data.loaders import TrainLoader
from ..data.loading import Loading
from ..data.mixture import DataSet, SetConfig, weights_of
from ..data.windows import Windows
from ..fields.normalisation import Statistics
from ..model.encoder import ENCODINGS, SIZES, EncoderConfig
from ..runtime.distributed import is_one_of_several, rank, started_outside
from ..runtime.launch import launch
from ..runtime.memory import peak_rss
from ..runtime.signals import deferred
from ..sources.planet.recorded import seed_record
from ..store.store import Store
from .config import COSINE, TrainingConfig
from .data_module import Data
from .module import Pretraining, parameter_count
from .monitor import HealthMonitor, History, OnlineProbe, ProbeLabels, ProgressBar, check_health, undisturbed
from .multitask import Multitask, MultitaskConfig, build_objectives
from .objective import Context, ObjectiveConfig, unknown_task
from .precision import AUTO, resolve
from .sharded import Sharded
from .trainer import fit

CONFIG = "config.json"

HISTORY = "history.csv"

RUN = "run.json"

EXAMPLE = "example.nc"

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class OnlineProbeConfig:
    """A probe that runs during pretraining, at every validation; empty task for none.

    Attributes:
        task: Name of a downstream task that offers labels, such as enso; "" for none.
        lead: Its lead, in the task's unit (months for enso).
    """

    task: str = ""
    lead: int = 6


@dataclass(frozen=True)
class PretrainConfig:
    """From a store to a checkpoint.

    Attributes:
        store: Folder of a training store.
        out: Folder of the run; must be new or empty unless `resume`.
        objectives: Settings of each pretext task, by its name.
        multitask: How several tasks share the encoder.
        encoder: Shape of the encoder.
        training: How to train.
        online_probe: What to probe during training.
        licence: Of the data, hence of the weights; by default what the stores say.
        stores: Data sets trained on beside `store`, by name; a batch comes from one of them, drawn by weight. Under the
            name home, the weight of `store` itself, which is 1. See ssl/data/data_sets.py.
        constraints: What the fields that pretext tasks rebuild or forecast must satisfy, see ssl/constraints/config.py.
        start_from: Folder of a checkpoint whose weights the encoder starts with; other variables, grids and patches
            are adapted by rule, see ssl/checkpoint/start_from.py; "" starts anew.
        resume: Go on from the last saved state of a run that was interrupted.
    """

    store: str
    out: str
    objectives: dict[str, Any]
    multitask: MultitaskConfig = field(default_factory=MultitaskConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    online_probe: OnlineProbeConfig = field(default_factory=OnlineProbeConfig)
    licence: str = ""
    stores: dict[str, SetConfig] = field(default_factory=dict)
    constraints: list[ConstraintConfig] = field(default_factory=list)
    start_from: str = ""
    resume: bool = False


def parse_objectives(settings: dict[str, Any], tasks: dict[str, type[ObjectiveConfig]]) -> dict[str, ObjectiveConfig]:
    """Return the tasks' configs.

    Raises:
        EarthSSLError: If a task or one of its keys is unknown.
    """
    unknown = [name for name in settings if name not in tasks]
    if unknown:
        raise unknown_task(unknown[0], list(tasks))
    return {name: build(tasks[name], value or {}, f"objectives.{name}") for name, value in settings.items()}


def pretrain(
    config: PretrainConfig,
    tasks: dict[str, type[ObjectiveConfig]],
    label: Callable[[Store, Windows], ProbeLabels] | None = None,
) -> Path:
    """Pretrain an encoder and return the folder of its checkpoint.

    Args:
        config: The run.
        tasks: The pretext tasks there are, by name.
        label: Labels for the online probe, if there is one.

    Raises:
        EarthSSLError: If config, store and output folder do not fit together.
    """
    training = config.training
    outside = started_outside()
    # Alone, it starts the processes of one machine itself.
    if training.processes > 1 and outside != training.processes and (outside or training.nodes > 1):
        raise EarthSSLError(
            f"training: expected {training.nodes} node(s) × {training.devices} device(s) = {training.processes} "
            f"processes started with srun or torchrun, got {outside}; start as many, or change devices and nodes"
        )
    if training.devices > 1 and not is_one_of_several():
        return launch(partial(pretrain, config, tasks, label), training.devices, torch.get_num_threads())
    out = Path(config.out)
    store = Store(config.store)
    opened = open_stores(store, config.stores)
    config = _resolved(config)
    training = config.training
    module, train, val = assemble(config, store, tasks)
    for own in opened.values():
        check_augmentation(training.augment, own, module.objectives.bars)
    others = open_sets(config.stores, opened, train.length, training.seed, _loading(training))
    data = Data(train, val, training, module.objectives.compares, others, weights_of(config.stores))
    probe = OnlineProbe(label(store, train.shortened(config.encoder.window)), []) if label is not None else None
    _rehearse(module, config, data)
    if module.objectives.compares and training.batch_size * training.processes < 2:
        raise EarthSSLError(
            f"training.batch_size: expected at least 2, as {', '.join(config.objectives)} compare the windows of a "
            f"batch, got {training.batch_size}; raise it"
        )
    with deferred():
        if rank(training.processes > 1) > 0:
            fit(module, data, out, [], [], config.resume)
            return out / CHECKPOINT
        _open_run(out, config, _identity(config, store, opened))
        if module.transfer is not None:
            print("\n".join(module.transfer.lines()), file=sys.stderr)
        with locked(out):
            return _train(out, config, store, module, data, probe)


def _rehearse(module: Pretraining, config: PretrainConfig, data: Data) -> None:
    """Try one window of every data set: settings that cannot work fail here, before anything is written.

    Raises:
        EarthSSLError: Where the tasks cannot be posed, or batches not be filled; of all sets beside home at once.
    """
    training = config.training

    def attempt(windows: Windows) -> None:
        with undisturbed(module):
            module.objectives(module.encoder, windows.batch([0]).to("cpu"))
        TrainLoader(windows, training.batch_size, training.seed, ranks=training.processes, grouping=training.batches)

    attempt(data.train)
    wrong = []
    for own in data.others:
        try:
            attempt(own.train)
        except EarthSSLError as error:
            wrong.append(f"stores.{own.name}: {error}")
        except (ValueError, LookupError, RuntimeError) as error:  # of tasks that take all variables for granted
            tasks, names = ", ".join(config.objectives), ", ".join(own.store.variables)
            wrong.append(
                f"stores.{own.name}: {tasks} cannot be posed on its {names} ({type(error).__name__}: {error}); prepare "
                "it with home's variables, or leave the task out"
            )
    if wrong:
        raise EarthSSLError("; ".join(wrong))


def assemble(
    config: PretrainConfig, store: Store, tasks: dict[str, type[ObjectiveConfig]], settled: bool = True
) -> tuple[Pretraining, Windows, Windows]:
    """Return what is trained, untrained yet, and the windows of training and validation.

    The tasks have seen the training windows (`Objective.settle`) unless `settled` is false: for stores without data.
    """
    settings = parse_objectives(config.objectives, tasks)
    training = config.training
    torch.manual_seed(key(training.seed, "init") & (2**63 - 1))
    encoder = config.encoder.build(store.variables)
    transfer = None
    if config.start_from:  # before the objectives: teachers begin as copies of the encoder
        transfer = start_from(config.start_from, encoder, store.grid, store.step_days)
    turned = bool(training.augment.mirror or training.augment.roll)
    check_training(config.constraints, turned=turned, stores=len(config.stores.keys() - {"home"}))
    held = _constraints(config.constraints, store.variables, store.grid, store.statistics)
    objectives = build_objectives(settings, Context(encoder, store.variables, store.grid, held), config.multitask)
    check_augmentation(training.augment, store, objectives.bars)
    loading = _loading(training)
    train = Windows(store, "train", objectives.span, training.seed, loading)
    val = Windows(store, "val", objectives.span, training.seed, loading)
    if settled:
        objectives.settle(train)
    kind = Sharded if training.strategy == "fsdp" and training.processes > 1 else Pretraining
    module = kind(encoder, objectives, training)
    module.transfer = transfer
    return module, train, val


def _constraints(settings: Sequence[ConstraintConfig], *store: Any) -> FieldConstraints | None:
    return FieldConstraints(settings, *store) if settings else None


def _loading(training: TrainingConfig) -> Loading:
    return Loading.of(training.data, training.data_device, training.accelerator, training.devices)


def _train(
    out: Path, config: PretrainConfig, store: Store, module: Pretraining, data: Data, probe: OnlineProbe | None
) -> Path:
    """Train in an opened run's folder and return the folder of the checkpoint."""
    training, val = config.training, data.val
    history = History(out / HISTORY, saved_step(out) if config.resume else 0)
    bar = ProgressBar(training.steps, "pretrain " + " + ".join(config.objectives))
    health = HealthMonitor(val.shortened(config.encoder.window), [history])
    callbacks: list[Any] = [bar, health]
    if probe is not None:
        probe.sinks = [history]
        callbacks.append(probe)
    begun = time.perf_counter()
    taken = fit(module, data, out, callbacks, [history, bar], config.resume).global_step
    steps = module.kept_step or taken
    seconds = time.perf_counter() - begun
    module.read_skipped()
    skipped = module.guard.skipped
    module = module.whole().to("cpu").eval()
    module.guard.skipped = skipped
    short = val.shortened(config.encoder.window)
    _write_example(out, store, module, short)
    extra = {**_transferred(module), **_sets(config, store, data, taken)}
    if steps != taken:
        extra["steps_taken"] = taken
    write_json(out / RUN, {**_run_record(module, seconds, steps, health.said, data.train, val), **extra})
    # Last: a run that has its checkpoint is finished.
    return _export(out, config, store, module, short, steps, extra, data.others)


def _resolved(config: PretrainConfig) -> PretrainConfig:
    """Return the config with its precision decided: a run that goes on keeps what it began with."""
    training, begun = config.training, Path(config.out) / CONFIG
    if config.resume and begun.is_file():
        kept = read_json(begun, "the config of an interrupted run")["identity"]
        if "token_start" not in kept["encoder"]:  # begun before there was a choice
            config = replace(config, encoder=replace(config.encoder, token_start=ENCODINGS))
        if training.precision == AUTO:
            return replace(config, training=replace(training, precision=kept["training"].get("precision", "32-true")))
    width = SIZES[config.encoder.size][0]
    precision = resolve(training.precision, training.accelerator, width)
    return replace(config, training=replace(training, precision=precision))


def _plain(config: PretrainConfig) -> dict[str, Any]:
    """Return the config as plain JSON, without where anything lies."""
    plain = {name: value for name, value in asdict(config).items() if name not in ("out", "resume", "store")}
    for own in plain["stores"].values():
        del own["store"]
    for name in ("stores", "constraints"):  # empty: as runs that were begun before there were any have it
        if not plain[name]:
            del plain[name]
    return plain


def _identity(config: PretrainConfig, store: Store, opened: Mapping[str, Store]) -> dict[str, Any]:
    """Return what must be the same for a run to go on."""
    plain = _plain(config)
    for name, own in opened.items():
        plain["stores"][name]["fingerprint"] = own.fingerprint
    # How the fields are held changes no sample: a run may go on where memory is less.
    plain["training"] = {k: v for k, v in plain["training"].items() if k not in ("data", "data_device")}
    return {**plain, "fingerprint": store.fingerprint}


def _open_run(out: Path, config: PretrainConfig, identity: dict[str, Any]) -> None:
    if not config.resume:
        refuse_filled(out, "the run (to go on with an interrupted one, add --resume)")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CONFIG, {"store": config.store, "identity": identity})
        return
    if (out / CHECKPOINT).exists():
        raise EarthSSLError(f"{out} is finished, its checkpoint is {out / CHECKPOINT}; there is nothing to resume")
    found = read_json(out / CONFIG, "the config of an interrupted run")["identity"]
    found["encoder"].setdefault("token_start", ENCODINGS)  # runs begun before there was a choice
    found["training"] = {"schedule": COSINE, "gain": 0.0, "augment": asdict(AugmentConfig()), **found["training"]}
    names = {**identity, **found}
    changed = [name for name in names if digest(found.get(name)) != digest(identity.get(name))]
    if changed:
        name = changed[0]
        what = "the data changed (another fingerprint)" if name == "fingerprint" else f"'{name}' differs"
        raise EarthSSLError(
            f"{out}: expected the config the run was started with, but {what}; restore it or start anew"
        )


def saved_step(out: Path) -> int:
    """Return the step of the state that a run goes on from.

    Raises:
        EarthSSLError: If there is none.
    """
    file = out / "last.ckpt"
    if not file.is_file():
        raise EarthSSLError(f"expected a state to resume from at {file}, found none; remove {out} and start anew")
    return int(torch.load(file, map_location="cpu", weights_only=True)["global_step"])


def _export(
    out: Path,
    config: PretrainConfig,
    store: Store,
    module: Pretraining,
    val: Windows,
    steps: int,
    extra: dict[str, Any],
    others: Sequence[DataSet] = (),
) -> Path:
    """Write the checkpoint folder of a module trained for so many steps: fewer than configured if it stopped early."""
    health = check_health(module.encoder, val)
    found = [own.manifest["attributes"].get("licence", "as the data") for own in (store, *(o.store for o in others))]
    licence = config.licence or "; ".join(dict.fromkeys(found))
    record = Record(
        encoder=config.encoder,
        variables=store.variables,
        units=tuple(store.manifest["units"]),
        step_days=store.step_days,
        grid=store.grid,
        statistics=store.statistics,
        splits=store.splits,
        fingerprint=store.fingerprint,
        seed=config.training.seed,
        steps=steps,
        config=_plain(config),
        licence=licence,
        source=store.manifest["source"],
        versions=versions(),
        health=health.to_json(),
        extra={"split_proof": store.manifest["split_proof"], **seed_record(store.manifest["attributes"]), **extra},
    )
    golden = val.batch([0]).to("cpu")
    return save(out / CHECKPOINT, module.encoder, module.objectives, record, golden)


def _transferred(module: Pretraining) -> dict[str, Any]:
    transfer = module.transfer
    return {} if transfer is None else {"transfer": transfer.to_json(), "ancestors": transfer.trainings}


def _sets(config: PretrainConfig, store: Store, data: Data, steps: int) -> dict[str, Any]:
    """Return what is said of several data sets; nothing where there is one."""
    if data.draws is None:
        return {}
    seen = data.draws.counts(steps * config.training.accumulate)
    return {"data_sets": describe_sets(store, data.others, weights_of(config.stores), seen)}


def _write_example(out: Path, store: Store, module: Pretraining, val: Windows) -> None:
    """Write one window as observed, as masked and as rebuilt, anomalies in units, to be looked at."""
    batch = val.batch([len(val) // 2]).to("cpu")
    for objective in module.objectives.tasks().values():
        shown = objective.example(module.encoder, batch)
        if shown is None:
            continue
        scale = store.statistics.scale
        fields = {
            name: (("variable", "time", "lat", "lon"), (getattr(shown, name).numpy() * scale).swapaxes(0, 1))
            for name in ("truth", "shown", "rebuilt")
        }
        coords = {
            "variable": list(store.variables),
            "time": batch.times[0].numpy().astype("datetime64[s]").astype("datetime64[ns]"),
            "lat": store.grid.lat,
            "lon": store.grid.lon,
        }
        dataset = xr.Dataset(fields, coords, attrs={"units": json.dumps(store.manifest["units"])})
        dataset.to_netcdf(out / EXAMPLE)
        return


def _run_record(
    module: Pretraining, seconds: float, steps: int, warnings: list[str], train: Windows, val: Windows
) -> dict[str, Any]:
    """Return what a run took, as plain JSON; memory is the process's peak, MiB."""
    return {
        "seconds": seconds,
        "steps": steps,
        "encoder_parameters": parameter_count(module.encoder),
        "head_parameters": parameter_count(module.objectives),
        "train_windows": len(train),
        "val_windows": len(val),
        "peak_memory_mib": peak_rss() / 2**20,
        "health_warnings": warnings,
        "skipped_steps": module.guard.skipped,
        "precision": module.config.precision,
        "versions": versions(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def load_objectives(
    folder: Path, tasks: dict[str, type[ObjectiveConfig]], statistics: Statistics | None = None
) -> tuple[Any, Multitask]:
    """Return the encoder (with record) and the trained objectives of a checkpoint, to rebuild fields with.

    Constraints have the units of the statistics by which fields are normalised; None: by the checkpoint's.
    """
    encoder, record = read(folder)
    settings = parse_objectives(record.config["objectives"], tasks)
    shared = build(MultitaskConfig, record.config.get("multitask", {}), "multitask")
    constraints = [build(ConstraintConfig, own, "constraints") for own in record.config.get("constraints", [])]
    held = _constraints(constraints, record.variables, record.grid, statistics or record.statistics)
    objectives = build_objectives(settings, Context(encoder, record.variables, record.grid, held), shared)
    read_heads(folder, objectives)
    return encoder.eval(), objectives.eval()
