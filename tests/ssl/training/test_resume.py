"""A run killed with SIGKILL, at any moment, resumes to the same weights bit for bit."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.data.augmentation import AugmentConfig
from earthssl.ssl.training.multitask import MultitaskConfig

# Starts one process a run and lets each kill itself, without any clean-up, at the moment asked for. The last
# run is the script's own, to be killed from outside.
SCRIPT = """
import os, pickle, signal, sys
import torch
torch.set_num_threads(1)
from earthssl.pretext import TASKS
from earthssl.ssl.training import pretrain
from earthssl.ssl.data.loaders import TrainLoader

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def arm(moment):
    kind, number = moment
    if kind == "batch":
        get = TrainLoader.get
        TrainLoader.get = lambda self, k: die() if k == number else get(self, k)
    elif kind == "export":
        pretrain._export = die
    elif kind == "replace":
        replace, calls = os.replace, []
        def counting(*names):
            calls.append(names)
            die() if str(names[1]).endswith("last.ckpt") and len(calls) > number else replace(*names)
        os.replace = counting

with open(sys.argv[1], "rb") as handle:
    jobs = pickle.load(handle)
for config, moment in jobs[:-1]:
    child = os.fork()
    if child == 0:
        arm(moment)
        pretrain.pretrain(config, TASKS)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
pretrain.pretrain(jobs[-1][0], TASKS)
"""

CHANGED = AugmentConfig(noise=0.3, step_dropout=0.2, region_dropout=0.5)
MIXED = {"masking": {"masks": [{"kind": "random"}, {"kind": "last", "ratio": 0.5}]}, "order": {"frames": 3}}
# name: objectives, training, moment. Saves are at steps 3, 6, 9 and 12, validations at 6 and 12.
HELD: Any = {
    "constraints": (
        {"kind": "divergence", "u": "u10", "v": "v10", "how": "hard"},
        {"kind": "bounded", "variables": ["sst"], "lower": 270.0, "weight": 0.3},
        {"kind": "energy", "u": "u10", "v": "v10", "weight": 0.1},
    )
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, int]]] = {
    "between saves": ({"masking": {}}, {}, ("batch", 5)),
    "averaged weights, half a step, two tasks": (
        MIXED,
        {"ema": 0.9, "accumulate": 2, "drop_path": 0.2, "variable_dropout": 0.3, "augment": CHANGED},
        ("batch", 2 * 7 + 1),
    ),
    "components fitted before the run, variance terms": (
        {
            "eof_masking": {"components": 24},
            "temporal_latent": {},
            "linear_residual": {"components": 16},
            "interpolation_residual": {"components": 16, "localisation_km": [9000.0]},
        },
        {"variable_dropout": 0.3},
        ("batch", 8),
    ),
    "while a state is being saved": ({"orientation": {}}, {"drop_path": 0.2}, ("replace", 3)),
    "trained, averaged, not yet exported": ({"masking": {}}, {"ema": 0.8}, ("export", 0)),
    "steady, stopped by its skill": (
        {"masking": {}},
        {"schedule": "steady", "gain": 1e9, "patience": 3, "val_every": 2, "accumulate": 2},
        ("export", 0),
    ),
    "steady, between saves, held to constraints": (
        {"masking": {}},
        {"schedule": "steady", "gain": 1e-9, "val_every": 2, **HELD},
        ("batch", 8),
    ),
    "stopped early, not yet exported": ({"masking": {}}, {"lr": 1e-12, "patience": 1, "val_every": 2}, ("export", 0)),
}
OUTSIDE = "killed from outside"
LATER = [
    ("encoder", "token_start"),
    ("training", "schedule"),
    ("training", "gain"),
    ("training", "augment"),
]  # settings that the first releases did not have


def kill(process: subprocess.Popen[bytes], when: Callable[[], bool], seconds: float) -> None:
    """Send SIGKILL as soon as `when` holds, a little later each time it runs: the moment is left to chance."""
    deadline = time.monotonic() + seconds
    while not when():
        assert process.poll() is None, f"it ended by itself with {process.returncode}"
        assert time.monotonic() < deadline, "it never came to the moment to be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(small_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one killed run a case."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = [(small_config(folder / name, tasks, **more), moment) for name, (tasks, more, moment) in CASES.items()]
    jobs.append((small_config(folder / OUTSIDE, {"masking": {}}, save_every=1), ("", 0)))
    (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(folder / "jobs.pickle")]
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            kill(process, (folder / OUTSIDE / "last.ckpt").exists, 240)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(folder / 'output').read_text()[-3000:]}") from None
        finally:
            process.kill()
            process.wait()
    return folder


def weights(checkpoint: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the encoder's and the heads' weights."""
    return (checkpoint / "encoder.safetensors").read_bytes(), (checkpoint / "heads.safetensors").read_bytes()


