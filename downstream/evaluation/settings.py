"""What holds for the settings of every downstream task, whichever it is."""

from __future__ import annotations

from typing import Any

from ...ssl.common.errors import EarthSSLError


def check_settings(config: Any, own: str) -> None:
    """Refuse what no task can mean: too few draws, shares beyond 1, what is counted twice, what is empty or below 1.

    Args:
        config: A `TaskConfig`; keys that only some tasks have (leads, heads, components, window, …) are optional.
        own: Name of the task, for messages.

    Raises:
        EarthSSLError: Naming the setting.
    """
    if config.draws < 1000 or min(config.label_draws, config.block) < 1:
        raise EarthSSLError(
            f"{own}: expected draws ≥ 1000, label_draws ≥ 1 and block ≥ 1, got {config.draws}, {config.label_draws} "
            f"and {config.block}"
        )
    if min(config.untrained_seeds, config.random_seeds, config.scratch_draws) < 0:
        raise EarthSSLError(
            f"{own}: expected untrained_seeds, random_seeds and scratch_draws ≥ 0, got {config.untrained_seeds}, "
            f"{config.random_seeds} and {config.scratch_draws}"
        )
    if not all(0 < share <= 1 for share in config.fractions):
        raise EarthSSLError(f"{own}.fractions: expected shares in (0, 1], got {config.fractions}")
    if config.layers == []:
        raise EarthSSLError(f"{own}.layers: expected at least one, or null for the last third, got []")
    for name in ("leads", "heads", "fractions", "checkpoints"):
        values = getattr(config, name, [])
        if len(set(values)) < len(values):
            raise EarthSSLError(f"{own}.{name}: expected each once, got {', '.join(map(str, values))}; leave one out")
    for name in ("components", "pca_components"):
        values = getattr(config, name, [1])
        if not values or min(values) < 1:
            raise EarthSSLError(f"{own}.{name}: expected at least one number, each from 1, got {values}")
    for name in ("window", "pca_window"):
        steps = getattr(config, name, None)
        if steps is not None and steps < 1:
            raise EarthSSLError(f"{own}.{name}: expected at least 1 step, got {steps}")
