"""What `symconv cost` says: against counting by hand, the book, real layers, and bad input."""

import io
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console

import symconv as sc
from symconv.cost import BYTES, Cost, table
from symconv.cost import measure as bench
from symconv.cost.show import show
from symconv.errors import StructureError

NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def counted(channels, outs, size, kernel, stride, padding, dilation, groups, mode):
    """Pairs, taps and taps on zeros of a convolution, from the definition: padded indices."""
    index = np.arange(np.prod(size)).reshape(size)
    pairs_of_axes = [(p, p) for p in padding]
    extra = {"constant_values": -1} if mode == "zeros" else {}
    padded = np.pad(index, pairs_of_axes, NUMPY_MODE[mode], **extra)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    starts = [
        range(0, s - e + 1, step) for s, e, step in zip(padded.shape, extent, stride, strict=True)
    ]
    connections = taps = outside = widest = positions = 0
    for start in itertools.product(*starts):
        cut = tuple(slice(a, a + e, d) for a, e, d in zip(start, extent, dilation, strict=True))
        seen = padded[cut].ravel()
        distinct = len(set(seen.tolist()) - {-1})
        connections, widest = connections + distinct, max(widest, distinct)
        taps, outside = taps + len(seen), outside + int((seen == -1).sum())
        positions += 1
    block = channels // groups
    scale = block * outs
    return {
        "connections": connections * scale,
        "macs": taps * scale,
        "padding_macs": outside * scale,
        "fan_in": widest * block,
        "outputs": positions * outs,
        "inputs": int(np.prod(size)) * channels,
    }


@st.composite
def questions(draw):
    n = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    groups = draw(st.integers(1, 2))
    return dict(
        channels=groups * draw(st.integers(1, 2)),
        outs=groups * draw(st.integers(1, 2)),
        size=axes(2, 7),
        kernel=axes(1, 3),
        stride=axes(1, 3),
        padding=axes(0, 3),
        dilation=axes(1, 2),
        groups=groups,
        mode=draw(st.sampled_from(sorted(NUMPY_MODE))),
    )


def ask(q, **more):
    try:
        return table(
            (q["channels"], *q["size"]), q["kernel"], q["outs"], q["stride"], q["padding"],
            q["dilation"], q["groups"], q["mode"], **more,
        )  # fmt: skip
    except StructureError:
        assume(False)


@given(questions(), st.integers(1, 3))
def test_counts_equal_counting_by_hand(q, tile):
    costs, by_hand = ask(q, tile=tile), counted(**q)
    for kind in ("local", "tiled", "conv"):
        for name, value in by_hand.items():
            assert getattr(costs[kind], name) == value, (kind, name)
    n, m, k = by_hand["outputs"], by_hand["inputs"], by_hand["fan_in"]
    one_filter = int(np.prod(q["kernel"])) * q["channels"] // q["groups"] * q["outs"]
    assert costs["conv"].weights == one_filter
    assert costs["tiled"].weights == one_filter * tile ** len(q["size"])
    assert costs["local"].weights == one_filter * n // q["outs"]
    assert costs["dense"].weights == costs["dense"].connections == costs["dense"].macs == m * n
    assert costs["sparse"].weights == costs["sparse"].connections == costs["sparse"].macs == n * k
    for cost in costs.costs:
        assert cost.flops == 2 * cost.macs
        assert cost.flops_k == cost.macs + cost.macs - n


def test_counting_by_hand_sees_a_wrong_count():
    q = dict(channels=1, outs=1, size=(5,), kernel=(3,), stride=(1,), padding=(1,))
    right = counted(**q, dilation=(1,), groups=1, mode="zeros")
    assert (right["connections"], right["macs"], right["padding_macs"]) == (13, 15, 2)
    circular = table((1, 5), 3, padding=1, padding_mode="circular")
    assert circular["conv"].connections != right["connections"]


