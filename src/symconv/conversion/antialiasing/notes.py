"""What a conversion did, layer by layer, and what holds for the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Note:
    """One layer.

    Attributes:
        layer: Its name.
        was: What it was.
        now: What was done.
        guarantee: "exact" or "approximate": whether it commutes with whole circular shifts.
        why: Where approximate, the reason.
    """

    layer: str
    was: str
    now: str
    guarantee: str
    why: str = ""


@dataclass(frozen=True)
class Notes:
    """All notes of a conversion; iterate over it for the rows, print it for a table.

    Attributes:
        method: "polyphase", "blur" or "dense".
        guarantee: "exact": under every whole circular shift of inputs whose sizes are multiples of
            `divisor`, scores stay and maps move by whole positions, up to rounding. Else
            "approximate".
        divisor: Per axis; 1 where every size will do.
        reasons: Why the whole is approximate: (layer, reason) pairs.
        rows: One per layer that was touched.
    """

    method: str
    guarantee: str
    divisor: tuple[int, ...]
    reasons: tuple[tuple[str, str], ...]
    rows: tuple[Note, ...]

    def __iter__(self) -> Iterator[Note]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and strings."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = f", sizes in multiples of {self.divisor}" if set(self.divisor) != {1} else ""
        lines = [f"{self.method}: {self.guarantee} under whole circular shifts{sizes}"]
        cells = [("layer", "was", "now", "guarantee")]
        cells += [
            (r.layer, r.was, r.now, r.guarantee + (f": {r.why}" if r.why else "")) for r in self
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(3)]
        lines += ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in cells]
        by_reason: dict[str, list[str]] = {}
        for layer, why in self.reasons:
            by_reason.setdefault(why, []).append(layer)
        for why, layers in by_reason.items():
            named = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if layers[3:] else "")
            lines.append(f"not exact: {why} ({named})")
        return "\n".join(lines)


def described(made: fx.GraphModule, node: fx.Node) -> str:
    """A layer's class and stride."""
    module = made.get_submodule(str(node.target))
    stride = getattr(module, "stride", None)
    return type(module).__name__ + (f", stride {stride}" if stride is not None else "")
