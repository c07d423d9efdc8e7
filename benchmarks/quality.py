"""What looking at every value costs `prepare`: python benchmarks/quality.py FOLDER [--years 10] [--times 5]

A synthetic source (as in prepare.py; 5 variables, 60 MB a year) is written inside FOLDER and prepared in processes of
their own. Processor seconds inside the pass over the values (possible ranges, the summary of each step, what is said of
them) are set against those of the whole process. The source lies in the page cache. All is removed afterwards.
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
from typing import Any

import prepare as synthetic
from earthssl.ssl.prepare import tasks
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources import possible

synthetic.VARIABLES = ["t2m", "msl", "u10", "z500", "t850"]


def timed(module: Any, name: str, spent: dict[str, float]) -> None:
    """Count the processor seconds that a function of a module takes."""
    plain = getattr(module, name)

    def counted(*given: Any, **options: Any) -> Any:
        begun = time.thread_time()
        try:
            return plain(*given, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.thread_time() - begun

    setattr(module, name, counted)


def work(source: str, out: str, years: int) -> dict[str, float]:
    """Prepare in this process, and return the processor seconds of the pass over the values, and of all."""
    spent: dict[str, float] = {}
    for module, name in ((possible, "check_possible"), (tasks, "summary"), (tasks, "quality")):
        timed(module, name, spent)
    options = {"path": source, "variables": synthetic.VARIABLES, "eager_bytes": 0}
    begun = time.process_time()
    prepare(PrepareConfig("files", out, synthetic.splits(years), options, dtype="float16", workers=1))
    return {**spent, "all": time.process_time() - begun}


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
        shares = []
        for _ in range(given.times):
            task = json.dumps([str(folder / "source.zarr"), str(folder / "store"), given.years])
            command = [sys.executable, __file__, str(folder), "--child", task]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            shares.append(100 * (sum(found.values()) - found["all"]) / found["all"])
            print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()) + f"  {shares[-1]:.1f} %")
            shutil.rmtree(folder / "store")
    print(f"{4 * field / 1e6:.0f} MB: looking takes {sorted(shares)[len(shares) // 2]:.1f} % of prepare (median)")


if __name__ == "__main__":
    main()
