import numpy as np
import pytest
import torch
from scipy import ndimage

from symconv.data import Source, fingerprint, random_shifts, random_turns
from symconv.data.augmentation import turned_bilinearly
from symconv.data.bundled import enlarged
from symconv.data.pictures import interleave, split_pictures, turned_by_splines, windows
from symconv.errors import StructureError
from symconv.transforms import translate


@pytest.fixture(scope="module")
def digits():
    return Source("digits").load()


def test_digits_are_split_as_documented(digits):
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1000, 297, 500)
    assert (digits.canvas, digits.channels, digits.reach) == (16, 1, 2)
    assert torch.equal(digits.test.labels, digits.moved.labels)


@pytest.mark.parametrize("name", ["digits", "faces", "textures"])
def test_every_split_is_stratified_and_so_is_every_prefix(name):
    found = Source(name).load()
    for split in (
        found.train,
        found.validation,
        found.test,
        found.train.first(len(found.train) // 2),
    ):
        shares = split.labels.bincount(minlength=len(found.classes)) / len(split)
        assert (shares - 1 / len(found.classes)).abs().max() < 0.05


def test_an_order_by_class_would_be_noticed(digits):
    ordered = digits.train.labels.sort().values[:500]
    assert (ordered.bincount(minlength=10) / 500 - 0.1).abs().max() > 0.05


def test_training_pictures_are_centred_and_moved_ones_hold_the_same_digit(digits):
    margin = digits.train.pictures.clone()
    margin[:, :, 2:14, 2:14] = 0
    assert margin.abs().max() == 0, "the canvas around a centred digit is zero"
    found = set()
    for centred, moved in zip(digits.test.pictures[:40], digits.moved.pictures[:40], strict=True):
        offsets = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(translate(centred, (dy, dx), mode="zeros"), moved)
        ]
        assert offsets, "a moved picture is the centred one displaced by at most two pixels"
        found.update(offsets)
    assert len(found) > 15


def test_only_training_pictures_standardise(digits):
    assert digits.train.pictures.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert digits.test.pictures.std(correction=0) != pytest.approx(1, abs=1e-4)


def test_the_same_every_time_and_noticed_when_changed(digits):
    again = Source("digits").load()
    assert fingerprint(again) == fingerprint(digits)
    again.test.pictures[0, 0, 8, 8] += 1
    assert fingerprint(again) != fingerprint(digits)


def test_the_constant_face_gives_no_nan():
    faces = Source("faces").load()
    for split in (faces.train, faces.validation, faces.test, faces.moved):
        assert split.pictures.isfinite().all()


def test_constant_training_pictures_stay_finite():
    found = split_pictures(
        "grey",
        ("a", "b"),
        np.ones((40, 1, 8, 8)),
        np.arange(40) % 2,
        canvas=16,
        fractions=(0.5, 0.2),
    )
    assert found.train.pictures.isfinite().all()


def test_no_texture_pixel_is_shared_between_the_splits(monkeypatch):
    import skimage.data

    rows, columns = np.mgrid[:512, :512]
    where = (rows >= 384) * 1.0 + (columns >= 256) * 2.0  # 0 train, 1 validation, 2 and 3 test
    for name in ("brick", "grass", "gravel"):
        monkeypatch.setattr(skimage.data, name, lambda: where)
    found = Source("textures").load()
    values = {
        split: set(np.unique(getattr(found, split).pictures.numpy().round(4)))
        for split in ("train", "validation", "validation_moved", "test", "moved")
    }
    assert not values["train"] & (values["validation"] | values["validation_moved"])
    assert not (values["train"] | values["validation"]) & (values["test"] | values["moved"])
    assert values["test"] & values["moved"], "the check can see shared areas"


def test_windows_displace_content_towards_higher_index():
    frame = np.zeros((1, 1, 24, 24))
    frame[0, 0, 12, 12] = 1
    cut = windows(frame, 16, np.array([[3, -2]]))
    assert cut[0, 0, 11, 6] == 1
    assert cut.sum() == 1


def test_random_shifts_displace_by_whole_offsets_of_at_most_the_reach():
    pictures = torch.zeros(200, 2, 16, 16)
    pictures[:, :, 8, 8] = torch.tensor([1.0, 2.0])
    shifted = random_shifts(pictures, 4, False, torch.Generator().manual_seed(0))
    spots = (shifted[:, 0] == 1).nonzero()
    assert len(spots) == 200
    assert (shifted[:, 1] == 2).nonzero().equal(spots)
    offsets = spots[:, 1:] - 8
    assert offsets.min() == -4
    assert offsets.max() == 4
    again = random_shifts(pictures, 4, False, torch.Generator().manual_seed(0))
    assert torch.equal(shifted, again)
    other = random_shifts(pictures, 4, False, torch.Generator().manual_seed(1))
    assert not torch.equal(shifted, other)


def test_full_frame_shifts_leave_no_empty_edge():
    ones = torch.ones(20, 1, 16, 16)
    assert random_shifts(ones, 4, True, torch.Generator()).min() == 1
    assert random_shifts(ones, 4, False, torch.Generator()).min() == 0


def test_digits_are_enlarged_about_their_centre():
    pictures = np.random.default_rng(0).random((2, 1, 8, 8))
    large = enlarged(pictures, 12)
    assert large.shape == (2, 1, 12, 12)
    assert np.allclose(enlarged(np.rot90(pictures, 1, (2, 3)), 12), np.rot90(large, 1, (2, 3)))
    off_centre = ndimage.zoom(pictures[..., :-1], (1, 1, 1.5, 1.5))
    turned = ndimage.zoom(np.rot90(pictures[..., :-1], 1, (2, 3)), (1, 1, 1.5, 1.5))
    assert off_centre.shape != np.rot90(turned, 0, (2, 3)).shape


