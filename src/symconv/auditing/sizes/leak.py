"""Zero padding of a batch: does what lies beside a picture reach its outputs?"""

from __future__ import annotations

import torch

from symconv.auditing.sizes.probe import Probe, Size

PICTURE = 32  # pictures are about this large, or the smallest that works


def leak(probe: Probe, smallest: Size, steps: Size) -> tuple[bool | None, tuple[str, ...]]:
    """Does what lies beside a picture reach the cells that the picture alone would have?"""
    if not probe.source.is_floating_point():
        return None, ("inputs that are no real numbers have no zero padding to look at",)
    rows = list(zip(smallest, steps, strict=True))
    first = [n + -(-max(0, PICTURE - n) // s) * s for n, s in rows]
    for k in range(4):  # a strided layer reaches beyond some sizes only
        size = tuple(n + k * s for n, s in zip(first, steps, strict=True))
        canvas = tuple(n + -(-(n // 2) // s) * s for n, s in zip(size, steps, strict=True))
        try:
            reached, changed = _reached(probe, size, canvas)
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            return None, (f"the leak of zero padding could not be tried: {why}",)
        if reached or changed > 1e-3:
            shown = ["x".join(map(str, n)) for n in (size, canvas)]
            return True, (
                f"what lies beside an input of {shown[0]} on a canvas of {shown[1]} reaches "
                f"{100 * reached:.3g} % of its valid outputs; zeros there change them by "
                f"{100 * changed:.3g} %",
            )
    return False, ()


def _reached(probe: Probe, size: Size, canvas: Size) -> tuple[float, float]:
    """Share of a picture's outputs that its surroundings reach; how much zeros there change."""
    picture = torch.randn(probe.blank(size).shape, generator=torch.Generator().manual_seed(0))
    picture = picture.to(probe.source)
    inside = (slice(None),) * probe.space[0] + tuple(slice(n) for n in size)
    zeros, marked = probe.blank(canvas), torch.full_like(probe.blank(canvas), torch.nan)
    zeros[inside], marked[inside] = picture, picture
    nans = total = 0
    change = scale = 0.0
    for a, b, m in zip(*(probe.run(x) for x in (picture, zeros, marked)), strict=True):
        if not a.is_floating_point() or a.dim() != m.dim():
            continue
        valid = tuple(slice(n) for n in a.shape)
        nans += int((m[valid].isnan() & ~a.isnan()).sum())
        total += a.numel()
        change += float((b[valid] - a).double().square().sum())
        scale += float(a.double().square().sum())
    if not total:
        raise ValueError("the output holds no real numbers")
    return nans / total, (change / scale) ** 0.5 if scale else 0.0