def test_sparse_counts_are_those_of_a_sparse_structure():
    costs = table((2, 9), 3, 4)
    m, n, k = costs["dense"].inputs, costs["dense"].outputs, costs["conv"].fan_in
    wired = np.stack([np.random.default_rng(o).choice(m, k, replace=False) for o in range(n)])
    real = Cost.of(sc.Structure.sparse(wired, m))
    assert real == costs["sparse"]
    assert real.index_bytes == wired.astype(np.int64).nbytes


def test_the_book():
    """Deep Learning (2016), figure 9.6: 320 wide, 280 high, kernel 2 wide and 1 high."""
    costs = table((1, 280, 320), (1, 2), 1)
    conv, dense, sparse = costs["conv"], costs["dense"], costs["sparse"]
    assert conv.flops_k == 267_960 == 319 * 280 * 3
    assert dense.weights == 8_003_072_000 == 320 * 280 * 319 * 280
    assert dense.flops_k > 16_000_000_000
    assert dense.flops == 16_006_144_000
    assert sparse.weights == 178_640 == 2 * 319 * 280
    assert sparse.flops_k == conv.flops_k
    assert costs.dense_over_conv()["flops_k"] == 59_733  # "roughly 60,000 times"
    assert costs.dense_over_conv()["weights"] == 4_001_536_000  # "four billion times"
    assert table((1, 320, 280), (1, 2), 1)["conv"].flops_k != conv.flops_k  # the axes' order tells


def test_a_million_by_a_million_never_wraps():
    side = 10**6
    costs = table((1, side, side), 3, 1, dtype="float64")
    out = side - 2
    assert costs["dense"].weights == side**2 * out**2 > 2**64
    assert costs["dense"].weight_bytes == 8 * side**2 * out**2
    assert costs["conv"].connections == costs["conv"].macs == 9 * out**2
    assert costs["local"].weights == 9 * out**2
    assert all(type(value) in (int, str) for value in costs["conv"].to_dict().values())
    assert json.loads(json.dumps(costs.to_dict()))["structures"][0]["weights"] == side**2 * out**2


@pytest.mark.parametrize(("dtype", "size"), BYTES.items())
def test_bytes_follow_the_type(dtype, size):
    assert size == torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    cost = table((3, 8), 3, 2, dtype=dtype)["local"]
    assert cost.weight_bytes == cost.weights * size
    assert cost.total_bytes == (cost.weights + 24 + 12) * size


# The border


@given(st.integers(2, 9).map(lambda n: n + 2), st.integers(1, 4), st.integers(1, 3))
def test_translations_are_exact_where_said(size, kernel, stride):
    """On a random integer picture: f(translate by the stride) against translate by one, f."""
    costs = table((1, size), kernel, stride=stride)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-99, 99, (1, 1, size), generator=generator, dtype=torch.float64)
    weight = torch.randint(1, 9, (1, 1, kernel), generator=generator, dtype=torch.float64)
    modes = {"zeros": "constant"}

    def f(x, boundary):
        mode = modes.get(boundary.padding_mode, boundary.padding_mode)
        padded = torch.nn.functional.pad(x, boundary.padding[0], mode)
        return torch.nn.functional.conv1d(padded, weight, stride=stride)

    for boundary in costs.boundaries:
        y = f(x, boundary)
        assert tuple(y.shape[2:]) == boundary.output_size
        closes = y.shape[2] * stride == size
        moved = f(x.roll(stride, 2), boundary)
        assert boundary.exact_axes == (closes and torch.equal(moved, y.roll(1, 2)),), boundary


def test_each_decision_about_the_border():
    found = {b.name: b for b in table((2, 8, 9), (3, 5), 4, padding=1).boundaries}
    assert list(found) == ["valid", "same", "full", "circular", "reflect"]
    assert found["valid"].output_size == (6, 5)
    assert found["same"].output_size == found["circular"].output_size == (8, 9)
    assert found["full"].output_size == (10, 13)
    assert found["full"].connections == 8 * 9 * 15 * 8  # every input under every tap
    assert found["valid"].padding_macs == found["circular"].padding_macs == 0
    assert found["same"].padding_macs == found["same"].macs - found["same"].connections > 0
    one = {b.name: b.exact_axes for b in table((1, 6, 8), (1, 2)).boundaries}
    assert one["valid"] == (True, False)
    assert one["circular"] == (True, True)


