"""The table that `Sequential.summary` prints."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from .fusion import ResidualStep, Spans
from .layers import Layer, Residual
from .layers.base import names_of

if TYPE_CHECKING:
    from .model import Sequential

Row = tuple[str, str, str, str]


def table(model: Sequential) -> str:
    """Layers, their output shapes, their numbers of parameters, and which are computed as one."""
    rows = [("Layer (type)", "Output shape", "Params", ""), *_rows(model.layers, model._spans)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}{d}" for a, b, c, d in rows]
    rule = "-" * len(lines[0])
    total = f"Parameters: {model.count_params():,} ({model.parameters.nbytes / 1024:,.1f} KiB)"
    if state := sum(array.size for layer in model.layers for array in layer.state.values()):
        total += f", and {state:,} numbers that are not trained"
    return "\n".join([lines[0], rule, *lines[1:], rule, total])


def _rows(layers: list[Layer], spans: Spans, indent: str = "") -> list[Row]:
    """A row for each layer; of those that are computed as one, all but the first say with which."""
    names = names_of(layers)
    counts = [count for _, count in spans]
    heads = [
        (step, f"  fused into {names[start]}" if i else "")
        for start, (step, count) in zip(accumulate(counts, initial=0), spans, strict=False)
        for i in range(count)
    ]
    rows: list[Row] = []
    for name, layer, (step, note) in zip(names, layers, heads, strict=True):
        count = sum(array.size for array in layer.params.values())
        shape = f"({', '.join(map(str, ('None', *(layer.output_shape or ()))))})"
        if isinstance(step, ResidualStep) and step.joined and layer is step.block:
            note += f"  sum fused into body/{names_of(step.block.body)[-1]}"
        rows.append((f"{indent}{name} ({type(layer).__name__})", shape, f"{count:,}", note))
        if isinstance(layer, Residual):
            fused = isinstance(step, ResidualStep)
            for where in ("body", "shortcut"):
                chain = getattr(layer, where)
                inner = getattr(step, where) if fused else [(each, 1) for each in chain]
                rows += _rows(chain, inner, f"{indent}  {where}/")
    return rows
