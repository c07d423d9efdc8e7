"""Which arithmetic suits a device and an encoder: bf16 where it is multiplied natively and is faster, else fp32."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ..common.errors import EarthSSLError, nearest

AUTO = "auto"
SINGLE, HALF = "32-true", "bf16-mixed"
PRECISIONS = (AUTO, SINGLE, HALF, "16-mixed")
FORCED = "EARTHSSL_AUTO_PRECISION"  # environment variable: what "auto" stands for, whatever the device
LEAST_WIDTH = 128  # of an encoder, for bf16 on a CPU; see `choose`


@dataclass(frozen=True)
class Choice:
    """A precision, and in a few words why it is this one."""

    precision: str
    why: str


def resolve(precision: str, accelerator: str = "auto", width: int | None = None) -> str:
    """Return the precision of `choose`."""
    return choose(precision, accelerator, width).precision


def choose(precision: str, accelerator: str = "auto", width: int | None = None) -> Choice:
    """Return the precision to train in: what is asked for, or for "auto" what suits the device and the encoder.

    "auto" is bf16-mixed on GPUs that multiply bf16 natively, and on CPUs that do (AMX or AVX-512 BF16) where the
    encoder is at least 128 wide; elsewhere it is 32-true. A CPU without such instructions works in bf16 up to a
    hundred times more slowly than in fp32. With them (benchmarks/precision.py) a step takes, with AMX, as long in
    either at width 64, and with AVX-512 BF16 .46 of the time at 128 and .35 at 384: narrow encoders stay in fp32,
    so that their numbers are the same on every CPU.

    The environment variable EARTHSSL_AUTO_PRECISION (32-true or bf16-mixed) says what "auto" stands for instead.

    Args:
        precision: As in the config.
        accelerator: Lightning's word for the device.
        width: Of the encoder; None for a wide one.

    Raises:
        EarthSSLError: If half precision with a scaler is asked for without a GPU, or the variable holds another word.
    """
    if precision == "16-mixed" and not (accelerator != "cpu" and torch.cuda.is_available()):
        raise EarthSSLError(
            "training.precision: expected a GPU for 16-mixed, got a CPU; take 32-true, or bf16-mixed where it is fast"
        )
    if precision != AUTO:
        return Choice(precision, "as the config asks")
    if forced := os.environ.get(FORCED):
        if forced not in (SINGLE, HALF):
            raise EarthSSLError(f"{FORCED}: expected {SINGLE} or {HALF}, got '{forced}'")
        return Choice(forced, f"as {FORCED} asks")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(HALF, "the GPU multiplies bf16 natively")
        return Choice(SINGLE, "the GPU does not multiply bf16 natively")
    if accelerator == "mps" or (accelerator in ("auto", "gpu") and torch.backends.mps.is_available()):
        return Choice(SINGLE, "always on this device")
    if not cpu_has_bf16():
        return Choice(SINGLE, "this CPU has no instructions for bf16")
    if width is not None and width < LEAST_WIDTH:
        return Choice(SINGLE, f"an encoder {width} wide gains little in bf16; from {LEAST_WIDTH} on it is bf16-mixed")
    return Choice(HALF, f"this CPU multiplies bf16 natively and the encoder is at least {LEAST_WIDTH} wide")


def cpu_has_bf16() -> bool:
    """Return whether this CPU has instructions for products in bf16 (AMX or AVX-512 BF16)."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def check(precision: str) -> None:
    """Raise an EarthSSLError if the word is none of the known ones."""
    if precision not in PRECISIONS:
        raise EarthSSLError(
            f"training.precision: expected {', '.join(PRECISIONS)}, got '{precision}'." + nearest(precision, PRECISIONS)
        )
