"""Windows against torch's own padding and convolutions."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given

from symconv import StructureError
from symconv.lattice.windows import OUTSIDE, PADDING_MODES, Window, per_axis

small = st.integers(1, 4)


@given(st.integers(1, 9), small, small, st.integers(0, 4), st.integers(1, 3),
       st.sampled_from(PADDING_MODES))  # fmt: skip
def test_table_is_what_torch_pads_and_slides_over(size, kernel, stride, padding, dilation, mode):
    """Positions 1, 2, ... S, padded and unfolded by torch, show which input lies under a tap."""
    window = Window.of(1, kernel, stride, padding, dilation, mode)
    try:
        (outputs,) = window.output_size((size,))
    except StructureError:
        assume(False)
    x = torch.arange(1, size + 1, dtype=torch.float64).reshape(1, 1, size)
    padded = F.pad(x, (padding, padding), mode="constant" if mode == "zeros" else mode)
    columns = padded.unfold(2, window.extent[0], stride)[0, 0, :, ::dilation]
    table = window.axis_table(0, size)
    assert table.shape == (outputs, kernel)
    assert np.array_equal(table, columns.numpy().astype(int) - 1)


@given(st.integers(1, 9), small, small, st.integers(0, 4), st.integers(1, 3))
def test_output_size_is_torchs_and_what_does_not_fit_is_refused(s, k, stride, p, d):
    window = Window.of(1, k, stride, p, d)
    conv = torch.nn.Conv1d(1, 1, k, stride, p, d)
    try:
        wanted = conv(torch.zeros(1, 1, s)).shape[2:]
    except RuntimeError:
        with pytest.raises(StructureError, match="smaller kernel"):
            window.output_size((s,))
    else:
        assert window.output_size((s,)) == wanted


@given(st.integers(1, 6), small, st.integers(1, 3), st.sampled_from(["same", "valid"]))
def test_named_padding_is_torchs(s, k, d, padding):
    window = Window.of(1, k, padding=padding, dilation=d)
    assume(s >= window.extent[0])
    conv = torch.nn.Conv1d(1, 1, k, padding=padding, dilation=d, bias=False)
    weight = torch.arange(1, k + 1, dtype=torch.float32)
    with torch.no_grad():
        conv.weight.copy_(weight)
    x = torch.arange(1, s + 1, dtype=torch.float32)
    table = window.axis_table(0, s)
    mine = (np.where(table == OUTSIDE, 0, table + 1) * weight.numpy()).sum(1)
    assert np.array_equal(mine, conv(x.reshape(1, 1, s)).detach().numpy().ravel())


@given(st.integers(1, 5), small, small, st.integers(0, 3), st.integers(1, 3), st.integers(0, 2))
def test_transposed_size_is_torchs(s, k, stride, p, d, extra):
    window = Window.of(1, k, stride, p, d)
    try:
        wanted = torch.nn.ConvTranspose1d(1, 1, k, stride, p, extra, dilation=d)(
            torch.zeros(1, 1, s)
        ).shape[2:]
    except (RuntimeError, ValueError):
        with pytest.raises(StructureError):
            window.transposed_size((s,), extra)
    else:
        assert window.transposed_size((s,), extra) == wanted


@given(st.integers(1, 12), small, small, st.integers(0, 3), st.integers(1, 3))
def test_centred_exactly_where_the_mirror_maps_the_sampling_grid_onto_itself(s, k, stride, p, d):
    window = Window.of(1, k, stride, p, d)
    assume(s + 2 * p >= window.extent[0])
    table = window.axis_table(0, s)
    mirrored = np.where(table == OUTSIDE, OUTSIDE, s - 1 - table)[::-1, ::-1]
    if window.is_centred((s,))[0]:
        assert np.array_equal(table, mirrored)
    elif (table != OUTSIDE).all():
        assert not np.array_equal(table, mirrored)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window.of(2, 0), "kernel_size as an integer or 2 integers of at least 1, got 0"),
        (lambda: Window.of(2, (3, 3, 3)), "one entry per axis"),
        (lambda: Window.of(2, 1.5), "kernel_size"),
        (lambda: Window.of(2, 3, padding=-1), "padding"),
        (lambda: Window.of(2, 3, padding="full"), '"same" or "valid"'),
        (lambda: Window.of(2, 3, stride=2, padding="same"), "stride 1"),
        (lambda: Window.of(2, 3, padding_mode="constant"), "padding_mode in"),
        (lambda: Window.of(1, 3, padding=4, padding_mode="reflect").output_size((4,)), "less than"),
        (lambda: Window.of(1, 3, padding=5, padding_mode="circular").output_size((4,)), "at most"),
        (lambda: Window.of(1, 5).output_size((4,)), "smaller kernel"),
        (lambda: Window.of(1, 5).output_size((0,)), "input_size"),
        (lambda: per_axis(True + 0.5, 1, "stride"), "stride"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(StructureError, match=message):
        make()
