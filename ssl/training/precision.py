"""Which arithmetic suits a machine: bf16 where its matrix units have it, else single precision."""

from __future__ import annotations

import torch

from ..common.errors import EarthSSLError, nearest

AUTO = "auto"
PRECISIONS = (AUTO, "32-true", "bf16-mixed", "16-mixed")


def resolve(precision: str, accelerator: str = "auto") -> str:
    """Return the precision to train in: what is asked for, or for "auto" what suits the device.

    A CPU without bf16 matrix units (AMX) works in bf16 up to a hundred times more slowly than in fp32, so there
    "auto" is 32-true; on GPUs that multiply bf16 natively, and on CPUs with AMX, it is bf16-mixed.

    Raises:
        EarthSSLError: If half precision with a scaler is asked for without a GPU.
    """
    if precision == "16-mixed" and not (accelerator != "cpu" and torch.cuda.is_available()):
        raise EarthSSLError(
            "training.precision: expected a GPU for 16-mixed, got a CPU; take 32-true, or bf16-mixed where it is fast"
        )
    if precision != AUTO:
        return precision
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator == "mps" or (accelerator in ("auto", "gpu") and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if cpu_has_bf16() else "32-true"


def cpu_has_bf16() -> bool:
    """Return whether this CPU has matrix units for bf16 (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def check(precision: str) -> None:
    """Raise an EarthSSLError if the word is none of the known ones."""
    if precision not in PRECISIONS:
        raise EarthSSLError(
            f"training.precision: expected {', '.join(PRECISIONS)}, got '{precision}'." + nearest(precision, PRECISIONS)
        )
