"""How normalised fields are kept in a store's files: float32, float16, or integers of 16 bits.

| dtype   | error of a stored value z (in standard deviations)       | largest abs(z) |
| ------- | -------------------------------------------------------- | -------------- |
| float32 | none                                                     | 3.4e38         |
| float16 | at most 2⁻¹¹ abs(z) + 2⁻²⁵; about 2e-4 root mean square  | 65504          |
| int16   | at most 2⁻¹² = 2.4e-4, whatever z; 1.4e-4 r.m.s.         | 15.99          |

An integer q stands for q / 2048, in float32 exactly; -32768 stands for a missing value. The step is the same in
every store, so that data appended later need no new one. bfloat16 is not offered: at the size of float16 it has
eight times its error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ..common.errors import EarthSSLError

DTYPES = ("float32", "float16", "int16")
STEP = 2.0**-11
MISSING = -32768
LARGEST = 32767
# xarray reads an int16 store as the same numbers: q × scale_factor, missing_value as NaN (CF conventions, 8.1).
CF = {"scale_factor": STEP, "missing_value": MISSING}


def fill_value(dtype: str) -> float | int:
    """Return what stands for a missing value in files of the dtype."""
    return MISSING if dtype == "int16" else np.nan


def encode(
    values: Float[np.ndarray, "time variable row column"], dtype: str, variables: Sequence[str]
) -> Shaped[np.ndarray, "time variable row column"]:
    """Return normalised values (NaN where missing) as a store's file keeps them.

    Raises:
        EarthSSLError: If a value is beyond what the dtype can hold, naming the variable.
    """
    largest = {"int16": LARGEST * STEP, "float16": 65504.0, "float32": np.inf}[dtype]
    with np.errstate(invalid="ignore"):
        beyond = (np.abs(values) > largest).any((0, 2, 3))
    if beyond.any():
        k = int(np.argmax(beyond))
        worst = float(np.nanmax(np.abs(values[:, k])))
        raise EarthSSLError(
            f"prepare.dtype {dtype} holds up to {largest:.5g} standard deviations, but {variables[k]} has "
            f"{worst:.4g}; choose {'float16 or ' if dtype == 'int16' else ''}float32, or mend the data"
        )
    if dtype != "int16":
        return values.astype(dtype)
    return np.where(np.isnan(values), MISSING, np.rint(values / STEP)).astype(np.int16)


def decode(stored: Shaped[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Return the values that stored ones stand for, float32, NaN where missing."""
    if stored.dtype != np.int16:
        return stored.astype(np.float32)
    return np.where(stored == MISSING, np.float32(np.nan), stored * np.float32(STEP))


def is_valid(stored: Shaped[np.ndarray, ...]) -> np.ndarray:
    """Return where stored values are not missing, bool."""
    return stored != MISSING if stored.dtype == np.int16 else np.isfinite(stored)


def widen(stored: Shaped[Tensor, ...], out: Float[Tensor, ...], valid: Shaped[Tensor, ...]) -> None:
    """Write stored values to `out` as float32, 0 where missing, and to `valid` where they are not.

    One pass where nothing is missing, which one sum tells: a missing value would make it NaN or infinite.
    """
    out.copy_(stored)
    if stored.dtype == torch.int16:
        out.mul_(STEP)
        valid.fill_(True)
        if int(stored.amin()) == MISSING:
            torch.ne(out, MISSING * STEP, out=valid)
            out.mul_(valid)
    elif torch.isfinite(out.sum()):
        valid.fill_(True)
    else:
        valid.copy_(torch.isfinite(out))
        out.nan_to_num_(0.0, 0.0, 0.0)


def widen_known(stored: Shaped[Tensor, ...], out: Float[Tensor, ...], mask: Shaped[Tensor, ...] | None) -> None:
    """Write stored values to `out` as `widen` does, where it is known beforehand which cells are valid.

    Nothing is looked for, so the copy is all that is paid for.

    Args:
        stored: Values of which exactly those outside the mask are missing.
        out: float32, of the same shape.
        mask: int16, of the last dimensions: -1 where valid, 0 where not; None where all are.
    """
    if stored.dtype == torch.int16:
        out.copy_(stored if mask is None else stored & mask)
        out.mul_(STEP)
    else:
        out.copy_(stored)
        if mask is not None:
            out.nan_to_num_(0.0, 0.0, 0.0)  # several times faster than to fill by a mask
