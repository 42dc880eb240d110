"""Assertions for your own tests: is a module equivariant, is it what its structure says?"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from symconv.errors import StructureError
from symconv.lattice.groups import Element
from symconv.lattice.representations import Field
from symconv.lattice.windows import Size, per_axis
from symconv.structure import Structure
from symconv.transforms import act

# Largest error that rounding leaves, relative to the largest value compared.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}


def assert_equivariant(
    module: nn.Module,
    in_field: Field,
    out_field: Field | None,
    size: Size,
    *,
    elements: Iterable[Element] | None = None,
    batch: int = 2,
    tolerance: float | None = None,
    integers: bool = False,
    generator: torch.Generator | None = None,
) -> None:
    """Assert ``module(act(g, x)) == act(g, module(x))`` for elements g of the fields' group.

    The input is drawn at random; the module is used as it is, in its own mode, without gradients.
    Its buffers (such as running statistics) and modes are afterwards what they were.

    Args:
        module: Anything that takes (batch, in_field.channels, *size).
        in_field: Field of its input.
        out_field: Field of its output, over space or of (batch, channels) alone; None where the
            output should not change at all, such as scores of classes.
        size: Space of the input, an integer or one per axis.
        elements: The elements to try; if left out, all that map the lattice onto itself. (Others,
            such as turns by 45 degrees, act by interpolation: name them with a tolerance.)
        batch: Examples drawn.
        tolerance: Largest error allowed, relative to the largest value of the output; by default
            what rounding leaves in the output's type (`TOLERANCE`), or 0 with `integers`.
        integers: Draw small integers for the input, and for the parameters of a copy of the
            module. Sums of integers have no rounding, so a convolution must then agree to the last
            bit. Not for modules that divide or take roots, such as norms.
        generator: Source of the random numbers.

    Raises:
        AssertionError: Names the element, the error and where it is largest; or the output is zero
            everywhere, so that nothing was tested.

    Example:
        >>> import symconv as sc
        >>> C4 = sc.groups.parse("C4")
        >>> layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(2), kernel_size=3)
        >>> assert_equivariant(layer, C4.trivial(1), C4.regular(2), size=7, integers=True)
        >>> assert_equivariant(layer.to_conv(), C4.trivial(1), C4.trivial(8), size=7)
        Traceback (most recent call last):
            ...
        AssertionError: Conv2d is not equivariant under C4.elements[1], [[0, -1], [1, 0]]: ...
    """
    group = in_field.group
    if out_field is not None and out_field.group != group:
        raise StructureError(f"two fields of one group, {group}", f"{out_field.group}")
    if integers:
        module = _with_integers(module, generator)
    space = per_axis(size, group.dimension, "size")
    x = _draw((batch, in_field.channels, *space), module, integers, generator)
    with torch.no_grad(), _as_found(module):
        plain = module(x)
        if plain.numel() and not plain.any():
            raise AssertionError(
                f"nothing was tested: the output of {type(module).__name__} is zero everywhere"
            )
        exact = (element for element in group.elements if element.exact)
        for element in exact if elements is None else elements:
            moved = module(act(element, x, in_field))
            expected = plain if out_field is None else _act(element, plain, out_field)
            allowed = 0.0 if integers else TOLERANCE.get(plain.dtype, 0.0)
            allowed = allowed if tolerance is None else tolerance
            _compare(module, element, moved, expected, allowed)


@contextmanager
def _as_found(module: nn.Module) -> Iterator[None]:
    """Give every buffer and mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, held, held.clone())
        for part in module.modules()
        for name, held in part._buffers.items()
        if held is not None
    ]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for part, name, held, value in buffers:
            if not torch.equal(held, value):  # one in inference mode may not be written to
                held.copy_(value)
            part._buffers[name] = held


def _act(element: Element, y: Tensor, field: Field) -> Tensor:
    """The action on an output that may have no space left."""
    if y.ndim > 2:
        return act(element, y, field)
    return act(element, y.reshape(*y.shape, *(1,) * element.group.dimension), field).view_as(y)


def _compare(
    module: nn.Module, element: Element, moved: Tensor, expected: Tensor, allowed: float
) -> None:
    name = f"{type(module).__name__} is not equivariant under {element}, {element.matrix.tolist()}"
    if moved.shape != expected.shape:
        raise AssertionError(
            f"{name}: shape {tuple(moved.shape)} after it, {tuple(expected.shape)} expected"
        )
    if not expected.numel():
        return
    error = (moved.double() - expected.double()).abs()
    scale = max(float(expected.double().abs().max()), 1e-300)
    worst = float(error.max()) if not error.isnan().any() else math.nan
    if not worst <= allowed * scale:
        place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
        raise AssertionError(
            f"{name}: error {worst:.3g} at {place}, {worst / scale:.3g} of the largest value; "
            f"{allowed:.3g} is allowed"
        )


def assert_matches_structure(
    module: nn.Module,
    input_size: Size | None = None,
    *,
    batch: int = 2,
    tolerance: float = 1e-12,
    generator: torch.Generator | None = None,
) -> None:
    """Assert that a layer is the matrix of its structure: ``module(x) == W x + module(0)``.

    W is ``structure.materialize(module)``, and a copy of the module in float64 is used.

    Args:
        module: A layer that `Structure.of` knows.
        input_size: Space of the input; none for fully connected layers.
        batch: Examples drawn.
        tolerance: Largest error allowed, relative to the largest value of the output.
        generator: Source of the random numbers.

    Raises:
        AssertionError: Shapes or values differ.

    Example:
        >>> assert_matches_structure(nn.Conv2d(3, 4, 3, padding=1), input_size=(5, 6))
    """
    module = copy.deepcopy(module).double()
    structure = Structure.of(module, input_size)
    x = _draw((batch, *structure.input_shape), module, False, generator)
    with torch.no_grad():
        y, offset = module(x), module(torch.zeros_like(x[:1]))
    if tuple(y.shape[1:]) != structure.output_shape:
        raise AssertionError(f"output {tuple(y.shape[1:])}, {structure} says otherwise")
    matrix = structure.materialize(module)
    linear = torch.from_numpy((matrix @ x.flatten(1).cpu().numpy().T).T)
    expected = linear.reshape(y.shape) + offset.cpu()
    error = float((y.cpu() - expected).abs().max()) if y.numel() else 0.0
    scale = float(expected.abs().max()) if y.numel() else 0.0
    if not error <= tolerance * max(scale, 1e-300):
        raise AssertionError(
            f"{type(module).__name__} is not the matrix of {structure}: error {error:.3g}, "
            f"{tolerance:.3g} of {scale:.3g} is allowed"
        )


def _draw(
    shape: tuple[int, ...], module: nn.Module, integers: bool, generator: torch.Generator | None
) -> Tensor:
    """Random input of the type and on the device of the module's parameters."""
    like: Any = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    if integers:
        drawn = torch.randint(-4, 5, shape, generator=generator)
    else:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device, like.dtype)


def _with_integers(module: nn.Module, generator: torch.Generator | None) -> nn.Module:
    """A copy whose parameters are small integers."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randint(1, 9, parameter.shape, generator=generator)
            parameter.copy_(drawn - 9 * (drawn > 4))  # -4..-1 and 1..4: no weight tests nothing
    return module
