"""What looking at every value costs `prepare`: python benchmarks/quality.py FOLDER [--years 10] [--times 5]

A synthetic source (as in prepare.py; 5 variables, 60 MB a year) is written inside FOLDER and prepared in processes of
their own. Processor seconds inside the pass over the values (possible ranges, the summary of each step, what is said of
them) are set against those of the whole process; `--bare` runs as many processes without that pass, too, and tells the
difference. Seconds are those of the processor, by the system's account of the process (user and system), so that others
on the machine do not count. The source lies in the page cache. All is removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
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


def used() -> float:
    """Return the processor seconds of this process so far, user and system."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


def work(source: str, out: str, years: int, bare: bool = False) -> dict[str, float]:
    """Prepare in this process, and return the processor seconds of the pass over the values, and of all."""
    spent: dict[str, float] = {}
    looks: dict[str, tuple[Any, Any]] = {
        "check_possible": (possible, lambda *given: None),
        "summary": (tasks, lambda values: np.zeros((len(values), len(tasks.COLUMNS)))),
        "quality": (tasks, lambda *given: {}),
    }
    for name, (module, nothing) in looks.items():
        if bare:
            setattr(module, name, nothing)
        else:
            timed(module, name, spent)
    options = {"path": source, "variables": synthetic.VARIABLES, "eager_bytes": 0}
    begun = used()
    prepare(PrepareConfig("files", out, synthetic.splits(years), options, dtype="float16", workers=1))
    return {**spent, "all": used() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where there is room for the source and one store")
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--bare", action="store_true", help="prepare without looking, too")
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
        for bare in [False, True][: 1 + given.bare] * given.times:
            task = json.dumps([str(folder / "source.zarr"), str(folder / "store"), given.years, bare])
            command = [sys.executable, __file__, str(folder), "--child", task]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            words = "  ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items())
            if bare:
                print(f"without looking: {words}", flush=True)
            else:
                shares.append(100 * (sum(found.values()) - found["all"]) / found["all"])
                print(f"{words}  {shares[-1]:.1f} %", flush=True)
            shutil.rmtree(folder / "store")
    print(f"{4 * field / 1e6:.0f} MB: looking takes {sorted(shares)[len(shares) // 2]:.1f} % of prepare (median)")


if __name__ == "__main__":
    main()
