"""Operations that move numbers: views, joins, padding, shuffles, indexing."""

from __future__ import annotations

from typing import Any

from symconv.auditing.receptive import reach
from symconv.auditing.receptive.reach import Reach
from symconv.auditing.receptive.seen import Digit, Seen, fresh, together
from symconv.auditing.receptive.steps import Step, per_axis


def reshape(s: Step) -> Seen:
    """Views of other shapes."""
    return s.x.reshaped(s.shape)


def same(s: Step) -> list[Seen]:
    """Copies."""
    return [s.x] * len(s.shapes)


def expand(s: Step) -> Seen:
    """Axes of size one repeated."""
    return together([s.x], s.shape)


def permute(s: Step) -> Seen:
    """Axes in another order."""
    x = s.x
    return x.arranged(x.axes[d] for d in s.dims("dims"))


def transpose(s: Step) -> Seen:
    """Two axes exchanged."""
    x = s.x
    axes = list(x.axes)
    if len(axes) > 1:
        a, b = (s.args.get(k, d) % len(axes) for k, d in (("dim0", 0), ("dim1", 1)))
        axes[a], axes[b] = axes[b], axes[a]
    return x.arranged(axes)


def squeeze(s: Step) -> Seen:
    """Axes of size one taken away."""
    x = s.x
    for axis in sorted(s.dims(), reverse=True):
        x = x.picked(axis) if x.shape[axis] == 1 else x
    return x


def unsqueeze(s: Step) -> Seen:
    """An axis of size one put in."""
    axes = list(s.x.axes)
    axes.insert(s.args["dim"] % (len(axes) + 1), (Digit(1),))
    return s.x.arranged(axes)


def select(s: Step) -> Seen:
    """One position of an axis."""
    return s.x.picked(s.args.get("dim", 0) % len(s.x.axes))


def unbind(s: Step) -> list[Seen]:
    """Every position of an axis by itself."""
    return [s.x.picked(s.args.get("dim", 0) % len(s.x.axes))] * len(s.shapes)


def slice_(s: Step) -> Seen:
    """A range of positions with a step."""
    x = s.x
    axis = s.args.get("dim", 0) % len(x.axes)
    if s.shape[axis] == x.shape[axis]:
        return x
    start = slice(s.args.get("start"), None).indices(x.shape[axis])[0]
    step = s.args.get("step", 1)
    return x.moved(axis, Reach.of(1, step, lambda _: (start,)), s.shape[axis])


def split(s: Step) -> list[Seen]:
    """Consecutive ranges of positions."""
    axis, start, parts = s.args.get("dim", 0) % len(s.x.axes), 0, []
    for shape in s.shapes:
        parts.append(s.x.moved(axis, reach.shift(start), shape[axis]))
        start += shape[axis]
    return parts


def cat(s: Step) -> Seen:
    """Joined along an axis: side by side where nothing depends on it, else shifted parts."""
    tensors = [t for t in s.args["tensors"] if t.numel() or t.dim() == len(s.shape)]
    axis = s.args.get("dim", 0) % len(s.shape)
    size, start, parts = s.shape[axis], 0, []
    moved = [s.seen(t) for t in tensors]
    depends = [x.depends_on(axis) for x in moved]
    for x, d in zip(moved, depends, strict=True):
        length = x.shape[axis]
        if d and len(x.axes[axis]) > 1:
            parts.append(x.tangled(axis, size, "tokens are joined with others on one axis"))
        elif d:
            parts.append(x.moved(axis, reach.shift(-start), size))
        else:
            parts.append(x.arranged(x.axis_replaced(axis, (Digit(size),))))
        start += length
    bound = [k for k, d in enumerate(depends) if d]
    out = together(parts, s.shape)
    if len(bound) < 2:
        return out
    main = max(bound, key=lambda k: moved[k].shape[axis])
    length = moved[main].shape[axis]
    if all(_continues(parts[k], parts[main], axis, length) for k in bound):
        return parts[main]
    return out.moved(axis, "different parts are joined along a space axis", size)


