"""What cached features are named by: all that changes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from earthssl.downstream.evaluation.encoders import contenders, features_key
from earthssl.downstream.evaluation.evaluate import evaluate
from earthssl.downstream.tasks.enso.monthly_ridge import HeadOptions
from earthssl.downstream.tasks.enso.task import Enso, EnsoConfig
from earthssl.ssl.model.encoder import Encoder, EncoderConfig
from earthssl.ssl.store.store import Store


def built(window: int, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return EncoderConfig("pico", window, (1, 2, 3)).build(("sst",))


def test_encoders_of_the_same_weights_and_another_window_have_another_name() -> None:
    one, other = built(3), built(6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert features_key(one) != features_key(other)
    assert features_key(one) == features_key(built(3))
    assert features_key(one) != features_key(built(3, seed=1))


def test_contenders_are_named_by_it(small_store: Path) -> None:
    found = contenders(Store(small_store), [], 2, EncoderConfig("pico", 3, (1, 2, 3)))
    assert [one.features_key for one in found] == [features_key(one.encoder) for one in found]
    assert len({one.features_key for one in found}) == 2


def test_encoders_of_the_matrix_do_not_share_a_cache(small_store: Path, tmp_path: Path) -> None:
    shape = EncoderConfig("pico", 3, (1, 2, 3))
    config = EnsoConfig(str(small_store), leads=[3], window=3, poolings=["mean"], head=HeadOptions(months=(12,)),
                        encoder=shape, cache=str(tmp_path))  # fmt: skip
    task, errors = Enso(config, Store(small_store)), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        errors.append(evaluate(task, shape.build(task.store.variables), [0])[0].error)
    assert not np.array_equal(*errors)
    assert len(list(tmp_path.iterdir())) == 2
