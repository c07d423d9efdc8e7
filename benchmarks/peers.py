"""A training step of masked pretraining beside lightly and Hugging Face: python benchmarks/peers.py

Every variant runs in a process of its own, in rounds whose order rotates; the table gives medians over the rounds
and ratios paired within a round, beside a GEMM canary. Peers are not dependencies: `pip install lightly
transformers`; where one is missing its rows are left out. Both refuse a 2:1 grid, so their position tables and
`patchify` are repaired here.

A step is forward, backward, optimiser and zero_grad on one fixed batch of normal numbers: 12 variables, patch 4 × 4,
75 % of the tokens hidden, decoder 128 × 4 with 4 heads. bf16 rows appear only where the hardware multiplies bf16
matrices.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from earthssl.ssl.training.precision import cpu_has_bf16
from torch import Tensor, nn

CHANNELS, PATCH, RATIO = 12, 4, 0.75
DECODER = (128, 4, 4)  # width, depth, heads
SHAPES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
SIZES = {  # name: encoder, rows, columns, batch
    "tiny 32×64 batch 32": ("tiny", 32, 64, 32),
    "tiny 32×64 batch 8": ("tiny", 32, 64, 8),
    "small 32×64 batch 32": ("small", 32, 64, 32),
    "tiny 64×128 batch 16": ("tiny", 64, 128, 16),
}
FP32 = ("lightly", "lightly, fused AdamW, compiled", "Hugging Face", "ours", "ours, compiled")
BF16 = (
    "lightly, bf16",
    "lightly, bf16, unfused attention, fused AdamW, compiled",
    "Hugging Face, bf16",
    "ours, bf16",
    "ours, bf16, compiled",
)


def main() -> None:
    """Run the rounds and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed steps a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), help="which of the sizes")
    parser.add_argument("--variants", nargs="*", help="which of the variants")
    parser.add_argument("--worker", nargs=2, metavar=("SIZE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(_measure(*options.worker, options.steps)))
        return
    variants = options.variants or [*FP32, *(BF16 if cpu_has_bf16() else ())]
    print(f"{_machine()}, {options.threads} threads, {options.rounds} rounds of {options.steps} steps")
    if not cpu_has_bf16():
        print("bf16 was not run: this processor has no bf16 matrix instructions")
    for size in options.sizes:
        _table(size, variants, options)


def _table(size: str, variants: list[str], options: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for number in range(options.rounds):
        shift = number % len(variants)
        for variant in variants[shift:] + variants[:shift]:
            command = [sys.executable, __file__, "--worker", size, variant]
            command += ["--steps", str(options.steps), "--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{variant}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found[variant].append({"round": number, **json.loads(done.stdout.splitlines()[-1])})
        print(f"{size}: round {number + 1} of {options.rounds}", file=sys.stderr)
    base = {run["round"]: run["ms"] for run in found["lightly"]} if found.get("lightly") else {}
    columns = "variant | ms a step | samples/s | times lightly fp32 (range) | share of its GEMM shapes | step MiB"
    print(f"\n{size}\n\n| {columns} |")
    print("| --- | --- | --- | --- | --- | --- |")
    batch = SIZES[size][3]
    for name, runs in found.items():
        if not runs:
            print(f"| {name} | not run | | | | |")
            continue
        ms = statistics.median(run["ms"] for run in runs)
        ratios = sorted(base[run["round"]] / run["ms"] for run in runs if run["round"] in base)
        against = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})" if ratios else ""
        share = statistics.median(run["floor_ms"] / run["ms"] for run in runs)
        memory = statistics.median(run["step_mib"] for run in runs)
        print(f"| {name} | {ms:.0f} | {1000 * batch / ms:.1f} | {against} | {share:.2f} | {memory:.0f} |", flush=True)
    canary = sorted(run["canary_gflops"] for runs in found.values() for run in runs)
    print(f"\nGEMM canary (fp32, 2048²): {statistics.median(canary):.0f} GF/s, {canary[0]:.0f} to {canary[-1]:.0f}")


def _measure(size: str, variant: str, steps: int) -> dict[str, float]:
    """Return milliseconds a step, the time of the same GEMM shapes alone, memory of the steps, and the canary."""
    torch.manual_seed(0)
    encoder, rows, columns, batch = SIZES[size]
    build = ours if variant.startswith("ours") else lightly if variant.startswith("lightly") else hugging_face
    bf16, compiled = "bf16" in variant, "compiled" in variant
    model, loss = build(SHAPES[encoder], rows, columns, batch, encoder)
    if "unfused" in variant:
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    # Before anything is compiled: a hook's own list would be guarded on, and a block compiled anew for each.
    shapes = _gemm_shapes(model, loss)
    if compiled:
        for module in model.modules():
            if type(module).__name__ == "Block":
                module.compile(dynamic=False)
    fused = variant.startswith("ours") or "fused AdamW" in variant
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=fused or None)
    canary = _canary()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    memory = _peak_mib(step)
    floor = _alone(shapes, torch.bfloat16 if bf16 else torch.float32)
    return {"ms": 1e3 * statistics.median(times), "floor_ms": 1e3 * floor, "step_mib": memory, "canary_gflops": canary}


def ours_parts(size: str, rows: int, columns: int, batch: int) -> tuple[nn.Module, nn.Module, Any]:
    """Return this workbench's encoder, its masking objective and a batch, as `earthssl pretrain` puts them together."""
    import numpy as np
    from earthssl.pretext.prediction.masking import MaskingConfig
    from earthssl.pretext.prediction.masks import MaskConfig
    from earthssl.ssl.fields.batch import from_fields
    from earthssl.ssl.fields.grid import LatLonGrid
    from earthssl.ssl.model.encoder import EncoderConfig
    from earthssl.ssl.training.objective import Context

    names = ("t2m", "u10", "v10", "msl", "z500", "t500", "z850", "t850", "u850", "v850", "u500", "v500")
    lat = 90 - (np.arange(rows) + 0.5) * 180 / rows
    grid = LatLonGrid(lat, np.arange(columns) * 360 / columns)
    encoder = EncoderConfig(size, 1, (1, PATCH, PATCH)).build(names)
    width, depth, heads = DECODER
    settings = MaskingConfig(
        masks=[MaskConfig("random", ratio=RATIO)], decoder_width=width, decoder_depth=depth, decoder_heads=heads
    )
    fields = torch.randn(batch, 1, CHANNELS, rows, columns)
    known = torch.ones(CHANNELS, rows, columns, dtype=torch.bool)
    data = from_fields(fields, torch.zeros(batch, 1, dtype=torch.int64), torch.arange(batch), known, names, grid)
    return encoder, settings.build(Context(encoder, names, grid)), data


def ours(shape: tuple[int, int, int], rows: int, columns: int, batch: int, size: str) -> tuple[nn.Module, Callable]:
    """Return this workbench's step."""
    encoder, objective, data = ours_parts(size, rows, columns, batch)
    return nn.ModuleList([encoder, objective]), lambda: objective(encoder, data).loss


def _sincos(rows: int, columns: int, width: int) -> Tensor:
    """Return a rectangular sine-cosine table with a row of zeros for the class token, (1, tokens + 1, width)."""
    omega = 1 / 10000 ** (torch.arange(width // 4) / (width / 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    waves = [f(axis.flatten()[:, None] * omega) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return torch.cat([torch.zeros(1, width), torch.cat(waves, 1)])[None]


def _cut(images: Tensor) -> Tensor:
    """Return the patches of images of any shape, as lightly's `patchify` does for squares."""
    n, c, h, w = images.shape
    x = images.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return torch.einsum("nchpwq->nhwpqc", x).reshape(n, -1, PATCH * PATCH * c)


def lightly(shape: tuple[int, int, int], rows: int, columns: int, batch: int, size: str) -> tuple[nn.Module, Callable]:
    """Return lightly's MAE as its example builds it, position table and patchify repaired for 2:1 grids."""
    import warnings

    warnings.simplefilter("ignore")
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    width, depth, heads = shape
    vit = VisionTransformer(
        (rows, columns), PATCH, CHANNELS, 0, embed_dim=width, depth=depth, num_heads=heads, global_pool="token"
    )
    backbone = MaskedVisionTransformerTIMM(vit=vit, pos_embed_initialization="skip")
    tokens, grid = vit.patch_embed.num_patches, (rows // PATCH, columns // PATCH)
    decoder_width, decoder_depth, decoder_heads = DECODER
    decoder = MAEDecoderTIMM(
        num_patches=tokens,
        patch_size=PATCH,
        in_chans=CHANNELS,
        embed_dim=width,
        decoder_embed_dim=decoder_width,
        decoder_depth=decoder_depth,
        decoder_num_heads=decoder_heads,
        initialize_weights=False,
    )
    vit.pos_embed.data.copy_(_sincos(*grid, width))
    vit.pos_embed.requires_grad_(False)
    decoder.decoder_pos_embed.data.copy_(_sincos(*grid, decoder_width))
    images = torch.randn(batch, CHANNELS, rows, columns)
    criterion = nn.MSELoss()

    def loss() -> Tensor:
        keep, mask = utils.random_token_mask(size=(batch, tokens + 1), mask_ratio=RATIO)
        encoded = backbone.encode(images=images, idx_keep=keep)
        entered = decoder.embed(encoded)
        full = utils.repeat_token(decoder.mask_token, (batch, tokens + 1))
        full = utils.set_at_index(full, keep, entered.type_as(full))
        predicted = decoder.predict(utils.get_at_index(decoder.decode(full), mask))
        target = utils.get_at_index(_cut(images), mask - 1)
        return criterion(predicted, target)

    return nn.ModuleList([backbone, decoder]), loss


def hugging_face(
    shape: tuple[int, int, int], rows: int, columns: int, batch: int, size: str
) -> tuple[nn.Module, Callable]:
    """Return Hugging Face's ViTMAE, position table and patchify repaired for 2:1 grids."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    from transformers.models.vit_mae import modeling_vit_mae as module

    width, depth, heads = shape
    decoder_width, decoder_depth, decoder_heads = DECODER
    grid = (rows // PATCH, columns // PATCH)
    module.build_2d_sinusoidal_position_embedding = lambda *_, embed_dim, **__: _sincos(*grid, embed_dim)[0]
    module.ViTMAEForPreTraining.patchify = lambda self, pixels, *_, **__: _cut(pixels)
    config = ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=(rows, columns),
        patch_size=PATCH,
        num_channels=CHANNELS,
        decoder_num_attention_heads=decoder_heads,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=decoder_depth,
        decoder_intermediate_size=4 * decoder_width,
        mask_ratio=RATIO,
    )
    model = ViTMAEForPreTraining(config)
    images = torch.randn(batch, CHANNELS, rows, columns)
    return model, lambda: model(images).loss


def _gemm_shapes(model: nn.Module, loss: Callable[[], Tensor]) -> list[tuple[int, int, int]]:
    """Return (rows, inputs, outputs) of every linear layer in one forward pass; attention is left out."""
    shapes: list[tuple[int, int, int]] = []

    def note(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append((inputs[0].numel() // module.in_features, module.in_features, module.out_features))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        loss()
    for hook in hooks:
        hook.remove()
    return shapes


def _alone(shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> float:
    """Return the seconds that the products of those shapes take by themselves: forward and both gradients."""
    total = 0.0
    for m, k, n in set(shapes):
        x, w, g = (torch.randn(size).to(dtype) for size in ((m, k), (n, k), (m, n)))
        work: list[Callable[[], Any]] = [partial(_forward, x, w), partial(torch.mm, g, w), partial(torch.mm, g.T, x)]
        for product in work:
            product()
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                product()
                times.append(time.perf_counter() - begun)
            total += statistics.median(times) * shapes.count((m, k, n))
    return total


def _forward(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.T


def _canary() -> float:
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    a @ b
    begun = time.perf_counter()
    for _ in range(3):
        a @ b
    return 3 * 2 * 2048**3 / (time.perf_counter() - begun) / 1e9


def _peak_mib(step: Callable[[], None]) -> float:
    """Return the most that a step holds at once beyond what was there before it, as the allocator counts it.

    Resident memory would add what the allocator keeps for later, which varies by a tenth from process to process.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace.json")
        watched.export_chrome_trace(trace)
        with open(trace) as file:
            events = json.load(file)["traceEvents"]
    held = [event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"]
    return (max(held) - held[0]) / 2**20


def _machine() -> str:
    names = {}
    for name in ("torch", "timm", "lightly", "transformers"):
        try:
            names[name] = version(name)
        except PackageNotFoundError:
            names[name] = "absent"
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({capability}), " + ", ".join(f"{name} {number}" for name, number in names.items())


if __name__ == "__main__":
    main()