def _continues(part: Seen, main: Seen, axis: int, length: int) -> bool:
    """Is a part the map itself further on, or the map's other end (circular padding by hand)?"""
    (ours,) = _renamed([main, part], axis)[1:]
    ways = (main.moved(axis, reach.shift(by), main.shape[axis]) for by in (0, length, -length))
    return any(_renamed([main, way], axis)[1].views == ours.views for way in ways)


def _renamed(parts: list[Seen], axis: int) -> list[Seen]:
    """The same digits in the axes of all parts, so that they can be compared."""
    first = parts[0].axes
    renamed = []
    for part in parts:
        new: dict[Digit, tuple[Digit, ...]] = {}
        for ours, theirs in zip(first, part.axes, strict=True):
            if [d.size for d in ours] == [d.size for d in theirs]:
                new.update({t: (o,) for o, t in zip(ours, theirs, strict=True)})
        renamed.append(part.rewritten(new))
    return renamed


def stack(s: Step) -> Seen:
    """Tensors side by side on a new axis."""
    axis = s.args.get("dim", 0) % len(s.shape)
    parts = []
    for t in s.args["tensors"]:
        axes = list(s.seen(t).axes)
        axes.insert(axis, (Digit(s.shape[axis]),))
        parts.append(s.seen(t).arranged(axes))
    return together(parts, s.shape)


