"""From an unlabelled store to a detector by real clicks and keys in a browser, every step timed: see docs/look.md.

    python benchmarks/look_walk_through.py STORE CHECKPOINT TRUTH.csv COLUMN OUT

A script presses the keys, and knows the answers from TRUTH.csv; what a person would need to look and decide is put in
as an assumption (--seconds). Needs playwright (the extra `browser`) and Chromium.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from playwright.sync_api import Page, sync_playwright

BATCH = 8  # dates in a round of proposals
EARTHSSL = [sys.executable, "-m", "earthssl"]
TUNE = [
    "--mode", "head", "--pooling", "mean+pcs", "--components", "[50]", "--seeds", "1", "--scratch_seeds", "0",
    "--untrained_seeds", "1", "--random_seeds", "1", "--fractions", "[]",
]  # fmt: skip


def until(page: Page, selector: str, words: str) -> None:
    """Wait until an element says something."""
    page.locator(selector).filter(has_text=words).wait_for()


def label(page: Page, truth: Callable[[str], bool], rounds: int) -> tuple[list[float], list[float]]:
    """Label proposed dates by keys and return the seconds until the next date stood there, and until the next round."""
    page.click("#tab-label")
    for word in ("yes", "no"):
        page.fill("#new-class", word)
        page.keyboard.press("Enter")
    page.click("#propose")
    page.wait_for_selector("#proposals button")
    page.focus("#field")
    dates, refits = [], []
    for k in range(1, BATCH * rounds + 1):
        day = page.locator("#proposals button[aria-current=true]").inner_text()
        until(page, "#when", day)
        before = page.locator("#proposals").inner_text()
        start = time.perf_counter()
        page.keyboard.press("1" if truth(day) else "2")
        until(page, "#saved", f"{k} labels")
        if k % BATCH:
            dates.append(time.perf_counter() - start)
            continue
        while page.locator("#proposals").inner_text() == before or page.locator("#proposals button").count() < BATCH:
            page.wait_for_timeout(20)
        refits.append(time.perf_counter() - start)
    return dates, refits


class Clock:
    """Seconds on the wall, and of the processor for one process or for those that have ended."""

    def __init__(self, process: int | None = None) -> None:
        self.process = process
        self.before = self._now()

    def _now(self) -> tuple[float, float]:
        if self.process is None:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return time.perf_counter(), used.ru_utime + used.ru_stime
        words = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return time.perf_counter(), (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def lap(self) -> tuple[float, float]:
        """Return both since the last time."""
        last, self.before = self.before, self._now()
        return self.before[0] - last[0], self.before[1] - last[1]


Step = tuple[str, tuple[float, float]]


def walk(store: str, checkpoint: str, truth: Callable[[str], bool], out: Path, rounds: int) -> list[Step]:
    """Go all the way and return each step in words with its seconds, on the wall and of earthssl's processor.

    Args:
        store: Training store.
        checkpoint: Of the encoder.
        truth: Whether a date, as the page writes it, is of the class.
        out: For the page's labels (`look`) and the detector (`detector`).
        rounds: Of eight dates.
    """
    said: list[Step] = []
    command = [*EARTHSSL, "look", store, "--checkpoint", checkpoint, "--out", str(out / "look")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        clock = Clock(server.pid)
        try:
            address = server.stdout.readline().split()[1]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(3_600_000)
            page.goto(address)
            page.wait_for_selector("#field[data-drawn]")
            said.append(("the command, until the first picture", clock.lap()))
            page.wait_for_selector("#points[data-drawn]")
            said.append(("features of all states (once)", clock.lap()))
            dates, refits = label(page, truth, rounds)
            said.append((f"{BATCH * rounds} dates by keys, {rounds} rounds of fitting and proposing", clock.lap()))
            print(f"a date: median {statistics.median(dates):.2f} s, largest {max(dates):.2f} s")
            print(f"a round: median {statistics.median(refits):.2f} s, largest {max(refits):.2f} s")
            print(page.inner_text("#score"))
            browser.close()
        finally:
            server.terminate()
    clock = Clock()
    tune = [*EARTHSSL, "finetune", "--checkpoint", checkpoint, "--store", store, "--labels",
            str(out / "look" / "labels.csv"), "--target", "label", "--kind", "classification", *TUNE,
            "--out", str(out / "detector")]  # fmt: skip
    subprocess.run(tune, check=True, stdout=subprocess.DEVNULL)
    said.append(("finetune: the detector and its table", clock.lap()))
    return said


def main() -> None:
    """Walk, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("store", "checkpoint", "truth", "column", "out"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=12, help="of eight dates")
    parser.add_argument("--seconds", type=float, default=5, help="a person's look at one date and the key: assumed")
    options = parser.parse_args()
    table = pd.read_csv(options.truth)
    yes = set(table["time"][table[options.column] == 1].str[:10])
    said = walk(options.store, options.checkpoint, lambda day: day in yes, Path(options.out), options.rounds)
    person = BATCH * options.rounds * options.seconds + 60
    said.append((f"a person, assumed: {options.seconds:g} s a date, a minute besides", (person, 0.0)))
    said.append(("in all", (sum(wall for _, (wall, _) in said), sum(cpu for _, (_, cpu) in said))))
    print("   wall      CPU (of earthssl, not the browser)")
    for words, (wall, cpu) in said:
        print(f"{wall:7.1f} s {cpu:7.1f} s  {words}")


if __name__ == "__main__":
    main()
