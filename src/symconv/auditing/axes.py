"""Which axes of an input are space: those after batch and channels, unless the model says else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symconv.auditing.call import Call
from symconv.auditing.state import left_as_found
from symconv.errors import StructureError

#: Layers that take the last axis of a sequence (N, L, C) as its features.
_LAST_AXIS = (
    nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention, nn.RNNBase,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip


class _FirstLayerError(Exception):
    """Ends a run at its first layer."""


def check_axes(call: Call) -> None:
    """Refuse sequences (N, L, C): their last axis is no space, and (N, C, L) is what is audited.

    The model runs up to its first layer.

    Raises:
        StructureError: That layer takes the last axis of a three-dimensional input as features.
    """
    sequences = [t for _, t in call.tensors() if t.is_floating_point()]
    if not sequences or any(t.dim() != 3 for t in sequences):
        return
    first = _first_layer(call, sequences)
    if isinstance(first, _LAST_AXIS):
        raise StructureError(
            "an input (batch, channels, *space)",
            f"{call.describe()}, whose last axis {type(first).__name__} takes as features",
            "transpose in the model to audit a sequence",
        )


def _first_layer(call: Call, inputs: list[Tensor]) -> nn.Module | None:
    """The first layer that is called with a given tensor as it is, its axes not exchanged."""
    met: list[nn.Module] = []
    known = [(x.data_ptr(), x.shape, x.stride()) for x in inputs]

    def begin(module: nn.Module, args: tuple[object, ...]) -> None:
        given = args[0] if args else None
        if not isinstance(given, Tensor) or given.dim() != 3:
            return
        if (given.data_ptr(), given.shape, given.stride()) in known:
            met.append(module)
            raise _FirstLayerError

    layers = (nn.ModuleList, nn.ModuleDict, nn.Sequential, torch.jit.ScriptModule)
    with left_as_found(call.model), torch.no_grad():
        hooks = [
            module.register_forward_pre_hook(begin)
            for module in call.model.modules()
            if isinstance(module, _LAST_AXIS)
            or (not isinstance(module, layers) and not any(True for _ in module.children()))
        ]
        try:
            call.run()
        except Exception:  # ours, or the model's own, which other parts tell
            return met[0] if met else None
        finally:
            for hook in hooks:
                hook.remove()
    return None
