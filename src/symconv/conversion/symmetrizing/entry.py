"""`symmetrize`: its arguments checked, and the wrapper they ask for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from symconv.conversion.symmetrizing.average import Averaged
from symconv.conversion.symmetrizing.canonical import Canonical
from symconv.conversion.symmetrizing.motions import Shifts, Turns
from symconv.conversion.symmetrizing.outputs import KINDS, Motion
from symconv.errors import StructureError
from symconv.lattice import groups
from symconv.lattice.groups import Group
from symconv.lattice.representations import Field
from symconv.lattice.windows import per_axis


def symmetrize(
    model: nn.Module,
    group: Group | str,
    how: str = "average",
    *,
    output: str | Callable[[Any, Any], Any] = "scores",
    field: Field | None = None,
    in_field: Field | None = None,
    canonicaliser: nn.Module | None = None,
    ties: str = "average",
    period: int | None = None,
    chunk: int = 1,
) -> nn.Module:
    r"""Make any model invariant or equivariant, without training: a module around it.

        "average":    f(x) = 1 / |G| sum over g of g^-1 model(g x)
        "canonical":  f(x) = g^-1 model(g x) for the element g that x itself decides

    Of "scores" nothing is moved back: f(h x) = f(x). Of a "map" the positions are (and the channels
    of `field`): f(h x) = h f(x). An average costs |G| calls of the model and changes its outputs; a
    canonical pose costs one call, and the model meets its inputs in poses that it may not know:
    the pose is arbitrary unless a `canonicaliser` has learned the usual one.

    The model is not changed and not copied: the module shares its parameters, so that training one
    trains both. Give ``copy.deepcopy(model)`` to keep them apart. Modes are those of any submodule:
    `train()` and `eval()` reach the model. In training batch norm takes its statistics from one
    chunk of moved copies.

    Shapes: input (N, C, \*S); output that of the model. Values of the input are only moved, never
    interpolated. Exactness: a canonical pose without a tie gives the same bits for every pose of
    the input (of a model that does), as it is found in whole-number arithmetic; ties are
    averaged (at most 64 poses a sample, the first). Averages are equal to the rounding of the
    model's own outputs (their sum is taken in float64). A picture that is symmetric itself ties;
    for "scores" its equal poses are run once.

    Args:
        model: Anything that takes a batch (N, C, \*S).
        group: A group that maps the lattice onto itself, or its short name ("D4", "Oh"); or
            "translations", circular shifts of all axes, or "translations(n)" of n.
        how: "average" or "canonical".
        output: What the model gives: "scores" (N, ...), a "map" (N, channels, \*space), or a
            callable (element, y) -> y that moves an output y of any samples, tensors in dicts,
            lists or tuples, as the element moves a picture (`boxes` is one). For translations it
            gets a tuple of steps for the element.
        field: What the channels of a "map" mean, such as ``D4.vector(1)``; unmoved if left out.
        in_field: The same of the input.
        canonicaliser: For "canonical" poses: a module that gives (N, group.order) scores, one for
            each element, such as `Canonicaliser`. It chooses among the poses of an input that is in
            its canonical one already, so that the result is exact whatever it has learned.
        ties: "average" those of a canonical pose, or take the "first": always one call, a graph of
            fixed shape for `torch.compile(fullgraph=True)` and export. Scores stay exact, as equal
            poses of a symmetric picture give equal scores; its maps do not.
        period: For averages over translations: the shifts below this many positions along each
            axis. Exact for a model that commutes with circular shifts by that many (its total
            stride). All shifts if left out.
        chunk: Copies of the batch that go through the model at once. One needs least memory.

    Raises:
        StructureError: An argument is unknown, or does not apply to the others; the group does not
            act exactly; or (when called) the input has no batch or cannot be moved by the group
            (quarter turns of what is not square), or the model's output is not what `output` says.

    Example:
        >>> import torch, symconv as sc
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10))
        >>> invariant = sc.symmetrize(net, "D4", how="canonical")
        >>> x = torch.rand(4, 3, 8, 8)
        >>> torch.equal(invariant(x), invariant(x.rot90(1, (-2, -1))))
        True

    References:
        Yarotsky, Universal approximations of invariant maps by neural networks (2022), section 2.1;
        Kaba, Mondal, Zhang, Bengio, Ravanbakhsh, Equivariance with learned canonicalization
        functions (2023).
    """
    if not isinstance(model, nn.Module):
        raise StructureError("a model as a torch module", repr(model))
    if how not in ("average", "canonical"):
        raise StructureError('how="average" or "canonical"', repr(how))
    if output not in ("scores", "map") and not callable(output):
        raise StructureError(f"output={KINDS}", repr(output))
    if ties not in ("average", "first"):
        raise StructureError('ties="average" or "first"', repr(ties))
    (chunk,) = per_axis(chunk, 1, "chunk")
    _check_together(how, output, field, canonicaliser, ties)
    motion = _motion(group, how, field, in_field, canonicaliser, period)
    if how == "average":
        return Averaged(model, motion, output, chunk)
    _check_nesting(model, motion)
    return Canonical(model, motion, output, chunk, ties, canonicaliser)


def _check_together(
    how: str, output: Any, field: Field | None, canonicaliser: nn.Module | None, ties: str
) -> None:
    """Refuse arguments that the others leave without meaning."""
    if how == "average" and (canonicaliser is not None or ties != "average"):
        raise StructureError(
            'canonicaliser and ties only with how="canonical"', f"how={how!r}", "leave them out"
        )
    if field is not None and output != "map":
        raise StructureError('a field only with output="map"', f"output={output!r}")
    if canonicaliser is not None and not isinstance(canonicaliser, nn.Module):
        raise StructureError("a canonicaliser as a torch module", repr(canonicaliser))


def _motion(
    group: Any,
    how: str,
    field: Field | None,
    in_field: Field | None,
    canonicaliser: nn.Module | None,
    period: int | None,
) -> Motion:
    shifts = isinstance(group, str) and re.fullmatch(r"translations(?:\(([123])\))?", group)
    if shifts:
        if field is not None or in_field is not None or canonicaliser is not None:
            raise StructureError(
                "no field and no canonicaliser for translations", "one", "leave it out"
            )
        if period is not None:
            (period,) = per_axis(period, 1, "period")
            if how != "average":
                raise StructureError('a period only with how="average"', f"how={how!r}")
        return Shifts(int(shifts[1]) if shifts[1] else None, period)
    found = groups.parse(group)
    if not found.exact:
        raise StructureError(
            "a group that maps the lattice onto itself",
            str(found),
            "take its quarter turns and mirrors (C4, D4): other turns would interpolate; layers of "
            f"{found} are in symconv.nn",
        )
    if period is not None:
        raise StructureError('a period only with group="translations"', f"group {found}")
    for name, each in (("field", field), ("in_field", in_field)):
        if each is not None and (not isinstance(each, Field) or each.group != found):
            of = f"{each} over {each.group}" if isinstance(each, Field) else repr(each)
            raise StructureError(f"{name} over {found}", of)
    return Turns(found, in_field, field)


def _check_nesting(model: nn.Module, motion: Motion) -> None:
    """Refuse a canonical pose around a model whose own symmetry it would undo."""
    if not isinstance(model, (Averaged, Canonical)):
        return
    if isinstance(motion, Shifts) and isinstance(model.motion, Turns):
        raise StructureError(
            "a model that is not yet symmetrised over a group",
            f"one over {model.motion.group}",
            "symmetrize over translations first, then over the group",
        )
    if isinstance(motion, Turns) and isinstance(model, Averaged) and _shifts(model):
        raise StructureError(
            "canonical shifts inside canonical poses of a group",
            "an average over shifts",
            'its pose would depend on the shift: take how="average" for the group, or '
            'how="canonical" for both',
        )


def _shifts(model: Averaged) -> bool:
    return isinstance(model.motion, Shifts)
