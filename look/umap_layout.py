"""All states on a plane by UMAP (McInnes, Healy & Melville 2018, arXiv 1802.03426): an extra, loaded when asked for."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..ssl.common.errors import EarthSSLError
from ..ssl.common.files import disk_full_is_clear

NEIGHBOURS = 15
SEED = 0
FITTED = 10_000  # states, evenly spread; others are put among them


def layout(features: np.ndarray, folder: Path) -> np.ndarray:
    """Return a place on the plane for every state, float32 (state, 2), from a file in the folder, made if missing.

    Distances on it say who is near whom, not how far; the same features give the same places.

    Args:
        features: Of every state, (state, component).
        folder: Where the file is kept.

    Raises:
        EarthSSLError: If the package `umap-learn` is not installed, or states are fewer than UMAP's neighbours.
    """
    kept = kept_layout(features, folder)
    if kept is not None:
        return kept
    file = layout_file(features, folder)
    places = _computed(features)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with disk_full_is_clear(file):
            save_file({"places": places}, temporary)
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return places


def kept_layout(features: np.ndarray, folder: Path) -> np.ndarray | None:
    """Return what `layout` kept in the folder; None where it kept nothing, or nothing whole."""
    file = layout_file(features, folder)
    if file.is_file():
        try:
            return load_file(file)["places"]
        except (SafetensorError, KeyError):
            file.unlink()  # cut short
    return None


def layout_file(features: np.ndarray, folder: Path) -> Path:
    """Return where the layout of these features is kept."""
    found = hashlib.sha256(np.ascontiguousarray(features).tobytes()).hexdigest()[:16]
    return folder / f"umap-{found}.safetensors"


def _computed(features: np.ndarray) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError as error:
        raise EarthSSLError(
            f"UMAP: expected the package umap-learn, found none ({error}); pip install 'earthssl[umap]', or take the "
            "principal components"
        ) from None
    if len(features) <= NEIGHBOURS:
        raise EarthSSLError(f"UMAP: expected more than {NEIGHBOURS} states, got {len(features)}")
    chosen = np.unique(np.linspace(0, len(features) - 1, min(FITTED, len(features))).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        model = UMAP(n_neighbors=NEIGHBOURS, random_state=SEED)
        places = np.empty((len(features), 2), np.float32)
        places[chosen] = model.fit_transform(features[chosen])
        others = np.setdiff1d(np.arange(len(features)), chosen)
        if len(others):
            places[others] = model.transform(features[others])
    return places