@pytest.mark.parametrize("case", [*CASES, OUTSIDE])
def test_resumes_to_the_same_bytes(
    case: str, killed: Path, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """Killed and resumed equals never killed."""
    tasks, more, _ = CASES.get(case, ({"masking": {}}, {"save_every": 1}, None))
    assert not (killed / case / "checkpoint").exists()
    whole = small_pretrain(tmp_path / "whole", tasks, **more)
    resumed = small_pretrain(killed / case, tasks, resume=True, **more)
    assert weights(resumed) == weights(whole)
    assert (
        json.loads((resumed / "record.json").read_text())["steps"]
        == json.loads((whole / "record.json").read_text())["steps"]
    )
    assert steps(killed / case) == steps(tmp_path / "whole")


# One process that forks a child a try, so that the libraries are imported once. Each child goes on with the run, as
# `earthssl run` and `matrix` do, and is killed from outside after a time drawn between nothing and a whole run.
KILLER = """
import json, os, pickle, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from earthssl.cli import pretrain

def begin(config):
    child = os.fork()
    if child == 0:
        pretrain.pretrain_once(config)
        os._exit(0)
    return child

with open(sys.argv[1], "rb") as handle:
    configs, kills, each, seed = pickle.load(handle)
draw, done, tries = random.Random(seed), [], 0
wholes = []
for config in configs:
    begun = time.perf_counter()
    assert os.waitpid(begin(replace(config, out=config.out + "-whole")), 0)[1] == 0
    wholes.append(time.perf_counter() - begun)
while len(done) < kills or tries % each:
    number, attempt = divmod(tries, each)
    config, whole = configs[number % len(configs)], wholes[number % len(configs)]
    config = replace(config, out=f"{config.out}-{number}")
    tries += 1
    child = begin(config)
    time.sleep(draw.uniform(0, whole))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        state = Path(config.out) / "last.ckpt"
        step = int(torch.load(state, weights_only=True)["global_step"]) if state.is_file() else 0
        done.append([config.out, step])
    else:
        assert status == 0, (config.out, status)
    if attempt == each - 1:
        assert os.waitpid(begin(config), 0)[1] == 0, config.out
Path(sys.argv[2]).write_text(json.dumps(done))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kills", "seed"), [(24, 2)])
def test_killed_at_random_moments(kills: int, seed: int, small_config: Callable[..., Any], tmp_path: Path) -> None:
    """Killed from outside again and again, every run ends with the bytes of one that was never killed."""
    every: dict[str, Any] = {"masking": {}, "byol": {"tau": 0.9}, "latent": {"tau": 0.9}}
    common = {"save_every": 1, "ema": 0.9, "drop_path": 0.2, "variable_dropout": 0.3, "steps": 9, "val_every": 4}
    configs = [
        small_config(tmp_path / "a", every, multitask=MultitaskConfig(weighting="uncertainty"), accumulate=2, **common),
        small_config(
            tmp_path / "b", {"simclr": {}, "order": {}}, multitask=MultitaskConfig(weighting="gradnorm"), **common
        ),
        small_config(tmp_path / "c", {"masking": {}}, patience=4, **common),
    ]
    chosen = configs[:1] if kills < 10 else configs
    (tmp_path / "jobs").write_bytes(pickle.dumps((chosen, kills, 3 if kills < 10 else 4, seed)))
    (tmp_path / "killer.py").write_text(KILLER)
    command = [sys.executable, str(tmp_path / "killer.py"), str(tmp_path / "jobs"), str(tmp_path / "done")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    done = json.loads((tmp_path / "done").read_text())
    assert len(done) >= kills
    print(f"killed {len(done)} times, after steps {[step for _, step in done]}")
    for run in {run for run, _ in done}:
        whole = Path(run.rpartition("-")[0] + "-whole")
        assert weights(Path(run) / "checkpoint") == weights(whole / "checkpoint"), run
        assert steps(Path(run)) == steps(whole), run


def steps(run: Path) -> list[tuple[str, str]]:
    """Return step and name of every line of a run's history, in order."""
    lines = (run / "history.csv").read_text().splitlines()[1:]
    return [tuple(line.split(",")[:2]) for line in lines]  # type: ignore[misc]


def test_another_config_is_refused(killed: Path, small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """The error names what differs, and the run's files stay as they were."""
    run = tmp_path / "run"
    shutil.copytree(killed / "between saves", run, ignore=shutil.ignore_patterns("checkpoint"))
    before = (run / "history.csv").read_bytes()
    with pytest.raises(EarthSSLError, match="'training' differs"):
        small_pretrain(run, resume=True, seed=1)
    with pytest.raises(EarthSSLError, match="'objectives' differs"):
        small_pretrain(run, {"order": {}}, resume=True)
    assert (run / "history.csv").read_bytes() == before


def test_a_run_begun_before_there_was_a_choice_goes_on(
    killed: Path, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """Its config lacks what newer ones hold: it ends as it was begun, and its checkpoint says how its tokens began."""
    run = tmp_path / "run"
    shutil.copytree(killed / "between saves", run, ignore=shutil.ignore_patterns("checkpoint"))
    begun = json.loads((run / "config.json").read_text())
    for section, name in LATER:
        del begun["identity"][section][name]
    (run / "config.json").write_text(json.dumps(begun))
    resumed = small_pretrain(run, resume=True)
    assert weights(resumed) == weights(small_pretrain(tmp_path / "whole"))
    record = json.loads((resumed / "record.json").read_text())
    assert "token_start" not in record["extra"]
    assert (
        json.loads((tmp_path / "whole" / "checkpoint" / "record.json").read_text())["extra"]["token_start"]
        == "balanced"
    )


def test_other_data_are_refused(
    killed: Path, small_store: Path, small_pretrain: Callable[..., Path], tmp_path: Path
) -> None:
    """A store with another fingerprint is not gone on with; the same data elsewhere are."""
    run = tmp_path / "run"
    shutil.copytree(killed / "between saves", run, ignore=shutil.ignore_patterns("checkpoint"))
    shutil.copytree(small_store, tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    changed = {**manifest, "fingerprint": "0" * 64}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(EarthSSLError, match="fingerprint"):
        small_pretrain(run, resume=True, store=tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    assert small_pretrain(run, resume=True, store=tmp_path / "store").is_dir()


def test_nothing_to_resume(small_run: Path, small_pretrain: Callable[..., Path], tmp_path: Path) -> None:
    """A finished run, an unknown one and one without a saved state are refused; a filled folder is not reused."""
    with pytest.raises(EarthSSLError, match="finished"):
        small_pretrain(small_run, resume=True)
    with pytest.raises(EarthSSLError, match="found no such file"):
        small_pretrain(tmp_path / "none", resume=True)
    with pytest.raises(EarthSSLError, match="add --resume"):
        small_pretrain(small_run)
    shutil.copytree(small_run, tmp_path / "begun", ignore=shutil.ignore_patterns("checkpoint", "last.ckpt"))
    with pytest.raises(EarthSSLError, match="start anew"):
        small_pretrain(tmp_path / "begun", resume=True)
