"""How a comparison was made, in sentences for the page."""

from __future__ import annotations

from symconv.comparison.layers import FINE, PADDING, SCALES
from symconv.comparison.results import Comparison
from symconv.comparison.verdict import METHOD


def method_notes(result: Comparison) -> list[str]:
    """Budget, tuning, tests, definitions and versions."""
    return [
        _pictures(result),
        _network(result),
        _tuning(result),
        METHOD,
        "Equivariance error to a shift: ||f(g x) - g f(x)|| / ||g f(x)|| over 100 test pictures, "
        "where f is the last feature map before its pooling and g shifts by one site of it along "
        "both axes, about the centre; the sites that g brings in are left out. Dense and sparse "
        "layers have no positions, so g leaves their features alone. Convolution itself commutes "
        "with shifts exactly (the first maps below); what is left comes from the zeros beyond the "
        "canvas, which tell a deep layer where the border is.",
        "Equivariance error to a turn: ||s(g x) - s(x)|| / ||s(x) - mean s|| for the class scores "
        "s, which should not change; the mean is over the pictures. They are blurred by a Gaussian "
        "of one pixel and cut to the inscribed disc; 90 degrees move values, 45 degrees are "
        "Fourier shears.",
        "Sizes: 'any' if the trained network ran on a canvas half as large again. " + _why(result),
        "Connections count distinct pairs of output and input over the three layers and the head; "
        "MACs are multiply-accumulates of these for one picture; weights are all trained numbers.",
        "; ".join(f"{name} {version}" for name, version in result.versions.items())
        + "; one thread per run.",
    ]


def _pictures(result: Comparison) -> str:
    data = result.data
    how = (
        "by displacing the window that was cut from a larger picture"
        if data["full_frame"]
        else "on an empty canvas"
    )
    return (
        f"Pictures: {data['train']:,} for training, {data['validation']:,} for choosing settings, "
        f"{data['test']:,} for the tests, drawn by class and always the same. Training pictures "
        f"are centred; 'moved' are the test pictures displaced {how} by a random whole offset of "
        f"up to {data['reach']} px along each axis, 'turned' by one, two or three quarter turns, "
        "'any angle' by an angle of which all are equally likely, by cubic splines, 'mirrored' "
        "with left and right exchanged; labels stay, so that a 6 turned to a 9 counts as a 6. "
        "Training pictures of '+turns' are turned by angles drawn anew for every batch, by "
        "bilinear interpolation, those of '+scales' rescaled likewise. "
        f"{_apart(data)} Standardised by the training pictures alone.{_overlap(data)}"
    )


def _apart(data: dict) -> str:
    low, high = data["factors"]
    room = "" if data["farthest"] == 8 else ", as far as the canvas has room"
    return (
        f"'Shifted' are two copies of each test picture, 1 to {data['farthest']} px apart along "
        f"each axis{room}: they lie on the canvas whole, as pictures do, and do not wrap around. "
        "'Around' they do, by 1 to 8 px: of no use for pictures, but where a network is exact it "
        f"is exact there. 'Rescaled' are the test pictures by factors of {low:g} to {high:.3g} "
        "(log-uniform; twice, or what the canvas has room for), by cubic splines behind a Gaussian."
    )


def _overlap(data: dict) -> str:
    if data["name"] != "textures":
        return ""
    return (
        " The test crops overlap, so they are fewer independent pictures than counted: the spread "
        "over pictures is optimistic."
    )


def _network(result: Comparison) -> str:
    settings = result.settings
    limit = f"{settings.budget.limit:,} {settings.budget.kind}"
    kernels = ", ".join(f"{k}x{k}" for k in settings.options.kernels)
    return (
        f"Network: three layers of the structure (kernels {kernels}, {PADDING} padding), each with "
        "batch norm, ReLU and 2x2 max pooling, channels doubled after each pooling (where the "
        "first layer strides, its kernel is one larger, which keeps it centred); then the "
        "mean over positions, batch norm and a linear head. Each structure has the largest width "
        f"within {limit}; group convolutions (C4, C8, ...) have as many multiply-accumulates as "
        "conv instead, and so far fewer weights. Dense and sparse layers give plain features, so "
        "that there is nothing to pool. conv-blur pools (and strides) by max pooling at every "
        "position and then every second one behind a binomial filter; conv-polyphase pools on the "
        "grid that holds most, and pads circularly. conv-max and scale pool while that leaves "
        f"{FINE} sites a side, take the largest response at any position (and of any scale) in "
        "place of the mean, and have conv's multiply-accumulates; scale's have three sizes, "
        f"{SCALES.factor:.3g} apart, on an image pyramid, from filters with two taps a side less "
        "than the kernels above (three at least, where there are as many); they stride by an ideal "
        "low pass behind the filters. Their connections are those on the grids of the three sizes, "
        "their MACs count the resampling between them."
    )


def _tuning(result: Comparison) -> str:
    settings = result.settings
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    chosen = ", ".join(f"{line.label} {line.learning_rate:g}" for line in result.lines)
    edges = {min(settings.learning_rates), max(settings.learning_rates)}
    timed = (
        " Equal time: as many steps as fit into what the slowest structure needed, by measured "
        "step times: what a tenth of the steps stay below, so that a busy machine disturbs little."
        if result.equal_time_verdicts
        else ""
    )
    reused = "the smaller sizes" + (" and for equal time" if timed else "")
    edge = [line.label for line in result.lines if line.learning_rate in edges]
    at_edge = (
        f" At an end of the range: {', '.join(edge)}."
        if edge and len(settings.learning_rates) > 2
        else ""
    )
    return (
        f"Training: {settings.steps} steps of {settings.batch} pictures (with fewer training "
        "pictures in proportion to the square root of their number), AdamW (decay "
        f"{settings.weight_decay:g}), one-cycle learning rate, chosen for each structure out of "
        f"{rates} by one run on the validation pictures (as they are; moved for '+shifts', "
        "turned by any angle for '+turns' and rescaled for '+scales', as their training pictures "
        "are), at the largest "
        f"training size under equal steps, and reused for {reused}: {chosen}.{at_edge} The test "
        f"pictures were never used to choose anything.{timed}"
    )


def _why(result: Comparison) -> str:
    reasons = [f"{x.label}: {x.other_sizes_reason}" for x in result.lines if not x.other_sizes]
    return " ".join(f"{reason}." for reason in reasons)
