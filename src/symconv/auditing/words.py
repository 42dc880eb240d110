"""An audit in sentences and short cells, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symconv.auditing.records import EquivarianceRow, ReceptiveField, Sizes, Total
    from symconv.auditing.report import Audit

PARTS = {  # a part of the report -> how it is called in a sentence
    "counts": "the counts",
    "receptive_field": "the receptive field",
    "equivariance": "the equivariance",
    "sizes": "the sizes",
}


def times(numbers: Sequence[object]) -> str:
    """Sizes of several axes.

    Example:
        >>> times((3, 224, 224)), times((None, 7))
        ('3x224x224', 'allx7')
    """
    return "x".join("all" if n is None else str(n) for n in numbers)


def agreed(numbers: Sequence[object]) -> str:
    """Sizes of several axes, one number where all are the same.

    Example:
        >>> agreed((32, 32)), agreed((1, 2))
        ('32', '1x2')
    """
    return times(numbers[:1] if len(set(numbers)) == 1 else numbers)


def field_cell(field: ReceptiveField | None) -> str:
    """A receptive field's size; a star where it has holes, "all" where everything is seen."""
    if field is None:
        return "-"
    if field.everything:
        return "all"
    return agreed(field.size) + ("*" if field.holes else "")


def error_cell(error: float | None) -> str:
    """A relative error with two digits; a dash where there is none.

    Example:
        >>> error_cell(0.0), error_cell(2.34e-16), error_cell(0.0321), error_cell(None)
        ('0', '2.3e-16', '0.032', '-')
    """
    return "-" if error is None else f"{error:.2g}"


def tail(name: str, width: int = 28) -> str:
    """A layer's name, cut at its beginning where it is long: the end says which one it is.

    Example:
        >>> tail("stages.3.blocks.11.fc2", 12)
        '…ocks.11.fc2'
    """
    return name if len(name) <= width else f"…{name[1 - width :]}"


def totals(total: Total) -> list[str]:
    """What the whole model holds and does; exact, or said to be a lower bound."""
    least = "at least " if total.unknown else ""
    share = ""
    if total.padding_macs:
        share = f" ({100 * total.padding_macs / total.macs:.1f} % of them on zero padding)"
    said = [
        f"{total.parameters:,} parameters, {least}{total.macs:,} MACs{share}, "
        f"{least}{total.connections:,} connections."
    ]
    return said + [f"Unknown: {sentence}" for sentence in total.unknown]


def field_sentences(audit: Audit) -> list[str]:
    """What one output sees of the input; of a network that ends by seeing all, also what came last.

    A layer before a global pooling, attention or a dense layer still has a field of its own.
    """
    field = audit.receptive_field
    if field is None:
        return []
    if not field.everything:
        return [*_box("One output", field)]
    last = next((r for r in reversed(audit.layers) if _bounded(r.receptive_field)), None)
    said = ["Every output sees the whole input."]
    if last is not None and last.receptive_field is not None:
        said += _box(f"Before that, one output of {last.name}", last.receptive_field)
    return said


def _bounded(field: ReceptiveField | None) -> bool:
    return field is not None and not field.everything and None not in field.size


def _positions(size: Sequence[int | None]) -> str:
    """A size in words.

    Example:
        >>> _positions((1,)), _positions((3, 3))
        ('1 input position', '3x3 input positions')
    """
    return f"{times(size)} input position" + ("" if set(size) == {1} else "s")


def _box(who: str, field: ReceptiveField) -> list[str]:
    text = (
        f"{who} sees {_positions(field.size)}; the next one's field lies "
        f"{agreed(field.stride)} further, and the first one's begins {agreed(field.padding)} "
        "before the input."
    )
    return [text] + (["Within that box some positions are not seen."] if field.holes else [])


def size_sentences(sizes: Sizes) -> list[str]:
    """Which sizes work, and what reaches from the padding of a batch into its items."""
    said = []
    if sizes.smallest is not None:
        said.append(f"Smallest input that works: {times(sizes.smallest)}.")
    if sizes.law is not None:
        said.append(f"Output size: {sizes.law}.")
    if sizes.fixed_by is not None:
        said.append(f"The input size is fixed by {sizes.fixed_by}.")
    if sizes.leak is not None:
        said.append(
            "Zero padding of a batch leaks: what lies in it changes valid outputs."
            if sizes.leak
            else "Zero padding of a batch does not leak into valid outputs."
        )
    return said + [_sentence(note) for note in sizes.notes]


def missing(audit: Audit) -> list[str]:
    """The parts that could not be measured, and why."""
    return [f"No {PARTS.get(p, p).removeprefix('the ')}: {why}" for p, why in audit.reasons.items()]


def whole(audit: Audit) -> list[EquivarianceRow]:
    """The rows of the whole model."""
    return [row for row in audit.equivariance or () if row.layer == ""]


def remarks(rows: Sequence[EquivarianceRow]) -> list[str]:
    """The notes of rows, each said once, with the transforms that it is about unless it is all.

    Example:
        >>> from symconv.auditing.records import EquivarianceRow
        >>> rows = [EquivarianceRow(name, "", 0.1, None, None, "broken", note)
        ...         for name, note in (("mirror", "no interior"), ("shift 1", "no interior; odd"))]
        >>> remarks(rows)
        ['No interior.', 'shift 1: odd.']
    """
    about: dict[str, list[str]] = {}
    for row in rows:
        for part in [*(row.note or "").split("; "), _beyond(row)]:
            if part:
                about.setdefault(part, []).append(row.transform)
    every = len(rows)
    return [
        _sentence(part) if len(names) == every else f"{', '.join(names)}: {part}."
        for part, names in about.items()
    ]


def _beyond(row: EquivarianceRow) -> str:
    if row.interior_error is not None or row.smallest_interior is None:
        return ""
    return f"no unit avoids the border; an input of {times(row.smallest_interior)} has one"


def _sentence(text: str) -> str:
    """Begun with a capital, but for symbols such as h, and ended with a full stop."""
    word = text.split(" ")[0]
    start = text[:1].upper() if len(word) > 1 else text[:1]
    return f"{start}{text[1:]}" + ("" if text.endswith(".") else ".")


def culprits(audit: Audit) -> list[str]:
    """What breaks a symmetry and what is exact, in sentences; the first thing to read."""
    rows = whole(audit)
    exact = [row.transform for row in rows if row.verdict == "exact"]
    said = [f"{sentence.removesuffix('.')}." for sentence in audit.culprits]
    if exact:
        said.append(f"Exact for the whole model: {', '.join(exact)}.")
    if audit.period is not None:
        said.append(f"Exact period of circular shifts: {agreed(audit.period)} px.")
    return said


def local(audit: Audit) -> tuple[list[str], dict[tuple[str, str], EquivarianceRow]]:
    """The layers that are not exact by themselves, in their order; rows by layer and transform."""
    rows = [r for r in audit.equivariance or () if r.layer and r.local_error is not None]
    faulty = {r.layer for r in rows if r.verdict != "exact"}
    names = [name for name in dict.fromkeys(r.layer for r in rows) if name in faulty]
    return names, {(r.layer, r.transform): r for r in rows}


def transforms(audit: Audit) -> list[str]:
    """The transforms of the report, each once, in their order."""
    return list(dict.fromkeys(row.transform for row in audit.equivariance or ()))
