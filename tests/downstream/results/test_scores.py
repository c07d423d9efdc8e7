"""The table maker: which pairs are told, what the finding says, and what stays out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from earthssl.downstream.results.finding import finding
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.results.target import class_target, number_target

TRUTH = np.random.default_rng(0).normal(size=40)
UNITS = np.arange(40) // 4


def row(name: str, role: Role, off: float, seed: int | None = None, reference: bool | None = None) -> Row:
    return Row(name, role, {"t": TRUTH + off}, seed, reference=reference)


def rows() -> list[Row]:
    return [
        row("climatology", Role.BASELINE, 1.0, reference=False), row("PCA", Role.BASELINE, 0.3),
        row("pretrained [probe]", Role.PRETRAINED, 0.2, reference=True), row("untrained [probe]", Role.UNTRAINED, 0.4),
        row("pretrained, fine-tuned [full]", Role.TUNED, 0.1, 0),
        row("pretrained, fine-tuned [full]", Role.TUNED, 0.1, 1),
    ]  # fmt: skip


def test_rows_are_subtracted_by_role_unless_they_say_otherwise() -> None:
    target = number_target("t", TRUTH, np.zeros(40), UNITS)
    scores, differences = tables([target], rows(), draws=1000)
    assert set(differences["reference"]) == {"PCA", "pretrained [probe]", "untrained [probe]"}
    assert set(scores[scores["seed"] != ""]["row"]) == {"pretrained, fine-tuned [full]"}


def test_a_metric_says_which_pairs_it_compares() -> None:
    target = number_target("t", TRUTH, np.zeros(40), UNITS)
    metric = replace(target.metrics[0], pairs=lambda one, other: one.startswith("pretrained,") and other == "PCA")
    _, differences = tables([replace(target, metrics=[metric])], rows(), draws=1000)
    assert differences[["row", "reference"]].to_numpy().tolist() == [["pretrained, fine-tuned [full]", "PCA"]]
    assert differences["verdict"].tolist() == ["better"]


def test_a_tuned_network_is_held_against_the_frozen_encoder_too() -> None:
    target = number_target("t", TRUTH, np.zeros(40), UNITS)
    scores, differences = tables([target], rows(), draws=1000)
    said = finding(scores, differences, rows(), [("t", "skill")])
    assert said.startswith("pretrained, fine-tuned [full] has skill")
    assert "against the frozen encoder (pretrained [probe]" in said
    assert "against the best untrained row (untrained [probe]" in said


def test_a_row_of_seeds_scores_their_mean_and_pairs_with_the_others() -> None:
    rng = np.random.default_rng(0)
    labels, units = rng.integers(0, 3, 120), np.repeat(np.arange(10), 12)
    clim = np.full((120, 3), 1 / 3)
    sharp = 0.7 * np.eye(3)[labels] + 0.1
    said = {"climatology": [clim], "mixed": [clim, sharp], "twin": [sharp], "sharp": [sharp]}
    rows = [Row(name, Role.BASELINE, {"t": p}, k) for name, seeds in said.items() for k, p in enumerate(seeds)]
    target = class_target("t", labels, clim, units)
    found, paired = tables([target], rows, draws=100, references=["twin", "climatology"])
    own = found[(found.metric == "brier_skill") & (found.seed == "")].set_index("row")["value"]
    assert own["mixed"] == pytest.approx((own["climatology"] + own["sharp"]) / 2)
    same = paired[(paired.row == "sharp") & (paired.reference == "twin")]
    assert same[["value", "low", "high"]].abs().max(axis=None) < 1e-12
    assert set(same.verdict) == {"undecided"}
    loss = paired[(paired.row == "sharp") & (paired.reference == "climatology") & (paired.metric == "log_loss")]
    assert loss["value"].item() < 0
    assert loss["verdict"].item() == "better"  # a smaller loss is better