def test_a_decision_that_the_input_forbids_is_named_with_its_reason():
    costs = table((1, 2), 2, dilation=3, padding=2)
    refused = dict(costs.refused)
    assert set(refused) == {"valid", "reflect"}
    assert "less than the input size" in refused["reflect"]
    assert "not possible here" in printed(costs)


# Printing


def printed(costs, measured=None, width=80):
    page = io.StringIO()
    show(costs, measured, Console(file=page, width=width, highlight=False))
    return page.getvalue()


@pytest.mark.parametrize("side", [280, 10**6])
def test_the_page_fits_80_columns_and_cuts_no_number(side):
    costs = table((3, side, side), 3, 16, padding="same")
    page = printed(costs)
    assert max(map(len, page.splitlines())) <= 80
    assert "…" not in page
    for cost in costs.costs:
        for name, value in cost.to_dict().items():
            if name not in ("kind", "itemsize", "inputs", "outputs"):
                assert re.search(rf"(?<![\d,]){value:,}(?![\d,])", page), (cost.kind, name)


def test_a_narrow_terminal_still_cuts_no_number():
    costs = table((3, 10**5, 10**5), 3, 16)
    assert f"{costs['dense'].weights:,}" in printed(costs, width=30)


def test_the_page_names_both_conventions():
    page = printed(table((1, 280, 320), (1, 2)))
    assert re.search(r"flops: 2 per MAC +16,006,144,000 .* 357,280", page)
    assert re.search(r"flops: k and k-1 +16,006,054,680 .* 267,960", page)
    assert "59,733 times" in page


# Measuring


def test_measured_memory_is_what_was_counted():
    costs = table((2, 12, 11), 3, 4, padding="same", tile=(2, 3))
    measured = {m.kind: m for m in bench.measure(costs, seconds=0)}
    assert list(measured) == ["dense", "sparse", "local", "tiled", "conv"]
    for cost in costs.costs:
        row = measured[cost.kind]
        assert row.skipped is None
        assert row.layer_bytes == cost.weight_bytes + cost.index_bytes
        assert row.input_bytes == cost.input_bytes
        assert row.forward_bytes >= cost.output_bytes
        assert row.passes == bench.FEWEST_ROUNDS
        assert row.seconds >= row.fastest > 0
    assert measured["local"].peak_bytes > measured["tiled"].peak_bytes
    assert "Measured" in printed(costs, list(measured.values()))


def test_peak_counts_what_was_held_at_once():
    def two_then_one():
        both = torch.ones(1000), torch.ones(500)
        return both[0].sum()

    assert 6000 <= bench.peak_bytes(two_then_one) < 6100
    assert bench.peak_bytes(lambda: None) == 0


def test_layers_that_do_not_fit_are_skipped_with_the_reason():
    costs = table((1, 40, 40), 3)
    rows = bench.measure(costs, limit=100_000, seconds=0)
    reasons = {m.kind: m.skipped for m in rows if m.skipped is not None}
    assert "dense" in reasons
    assert f"{costs['dense'].total_bytes:,}" in reasons["dense"]
    assert "conv" not in reasons
    page = printed(costs, rows)
    assert "dense: skipped" in page
    everything = bench.measure(costs, limit=0, seconds=0)
    assert all(m.skipped is not None for m in everything)
    assert "skipped" in printed(costs, everything)


def test_a_reason_in_brackets_is_printed_whole():
    row = bench.Measured("dense", 0.0, 0.0, 0, 0, 0, 0, 1, "[enforce fail] no memory")
    assert "[enforce fail] no memory" in printed(table((1, 8), 3), [row])


# The command


def command(*words):
    program = [sys.executable, "-m", "symconv", "cost", *words]
    return subprocess.run(program, capture_output=True, text=True, timeout=120)


BOOK = ("--input", "1x280x320", "--kernel", "1x2", "--out-channels", "1")


