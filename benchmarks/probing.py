"""What a probe costs as the record grows: python benchmarks/probing.py [--years 100 200 400]

For each length, in a process of its own: a synthetic planet (monthly, tropical Pacific), an encoder after two steps,
and the whole ENSO probe of it (features of two encoders, every baseline, ridge heads at 18 leads, bootstrap; no network
from scratch, whose steps are given and do not grow). The table has the seconds of the features and of the rest, peak
memory, and the exponents of the time against the number of months (log–log).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from earthssl.cli.pretrain import pretrain
from earthssl.downstream.evaluation.run import run
from earthssl.downstream.features import frozen_features
from earthssl.downstream.tasks.enso.task import Enso, EnsoConfig
from earthssl.downstream.training.from_scratch import ScratchConfig
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.config import TrainingConfig
from earthssl.ssl.training.pretrain import PretrainConfig

FIRST = 1700
OPTIONS = {"start": f"{FIRST}-01-01", "seed": 1, "variables": ["sst", "u10", "msl"], "region": [-35, 35, 120, 290]}


def splits(years: int) -> SplitsConfig:
    """Return blocks of 3/5, 1/5 and 1/5 of the years, the gaps as in configs/quickstart.yaml."""
    train, val, last = (FIRST + years * part // 5 for part in (3, 4, 5))
    return SplitsConfig(
        (f"{FIRST}-01", f"{train - 1}-12"), (f"{train + 2}-09", f"{val - 1}-12"), (f"{val + 2}-09", f"{last - 1}-12"),
        940,
    )  # fmt: skip


def work(folder: str, years: int) -> dict[str, Any]:
    """Probe one length in this process, and return what it took."""
    root = Path(folder)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        prepare(PrepareConfig("planet", str(root / "store"), splits(years), {"years": years, **OPTIONS}))
        training = TrainingConfig(steps=2, warmup_steps=1, val_every=2, save_every=2)
        shape = EncoderConfig("nano", 12, (3, 3, 5))
        pretrained = pretrain(
            PretrainConfig(str(root / "store"), str(root / "run"), {"masking": {}}, encoder=shape, training=training)
        )
        spent, extract = [0.0], frozen_features.extract

        def timed(*arguments: Any, **named: Any) -> frozen_features.RawFeatures:
            begun = time.perf_counter()
            made = extract(*arguments, **named)
            spent[0] += time.perf_counter() - begun
            return made

        frozen_features.extract = timed
        begun = time.perf_counter()
        config = EnsoConfig(
            str(root / "store"), str(root / "probe"), [str(pretrained)], untrained_seeds=1,
            scratch=ScratchConfig(seeds=0), fractions=[],
        )  # fmt: skip
        run(Enso(config, Store(config.store)))
        took = time.perf_counter() - begun
    return {
        "years": years,
        "months": len(Store(root / "store").times),
        "features_s": spent[0],
        "rest_s": took - spent[0],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def report(found: list[dict[str, Any]]) -> None:
    """Print the table and the exponents."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the end\n")
    print("| years | months | features | heads, baselines, bootstrap | a month | peak memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for f in found:
        each = 1e3 * (f["features_s"] + f["rest_s"]) / f["months"]
        print(
            f"| {f['years']} | {f['months']} | {f['features_s']:.1f} s | {f['rest_s']:.1f} s | {each:.1f} ms | "
            f"{f['peak_mb']} MiB |"
        )
    if len(found) > 1:
        months = np.log([f["months"] for f in found])
        both = [f["features_s"] + f["rest_s"] for f in found]
        named = {"features": [f["features_s"] for f in found], "the rest": [f["rest_s"] for f in found], "both": both}
        slopes = {name: np.polyfit(months, np.log(seconds), 1)[0] for name, seconds in named.items()}
        print(
            "\nTime grows as months to the power " + ", ".join(f"{s:.2f} ({name})" for name, s in slopes.items()) + "."
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(work(*json.loads(args.child))))
        return
    found = []
    for years in sorted(args.years):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--child", json.dumps([folder, years])]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    report(found)


if __name__ == "__main__":
    main()
