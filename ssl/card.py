"""The model card: Markdown made from a checkpoint's record."""

from __future__ import annotations

from .record import Record


def card(record: Record) -> str:
    """Return the card, made from nothing but the record."""
    what = "Fine-tuned" if record.task else "Pretrained"
    return f"# {what} encoder of {', '.join(record.variables)}\n\nData: {record.source}. Licence: {record.licence}.\n"
