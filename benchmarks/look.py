"""What the page of `earthssl look` takes in headless Chromium: first picture, time steps, the globe, 100 000 points.

    python benchmarks/look.py STORE

Needs playwright (the extra `browser`) and Chromium. Times are the browser's own, ms.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
from pathlib import Path

from earthssl.look.application import Look
from earthssl.look.labels.journal import Journal
from earthssl.look.server import Server
from earthssl.ssl.store.store import Store
from playwright.sync_api import Page, sync_playwright

STEP = """async button => {
  const field = document.querySelector("#field"), before = field.dataset.drawn, start = performance.now();
  document.querySelector(button).click();
  while (field.dataset.drawn === before) await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""
JUMP = """async step => {
  const field = document.querySelector("#field"), slider = document.querySelector("#slider"), start = performance.now();
  slider.value = step;
  slider.dispatchEvent(new Event("input"));
  while (!field.dataset.drawn.endsWith(`/${step}`)) await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""
TURN = """async () => {
  const field = document.querySelector("#field"), start = performance.now();
  for (let k = 0; k < 20; k++) field.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  return (performance.now() - start) / 20;
}"""
POINTS = """async () => {
  const { Scatter } = await import("./scatter.js");
  const canvases = [0, 1].map(() => document.body.appendChild(document.createElement("canvas")));
  for (const canvas of canvases) Object.assign(canvas.style, { width: "480px", height: "560px" });
  const n = 100000, scatter = new Scatter(...canvases), times = [];
  scatter.set(Float32Array.from({ length: n }, Math.random), Float32Array.from({ length: n }, Math.random));
  const colour = Int16Array.from({ length: n }, (_, k) => k % 4);
  for (let k = 0; k < 10; k++) {
    const start = performance.now();
    scatter.draw(colour, ["#0072b2", "#e69f00", "#d55e00", "#009e73"]);
    times.push(performance.now() - start);
  }
  return times;
}"""


def measure(page: Page, address: str) -> None:
    """Print the times of one page."""
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    first = page.evaluate("performance.getEntriesByName('drawn')[0].startTime")
    print(f"first picture: {first:.0f}")
    for view in ("map", "globe"):
        page.click(f"#as-{view}")
        steps = [page.evaluate(STEP, "#after") for _ in range(60)]
        print(f"time step, {view}: median {statistics.median(steps):.0f}, largest {max(steps):.0f}")
    last = int(page.get_attribute("#slider", "max") or 0)
    jumps = [page.evaluate(JUMP, last - k * (last // 32)) for k in range(20)]
    print(f"jump to a date that was not read: median {statistics.median(jumps):.0f}, largest {max(jumps):.0f}")
    print(f"turn of the globe: {page.evaluate(TURN):.0f}")
    print(f"100 000 points: median {statistics.median(page.evaluate(POINTS)):.0f}")


def main() -> None:
    """Serve a store and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        store = Store(options.store)
        look = Look(store, Journal(Path(folder), store.grid))
        with Server(look) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            print(f"{options.store}: {look.store.shape}, Chromium {browser.version}")
            measure(browser.new_page(viewport={"width": 1400, "height": 900}), server.address)
            browser.close()
            server.shutdown()


if __name__ == "__main__":
    main()
