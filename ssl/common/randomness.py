"""Randomness as a function of (seed, purpose, epoch, index): counter-based, so that nothing has to be restored.

A key is a 64-bit integer; numbers are hashes of key + counter (splitmix64: Steele, Lea & Flood 2014,
doi 10.1145/2660193.2660195). Computed with tensor arithmetic: on any device, the same numbers, no host
synchronisation, whatever the batch, worker or rank that asks.
"""

from __future__ import annotations

import hashlib
from typing import SupportsInt

import torch
from jaxtyping import Float, Int
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MULTIPLY_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MULTIPLY_2 = -7723592293110705685  # 0x94D049BB133111EB


def key(seed: SupportsInt, purpose: str, *numbers: SupportsInt) -> int:
    """Return the signed 64-bit key of a seed, a purpose in words, and any numbers (epoch, step, …)."""
    # int(): numpy and torch integers print differently, but are the same number
    text = repr((int(seed), purpose, tuple(int(number) for number in numbers))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch shifts signed integers arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * MULTIPLY_1
    x = (x ^ _shift(x, 27)) * MULTIPLY_2
    return x ^ _shift(x, 31)


def fold(keys: Int[Tensor, "*batch"], number: int | Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Return new keys made of keys and a number (an index, or the key of a purpose)."""
    return _mix(_mix(keys + GOLDEN) ^ (torch.as_tensor(number, device=keys.device) * GOLDEN + GOLDEN))


def uniform(keys: Int[Tensor, " batch"], count: int) -> Float[Tensor, "batch count"]:
    """Return `count` numbers in [0, 1) for every key, float32 with 24 random bits."""
    counter = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64) * GOLDEN
    bits = _shift(_mix(_mix(keys)[:, None] + counter), 40)
    return bits.to(torch.float32) * 2.0**-24


def permutation(seed: int, purpose: str, epoch: int, size: int) -> Int[Tensor, " size"]:
    """Return a permutation of range(size) that depends on nothing but its arguments."""
    keys = torch.tensor([key(seed, purpose, epoch)])
    counter = torch.arange(1, size + 1, dtype=torch.int64) * GOLDEN
    return torch.argsort(_mix(_mix(keys) + counter), stable=True)
