"""What a store holds, in words."""

from __future__ import annotations

from pathlib import Path

from .store import Store


def describe(path: str | Path) -> str:
    """Return what a store holds, in lines to be read."""
    store = Store(path)
    m = store.manifest
    lines = [
        f"training store {store.address}",
        f"  source       {m['source']}",
        f"  variables    {', '.join(f'{n} [{u}]' for n, u in zip(m['variables'], m['units'], strict=True))}",
        f"  grid         {store.grid}",
        f"  times        {store.times[0]} … {store.times[-1]}, {len(store.times)} steps (UTC)",
        f"  valid cells  {', '.join(f'{n} {100 * s:.1f} %' for n, s in m['valid_share'].items())}",
        f"  statistics   {store.statistics.groups} climatology, {store.statistics.harmonics} harmonics, "
        "fitted on training times only",
    ]
    for part, block in m["split_proof"]["blocks"].items():
        lines.append(f"  {part:<12} {block['first'][:10]} … {block['last'][:10]}, {block['steps']} steps")
    gaps = ", ".join(f"{pair} {days:.0f} days" for pair, days in m["split_proof"]["gaps_days"].items())
    lines.append(f"  gaps         {gaps} (embargo {m['split_proof']['embargo_days']:g} days)")
    if store.mirror:
        lines.append(f"  cached in    {store.path}, at most {store.mirror.cache.gb:g} GB of all stores")
    size = sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    lines.append(f"  size         {size / 2**20:.1f} MiB, {m['dtype']}, {len(m['chunks_sha256'])} chunks")
    for name, one in m.get("quality", {}).items():
        lines += [f"  odd          {name}: {finding}" for finding in one["findings"]]
    for added in m.get("appended", []):
        lines.append(f"  appended     {added['first']} … {added['last']}, {added['steps']} steps, statistics kept")
    if "run" in m:
        took = m["run"]
        lines.append(f"  made in      {took['seconds']:.0f} s, peak memory {took['memory_mb']['peak']} MiB a process")
    lines.append(f"  fingerprint  {store.fingerprint}")
    return "\n".join(lines)