ANGLES = np.random.default_rng(40_000).uniform(0, 360, 500)


def test_any_angle_is_by_cubic_splines_and_no_other_order(digits):
    """An independent route: scipy on the canvas itself, which the digit does not leave."""

    def turned(order):
        canvases = digits.test.pictures[:60, 0].numpy()
        rotated = [
            ndimage.rotate(picture, angle, reshape=False, order=order)
            for picture, angle in zip(canvases, ANGLES, strict=False)
        ]
        inside = np.hypot(*np.mgrid[-7.5:8, -7.5:8]) < 6
        return np.stack(rotated)[:, inside], digits.any_angle.pictures[:60, 0].numpy()[:, inside]

    assert np.abs(np.subtract(*turned(3))).max() < 0.02
    for order in (0, 1, 2, 5):
        assert np.abs(np.subtract(*turned(order))).max() > 0.1


def test_any_angle_is_not_what_the_augmentation_makes(digits):
    """The same angles, by the training's bilinear resampling: close, and yet other pictures."""
    angles = torch.from_numpy(np.deg2rad(ANGLES)).float()
    bilinear = turned_bilinearly(digits.test.pictures, angles, full_frame=False)
    inside = torch.from_numpy(np.hypot(*np.mgrid[-7.5:8, -7.5:8]) < 6)
    difference = (bilinear - digits.any_angle.pictures)[:, :, inside]
    share = float(difference.norm() / digits.any_angle.pictures[:, :, inside].norm())
    assert 0.05 < share < 0.35
    wrong_way = turned_bilinearly(digits.test.pictures, -angles, full_frame=False)
    assert (wrong_way - digits.any_angle.pictures).norm() > 3 * difference.norm()


def test_any_angle_covers_the_circle_and_keeps_the_labels(digits):
    assert torch.equal(digits.any_angle.labels, digits.test.labels)
    assert torch.equal(digits.validation_any_angle.labels, digits.validation.labels)
    assert np.histogram(ANGLES, 8, (0, 360))[0].min() > 40
    other = np.random.default_rng(40_001).uniform(0, 360, 297)
    assert not np.isin(other, ANGLES).any(), "validation pictures turn by their own angles"


def test_splines_turn_a_frame_about_its_centre():
    frames = np.random.default_rng(0).random((8, 2, 9, 9))

    class Quarter:
        def uniform(self, low, high, count):
            return np.full(count, 90.0)

    turned = turned_by_splines(frames, Quarter())
    assert np.allclose(turned, np.rot90(frames, 1, (2, 3)), atol=1e-9)


def test_full_frame_pictures_turn_in_from_beyond_the_canvas():
    found = Source("textures", limit=60).load()
    empty = Source("digits", limit=300).load()
    for pictures, filled in ((found.any_angle.pictures, True), (empty.any_angle.pictures, False)):
        corners = pictures[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners.abs().mean() > 0.3) == filled


@pytest.mark.parametrize("full_frame", [False, True])
def test_random_turns_are_uniform_and_their_generators(full_frame):
    pictures = torch.zeros(800, 1, 17, 17)
    pictures[:, :, 8, 14] = 1
    turned = random_turns(pictures, full_frame, torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(17) - 8.0, torch.arange(17) - 8.0, indexing="ij")
    angle = torch.atan2((turned[:, 0] * y).sum((1, 2)), (turned[:, 0] * x).sum((1, 2)))
    counts = torch.histc(angle, 8, -torch.pi, torch.pi)
    assert counts.min() > 60
    assert counts.max() < 140
    again = random_turns(pictures, full_frame, torch.Generator().manual_seed(0))
    assert torch.equal(turned, again)
    other = random_turns(pictures, full_frame, torch.Generator().manual_seed(1))
    assert not torch.equal(turned, other)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("full_frame", [False, True])
def test_bilinear_quarter_turns_are_torchs(turns, full_frame):
    x = torch.rand(3, 2, 8, 8)
    angles = torch.full((3,), turns * torch.pi / 2)
    turned = turned_bilinearly(x, angles, full_frame)
    assert torch.allclose(turned, x.rot90(turns, (-2, -1)), atol=1e-5)


def test_full_frame_turns_leave_no_empty_corner():
    ones = torch.ones(20, 1, 16, 16)
    assert random_turns(ones, True, torch.Generator().manual_seed(0)).min() > 0.99
    assert random_turns(ones, False, torch.Generator().manual_seed(0)).min() == 0


def test_interleave_is_a_permutation():
    labels = np.repeat([0, 1, 2], [5, 30, 7])
    order = interleave(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(42))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digits", "canvas": 50}, "a canvas of 16, 24"),
        ({"name": "digits", "limit": 0}, "a positive limit"),
        ({"name": "faces", "canvas": 32}, "at least 48 pixels"),
        ({"name": "textures", "canvas": 96}, "at most 64 pixels"),
        ({"name": "digits", "colour": True}, "only for a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(StructureError, match=message):
        Source(**arguments)


def test_too_small_a_limit_is_refused():
    with pytest.raises(StructureError, match="at least 10 pictures per class"):
        Source("digits", limit=50).load()
    assert len(Source("digits", limit=400).load().train) < 400


def test_textures_take_a_limit():
    assert len(Source("textures", limit=60).load().train) == 30
    with pytest.raises(StructureError, match="per class"):
        Source("textures", limit=20).load()
