"""What `earthssl plan` says against what the run then takes: python benchmarks/plan.py

For three configs, each in its own processes, one after another with the same threads: plan without a store, prepare,
pretrain; then the ratios of prediction to run of the time, the peak memory and the files. Run it on an idle machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

SPLITS = {"train": ["1900", "1949"], "val": ["1952", "1959"], "test": ["1962", "1969"], "embargo_days": 730}
TRAINING = {"batch_size": 16, "warmup_steps": 5, "log_every": 20, "accelerator": "cpu"}
# name: options of the planet, encoder, objectives, training
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "nano, tropical Pacific, masks of two kinds": (
        {"years": 70, "variables": ["sst", "u10", "msl"], "region": [-35, 35, 120, 290]},
        {"size": "nano", "window": 12, "patch": [3, 3, 5]},
        {"masking": {"masks": [{"kind": "random", "ratio": 0.75}, {"kind": "last", "ratio": 0.25}]}},
        {"steps": 120, "val_every": 60, "save_every": 60},
    ),
    "micro, globe, masking": (
        {"years": 70},
        {"size": "micro", "window": 3, "patch": [1, 8, 8]},
        {"masking": {"rebuild": 0.5}},
        {"steps": 60, "val_every": 30, "save_every": 20},
    ),
    "tiny, globe, batches of 4 accumulated": (
        {"years": 70},
        {"size": "tiny", "window": 3, "patch": [1, 8, 8]},
        {"masking": {}},
        {"steps": 30, "val_every": 15, "save_every": 15, "batch_size": 4, "accumulate": 4, "ema": 0.99},
    ),
}


def main() -> None:
    """Measure and print."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; prediction / run")
    print(f"{'config':<44} {'run s':>7} {'time':>6} {'memory':>7} {'store':>6} {'state':>6} {'checkpoint':>10}")
    for name, (options, encoder, objectives, training) in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            config = {
                "prepare": {"source": "planet", "options": options, "splits": SPLITS},
                "pretrain": {"encoder": encoder, "objectives": objectives, "training": {**TRAINING, **training}},
            }
            _print(name, *_measure(Path(folder), config))


def _measure(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the plan, and what the run took: seconds, bytes of memory and files."""
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    made = json.loads(_earthssl(folder, "plan", "--config", "c.yaml", "--json"))
    _earthssl(folder, "prepare", "--config", "c.yaml", "--out", "store")
    _earthssl(folder, "pretrain", "--config", "c.yaml", "--store", "store", "--out", "run")
    run = json.loads((folder / "run" / "run.json").read_text())
    return made, {
        "time": run["seconds"],
        "memory": run["peak_memory_mib"] * 2**20,
        "store": _bytes(folder / "store"),
        "last.ckpt": _bytes(folder / "run" / "last.ckpt"),
        "checkpoint": _bytes(folder / "run" / "checkpoint"),
    }


def _earthssl(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "earthssl", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"earthssl {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def _print(name: str, made: dict[str, Any], real: dict[str, float]) -> None:
    said = {"time": made["run_s"], "memory": made["memory"]["peak"], **made["disk"]}
    ratio = {key: said[key] / value for key, value in real.items()}
    print(
        f"{name:<44} {real['time']:>7.1f} {ratio['time']:>6.2f} {ratio['memory']:>7.2f} {ratio['store']:>6.2f} "
        f"{ratio['last.ckpt']:>6.2f} {ratio['checkpoint']:>10.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