def pad(s: Step) -> Seen:
    """Padding of any kind: on the unbounded lattice it moves the origin."""
    x = s.x
    pads = list(s.args["pad" if "pad" in s.args else "padding"])
    for k in range(len(pads) // 2):
        axis = len(x.axes) - 1 - k
        x = x.moved(axis, reach.shift(-pads[2 * k]), s.shape[axis])
    return x


def roll(s: Step) -> Seen:
    """A circular shift: on the unbounded lattice a shift."""
    x = s.x
    if not s.args.get("dims"):
        return x.unknown(s.shape, "a roll of the flat tensor") if len(x.axes) > 1 else x
    shifts = per_axis(s.args["shifts"], 1)
    for by, axis in zip(shifts, s.dims("dims"), strict=True):
        x = x.moved(axis, reach.shift(-by), x.shape[axis])
    return x


def flip(s: Step) -> Seen:
    """An axis turned round: stride minus one."""
    x = s.x
    for axis in s.dims("dims"):
        last = x.shape[axis] - 1
        x = x.moved(axis, Reach(-1, ((last, 1),)), x.shape[axis])
    return x


def repeat(s: Step) -> Seen:
    """A tensor repeated along its axes."""
    x = s.x
    times = s.args["repeats"]
    x = x.arranged((*fresh([1] * (len(times) - len(x.axes))), *x.axes))
    for axis, n in enumerate(times):
        if n != 1 and x.shape[axis] != 1:
            x = x.moved(axis, "a map is repeated side by side", s.shape[axis])
    return together([x], s.shape)


def shuffle_out(s: Step) -> Seen:
    """Pixel shuffle: (C r r, H, W) to (C, H r, W r)."""
    *lead, channels, height, width = s.x.shape
    r = s.args["upscale_factor"]
    x = s.x.reshaped((*lead, channels // r**2, r, r, height, width))
    n = len(lead)
    order = (*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return x.arranged(x.axes[k] for k in order).reshaped(s.shape)


def shuffle_in(s: Step) -> Seen:
    """Pixel unshuffle: (C, H r, W r) to (C r r, H, W)."""
    *lead, channels, height, width = s.x.shape
    r = s.args["downscale_factor"]
    x = s.x.reshaped((*lead, channels, height // r, r, width // r, r))
    n = len(lead)
    order = (*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return x.arranged(x.axes[k] for k in order).reshaped(s.shape)


def channel_shuffle(s: Step) -> Seen:
    """Channels in another order."""
    groups = s.args["groups"]
    batch, channels, *space = s.x.shape
    x = s.x.reshaped((batch, groups, channels // groups, *space))
    return x.arranged((x.axes[0], x.axes[2], x.axes[1], *x.axes[3:])).reshaped(s.shape)


def glu(s: Step) -> Seen:
    """Two halves of an axis, position by position."""
    axis = s.args.get("dim", -1) % len(s.x.axes)
    half = s.shape[axis]
    parts = [s.x.moved(axis, reach.shift(k), half) for k in (0, half)]
    return together(parts, s.shape)


def index_select(s: Step) -> Seen:
    """Positions picked along an axis."""
    axis = s.args["dim"] % len(s.x.axes)
    x = s.x.moved(axis, "positions are picked by a table", s.shape[axis])
    index = s.seen(s.args["index"])
    return together([x, index.summed(*range(len(index.axes))).arranged(())], s.shape)


def index(s: Step) -> Seen:
    """Indexing with tensors."""
    x = s.x
    given = [(k, t) for k, t in enumerate(s.args["indices"]) if t is not None]
    if any(t.dtype in (bool,) or any(s.seen(t).views) for _, t in given):
        return x.unknown(s.shape, "positions are picked by computed indices")
    axes = [k for k, _ in given]
    for k in axes:
        x = x.moved(k, "positions are picked by a table", x.shape[k])
    rest = [a for k, a in enumerate(x.axes) if k not in axes]
    inner = len(s.shape) - len(rest)
    if inner < 0:
        return x.unknown(s.shape, "positions are picked by a mask")
    at = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    new = fresh(s.shape[at : at + inner])
    return x.arranged((*rest[:at], *new, *rest[at:]))


def gather(s: Step) -> Seen:
    """Positions picked for each output."""
    axis = s.args["dim"] % max(1, len(s.x.axes))
    x = s.x.moved(axis, "positions are picked by a table", s.shape[axis])
    if x.shape != s.shape:
        return x.unknown(s.shape, "positions are picked by a table")
    return together([x, s.seen(s.args["index"])], s.shape)


def embedding(s: Step) -> Seen:
    """A row of a table for each index."""
    index = s.seen(s.args["indices"])
    return index.arranged((*index.axes, (Digit(s.shape[-1]),)))


def written_back(name: str, args: dict[str, Any], base: Seen, part: Seen) -> Seen:
    """What a tensor sees after a write through a view that `name` made of it."""
    why = "it was written to through a view"
    if name in ("slice", "select"):
        axis = args.get("dim", 0) % len(base.axes)
        size = base.shape[axis]
        if name == "select":
            axes = (*part.axes[:axis], (Digit(size),), *part.axes[axis:])
            spread = part.arranged(axes)
            return (
                base
                if not any(part.views)
                else (
                    base.lost(why)
                    if base.depends_on(axis)
                    else together([base, spread], base.shape)
                )
            )
        start = slice(args.get("start"), None).indices(size)[0]
        along = part.depends_on(axis)
        back = reach.shift(-start) if args.get("step", 1) == 1 else why
        spread = part.moved(axis, back, size)
        if along and base.depends_on(axis):
            joint = together([base, spread], base.shape)
            (alone,) = _renamed([joint, spread], axis)[1:]
            return joint if alone.views == joint.views else joint.lost(why)
        return together([base, spread], base.shape)
    if name in ("view", "_unsafe_view", "unsqueeze", "squeeze", "alias", "detach"):
        return part.reshaped(base.shape)
    if name == "transpose":
        a, b = args["dim0"], args["dim1"]
        axes = list(part.axes)
        axes[a], axes[b] = axes[b], axes[a]
        return part.arranged(axes)
    return part.lost(why).unknown(base.shape, why)


def copy(s: Step) -> Seen:
    """Overwritten by another tensor."""
    return together([s.seen(s.args["src"])], s.shape)
