import warnings

import numpy as np
import pytest
import torch
from torch import nn

from symconv.comparison.counting import build
from symconv.comparison.layers import Options
from symconv.comparison.structures import ROWS, STRUCTURES, TRANSFORMS
from symconv.data import Source, Split
from symconv.models import SmallNetwork
from symconv.transforms import rotate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning_fabric imports is not ours
    from symconv.comparison.equivariance import (
        equivariance_errors,
        feature_maps,
        shift_error,
        smooth_discs,
        turn_error,
    )

DATA = Source("digits", limit=300).load()


def untrained(name, shape=(1, 16, 16)):
    torch.manual_seed(0)
    row = STRUCTURES[name]
    return build(row, shape, 2 if row.beside else 8, 10, Options()).eval()


def errors(name):
    return equivariance_errors(untrained(name), DATA.test)


@pytest.mark.parametrize("name", ["C4", "C8", "C16", "D4", "D8"])
def test_class_scores_of_groups_with_quarter_turns_do_not_change_at_all(name):
    found = errors(name)
    assert list(found) == list(TRANSFORMS)
    assert found["turn 90"] < 1e-4
    assert found["turn 45"] > 1e-2, "45 degrees are no lattice symmetry"


@pytest.mark.parametrize("name", ["dense", "sparse", "local", "region", "tiled", "conv"])
def test_other_networks_change_their_scores(name):
    assert errors(name)["turn 90"] > 0.2


def test_quarter_turns_in_float64_are_exact_to_rounding_after_steps_of_training():
    network = untrained("C8").double().train()
    pictures = DATA.train.pictures[:64].double()
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(5):
        loss = nn.functional.cross_entropy(network(pictures), DATA.train.labels[:64])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    assert turn_error(network, smooth_discs(DATA.test.pictures).double(), 90) < 1e-12


def test_an_off_centre_network_is_caught():
    """18 pixels are halved to 9 and then to 4: the last pooling leaves out one row and column."""
    small, large = (
        smooth_discs(DATA.test.pictures),
        smooth_discs(nn.functional.pad(DATA.test.pictures, [1] * 4)),
    )
    assert turn_error(untrained("C4"), small, 90) < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        off_centre = untrained("C4", shape=(1, 18, 18))
        assert turn_error(off_centre, large, 90) > 0.05


def test_an_even_kernel_padded_at_one_side_is_caught():
    class Lopsided(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer
            self.out_field = layer.out_field

        def forward(self, x):
            return nn.functional.pad(self.layer(x), (1, 0, 0, 0))[..., :-1]

    pictures = smooth_discs(DATA.test.pictures)
    network = untrained("C8")
    assert turn_error(network, pictures, 90) < 1e-4
    network.layers[1] = Lopsided(network.layers[1])
    assert turn_error(network, pictures, 90) > 0.02


class Radial(nn.Module):
    """Scores that any turn leaves alone but for the pixel grid: means over a soft disc."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        axis = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
        radius = torch.hypot(axis[:, None], axis[None, :])
        rings = [torch.exp(-((radius - r) ** 2) / 4) for r in (0, 2, 4)]
        return torch.stack([(x * ring).sum((1, 2, 3)) for ring in rings], 1)


def test_scores_that_no_turn_changes_have_no_error_and_a_lopsided_mean_has():
    pictures = smooth_discs(DATA.test.pictures)
    assert turn_error(Radial(), pictures, 90) < 1e-5
    assert turn_error(Radial(), pictures, 45) < 0.02
    lopsided = Radial()
    lopsided.forward = lambda x: Radial()(x.roll(3, -1))
    assert turn_error(lopsided, pictures, 45) > 0.2
    assert turn_error(lopsided, pictures, 90) > 0.2


def test_what_all_pictures_have_in_common_hides_no_error():
    class Shifted(nn.Module):
        def __init__(self, network, constant):
            super().__init__()
            self.network, self.constant = network, constant

        def forward(self, x):
            return self.network(x) + self.constant

    pictures, network = smooth_discs(DATA.test.pictures), untrained("conv")
    plain = turn_error(network, pictures, 45)
    assert turn_error(Shifted(network, 100.0), pictures, 45) == pytest.approx(plain, rel=1e-2)


def test_smooth_discs_survive_a_turn_there_and_back():
    pictures = smooth_discs(DATA.test.pictures[:20])
    back = rotate(rotate(pictures, 45), -45)
    assert (back - pictures).norm() / pictures.norm() < 0.03
    raw = torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (rotate(rotate(raw, 45), -45) - raw).norm() / raw.norm() > 0.1, "noise does not"
    corners = pictures[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.abs().max() == 0


def test_shift_errors_come_from_the_border_alone():
    """On a torus a convolution commutes with shifts exactly; unshared filters nowhere."""
    torch.manual_seed(0)

    def torus(place):
        return nn.Conv2d(
            place.shape[0], place.width, 5, padding=2, padding_mode="circular", bias=False
        )

    network = SmallNetwork(torus, (1, 16, 16), 4, 10).eval()
    pictures = DATA.test.pictures
    with torch.no_grad():
        assert shift_error(network, pictures) < 1e-5
        found = {row.name: shift_error(untrained(row.name), pictures) for row in ROWS}
    assert found.pop("conv-polyphase") < 1e-5, "it is on a torus, too"
    assert min(found.values()) > 0.1


def test_errors_are_of_a_hundred_pictures_at_most():
    few = equivariance_errors(untrained("conv"), DATA.test.first(30))
    assert few != errors("conv")
    assert np.isfinite(list(few.values())).all()


@pytest.mark.parametrize("name", ["conv", "conv-max", "scale", "tiled"])
@pytest.mark.parametrize("canvas", [14, 16, 28, 52])
def test_the_map_that_is_shown_has_moved(name, canvas):
    """By an odd number of its sites: also where nothing pools behind the first layer."""
    network = untrained(name, (1, canvas, canvas))
    pictures = torch.zeros(3, 1, canvas, canvas)
    pictures[..., canvas // 3 : -(canvas // 3), canvas // 3 : -(canvas // 3)] = 1
    with torch.no_grad():
        shown = feature_maps(network, Split(pictures, torch.arange(3)))
    stride = {14: 1, 16: 1, 28: 2, 52: 4}[canvas]
    assert (shown["pixels"] // stride) % 2 == 1
    assert (shown["error"] > 0.1) == (name == "tiled")
