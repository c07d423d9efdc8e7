"""UMAP: refused in words where it is not installed, kept in a file, brushed and coloured on the page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from earthssl.look import umap_layout
from earthssl.look.umap_layout import layout
from earthssl.ssl.common.errors import EarthSSLError


class Stub:
    """Stands in for UMAP: the first two components, doubled; counts what it was given."""

    fitted: list[int] = []

    def __init__(self, n_neighbors: int, random_state: int) -> None:
        assert (n_neighbors, random_state) == (15, 0)

    def fit_transform(self, features: np.ndarray) -> np.ndarray:
        Stub.fitted.append(len(features))
        return 2 * features[:, :2]

    def transform(self, features: np.ndarray) -> np.ndarray:
        return 2 * features[:, :2]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The package `umap`, replaced; returns the numbers of states that were fitted."""
    package = ModuleType("umap")
    package.UMAP = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", package)
    monkeypatch.setattr(Stub, "fitted", [])
    return Stub.fitted


def test_without_the_package_it_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EarthSSLError, match=r"pip install 'earthssl\[umap\]'"):
        layout(np.zeros((100, 4), np.float32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_places_are_kept_made_again_where_cut_and_thinned(
    tmp_path: Path, stub: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.testing.assert_array_equal(layout(features, tmp_path), 2 * features[:, :2])
    layout(features, tmp_path)
    assert stub == [100]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    layout(features, tmp_path)
    assert stub == [100, 100]
    layout(features + 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(umap_layout, "FITTED", 40)
    np.testing.assert_array_equal(layout(features + 2, tmp_path), 2 * (features + 2)[:, :2])
    assert stub[-1] == 40
    with pytest.raises(EarthSSLError, match="more than 15 states"):
        layout(features[:15], tmp_path)


@pytest.mark.slow
def test_the_real_one_keeps_groups_apart_and_is_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 60)
    features = (rng.normal(size=(120, 8)) + 30 * group[:, None]).astype(np.float32)
    first = layout(features, tmp_path / "a") if (tmp_path / "a").mkdir() is None else None
    second = layout(features, tmp_path / "b") if (tmp_path / "b").mkdir() is None else None
    assert first is not None
    np.testing.assert_array_equal(first, second)
    centres = np.stack([first[group == k].mean(axis=0) for k in (0, 1)])
    nearest = np.linalg.norm(first[:, None] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, group)


def test_points_on_the_page_are_laid_out_by_umap_and_brushed(
    make_look: Callable[..., Any], serve: Any, visit: Any, stub: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.wait_for_selector("#points[data-drawn]")
        page.select_option("#layout", "umap")
        page.wait_for_selector('#points[data-layout="umap"]')
        assert not page.is_visible("#x-axis")
        page.select_option("#colour-by", "year")
        page.wait_for_selector('#points[data-drawn="year/358"]')
        places = look._umap()
        x, y = places.T
        box = page.locator("#points-over").bounding_box()
        px = 14 + (x - x.min()) / np.ptp(x) * (box["width"] - 28)
        py = box["height"] - 14 - (y - y.min()) / np.ptp(y) * (box["height"] - 28)
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 260, box["y"] + 300, steps=5)
        page.mouse.up()
        visit.drawn(page, "sst/anomaly/mean")
        inside = int(((px > 60) & (px < 260) & (py > 60) & (py < 300)).sum())
        assert inside > 5
        assert page.inner_text("#when") == f"mean of {inside} states"
        page.select_option("#layout", "components")
        page.wait_for_selector('#points[data-layout="components"]')
        assert page.is_visible("#x-axis")
    monkeypatch.setitem(sys.modules, "umap", None)
    look = make_look()
    for file in look.journal.folder.glob("umap-*"):
        file.unlink()
    with serve(look) as server:
        page = visit(server.address)
        page.wait_for_selector("#points[data-drawn]")
        page.select_option("#layout", "umap")
        page.wait_for_selector("#alert:not([hidden])")
        assert "earthssl[umap]" in page.inner_text("#alert")
        assert page.input_value("#layout") == "components"
    visit.said[:] = [line for line in visit.said if "400" not in line]  # the browser's own line on the answer