def test_the_command_prints_the_book():
    done = command(*BOOK)
    assert (done.returncode, done.stderr) == (0, "")
    assert "267,960" in done.stdout
    assert "8,003,072,000" in done.stdout


def test_json_is_one_document():
    done = command(*BOOK, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    expected = table((1, 280, 320), (1, 2), 1).to_dict() | {"measured": None}
    assert document == json.loads(json.dumps(expected))


def test_every_option_reaches_the_counts():
    words = "--input 4x12x10 --kernel 3 --out-channels 6 --stride 2x1 --padding 1x2 --dilation 1x2"
    more = "--groups 2 --padding-mode circular --tile 3x1 --dtype float16 --json"
    done = command(*words.split(), *more.split())
    assert done.returncode == 0, done.stderr
    costs = table(
        (4, 12, 10), 3, 6, (2, 1), (1, 2), (1, 2), 2, "circular", tile=(3, 1), dtype="float16"
    )
    expected = json.loads(json.dumps(costs.to_dict() | {"measured": None}))
    assert json.loads(done.stdout) == expected


def test_measure_puts_one_document_on_stdout():
    done = command("--input", "1x64", "--kernel", "3", "--measure", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["measured"]
    assert [row["kind"] for row in rows] == ["dense", "sparse", "local", "tiled", "conv"]
    assert all(row["peak_bytes"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "320", "--kernel", "3"], "channels x size"),
        (["--input", "1x28o", "--kernel", "3"], "whole numbers joined by x"),
        (["--input", "1x-5", "--kernel", "3"], "at least 1"),
        (["--input", "1x0", "--kernel", "3"], "at least 1"),
        (["--input", "1x8x8", "--kernel", "3x3x3"], "kernel_size"),
        (["--input", "1x2", "--kernel", "5"], "extent"),
        (["--input", "1x8", "--kernel", "3", "--stride", "0"], "stride"),
        (["--input", "1x8", "--kernel", "3", "--padding", "some"], "--padding"),
        (["--input", "1x8", "--kernel", "3", "--padding", "same", "--stride", "2"], "stride 1"),
        (["--input", "1x8", "--kernel", "3", "--padding-mode", "wrap"], "padding_mode"),
        (["--input", "3x8", "--kernel", "3", "--groups", "2"], "groups=2"),
        (["--input", "1x8", "--kernel", "3", "--groups", "0"], "groups"),
        (["--input", "1x8", "--kernel", "3", "--out-channels", "0"], "out_channels"),
        (["--input", "1x8", "--kernel", "3", "--dtype", "int7"], "dtype among"),
        (["--input", "1x999999999999", "--kernel", "3"], "taps along one axis"),
        (["--input", "1x9", "--kernel", "3", "--padding", "99999999999"], "taps along one axis"),
        (["--input", "1x9", "--kernel", "2", "--dilation", "99999999999"], "taps along one axis"),
        (["--kernel", "3"], "--input"),
    ],
)
def test_bad_input_gets_one_clear_message(words, message):
    done = command(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def modules_after(*words):
    program = (
        "import sys\nfrom symconv.__main__ import main\n"
        f"sys.argv = ['symconv', 'cost', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())


def test_counting_loads_no_torch_and_measuring_does():
    page, light = modules_after(*BOOK)
    assert "267,960" in page
    assert "torch" not in light
    assert "torch" in modules_after("--input", "1x16", "--kernel", "3", "--measure")[1]


def test_padding_that_is_none_names_the_words():
    done = command("--input", "1x8x8", "--kernel", "3", "--padding", "foo")
    assert done.returncode == 2
    assert '"same", "valid" or whole numbers' in done.stderr


def test_measuring_beyond_three_axes_skips_what_has_no_layer():
    rows = {m.kind: m for m in bench.measure(table((1, 4, 4, 4, 4), 2), seconds=0)}
    assert [kind for kind, row in rows.items() if row.skipped] == ["local", "tiled", "conv"]
    assert rows["conv"].skipped == "layers exist in 1-D to 3-D"
    assert rows["dense"].passes == 3
