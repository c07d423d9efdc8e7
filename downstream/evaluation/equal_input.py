"""The rows on equal input that every table owes its reader: raw window, random features, components, predictable ones.

On monthly SST of the tropical Pacific, ridge on random ReLU features of the raw window is as good as an untrained
transformer: an encoder that does not beat these rows has found nothing that a label needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..features.eof import window_components
from ..features.random_features import random_relu
from ..results.row import Role, Row

RAW, RANDOM = "raw window", "random features of the raw window"
PCA, PREDICTABLE = "PCA of the window", "predictable directions (CCA)"
RANDOM_FEATURES = 512
FEWEST_RANDOM = 5  # sets of random features, or the table says that they are few
PCA_COMPONENTS = (5, 10, 20, 40, 80, 150)


def equal_input_rows(
    fitted: Callable[..., Row],
    head: str,
    raw: np.ndarray,
    training: np.ndarray,
    random_seeds: int,
    predictable: Mapping[str, np.ndarray],
    components: Sequence[int] = PCA_COMPONENTS,
) -> Iterator[Row]:
    """Yield the task's head on what an encoder sees, without an encoder; settings chosen on validation.

    Args:
        fitted: `Task.fitted`.
        head: Its name, for the brackets.
        raw: The encoder's own input at all samples, (sample, …, value); NaN where a sample has none.
        training: Samples of the training block, indices or a mask.
        random_seeds: Number of rows of random features.
        predictable: Candidates of directions that predict the fields ahead; empty for none.
        components: Numbers of principal components to choose from.
    """
    yield fitted(f"{RAW} [{head}]", Role.BASELINE, {f"{raw.shape[-1]} values": raw})
    for seed in range(random_seeds):
        made = random_relu(raw, training, RANDOM_FEATURES, seed)
        yield fitted(f"{RANDOM} [{head}]", Role.BASELINE, {f"{RANDOM_FEATURES} ReLU": made}, seed)
    yield fitted(f"{PCA} [{head}]", Role.BASELINE, window_components(raw, training, components))
    if predictable:
        yield fitted(f"{PREDICTABLE} [{head}]", Role.BASELINE, predictable)
