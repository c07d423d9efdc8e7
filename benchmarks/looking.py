"""What looking at every value costs `prepare`: python benchmarks/looking.py FOLDER [--years 10] [--times 5]

A synthetic source (as in prepare.py; 5 variables, 60 MB a year) is written inside FOLDER and prepared in processes of
their own, in turn with and without the pass over the values: possible ranges, and the summary of each step. Processor
seconds of the process are compared (the least of each kind), which another's work on the machine disturbs little; the
source lies in the page cache. All is removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import prepare as synthetic
from earthssl.ssl.fields.quality import COLUMNS
from earthssl.ssl.prepare import tasks
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources import possible

synthetic.VARIABLES = ["t2m", "msl", "u10", "z500", "t850"]


def work(source: str, out: str, years: int, look: bool) -> float:
    """Prepare in this process, and return its processor seconds."""
    if not look:
        possible.check_possible = lambda *given, **options: None  # type: ignore[assignment]
        tasks.summary = lambda values: np.ones((len(values), len(COLUMNS)))  # type: ignore[assignment]
    options = {"path": source, "variables": synthetic.VARIABLES, "eager_bytes": 0}
    begun = time.process_time()
    prepare(PrepareConfig("files", out, synthetic.splits(years), options, dtype="float16", workers=1))
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where there is room for the source and one store")
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(work(*json.loads(given.child))))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        synthetic.make_source(folder / "source.zarr", given.years)
        field = len(synthetic.times_of(given.years)) * len(synthetic.VARIABLES) * synthetic.GRID[0] * synthetic.GRID[1]
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(given.times):
            for look in (True, False):
                task = json.dumps([str(folder / "source.zarr"), str(folder / "store"), given.years, look])
                command = [sys.executable, __file__, str(folder), "--child", task]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds[look].append(float(run.stdout.splitlines()[-1]))
                shutil.rmtree(folder / "store")
    least = {look: min(all_of) for look, all_of in seconds.items()}
    print(f"{4 * field / 1e6:.0f} MB, {given.times} times each: " + json.dumps({str(k): v for k, v in seconds.items()}))
    print(f"with {least[True]:.2f} s, without {least[False]:.2f} s: {100 * (least[True] / least[False] - 1):+.1f} %")


if __name__ == "__main__":
    main()
