"""Aspect-ratio buckets, and how pictures are brought to them."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afa_core.training.data.buckets import WIDEST, Augmentation, assign, augmented, buckets, fit, step_for

sizes = st.tuples(st.integers(8, 4000), st.integers(8, 4000))


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (1024, 64), (768, 64), (64, 8), (128, 8)])
def test_every_bucket_is_whole_steps_and_no_larger_than_asked(resolution, step):
    shapes = buckets(resolution)
    assert step_for(resolution) == step
    assert (resolution, resolution) in shapes
    assert len(shapes) == len(set(shapes))
    for width, height in shapes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert max(width, height) <= WIDEST * min(width, height)
        assert (height, width) in shapes


@given(st.integers(8, 300))
def test_every_resolution_has_a_bucket(resolution):
    assert buckets(resolution)


def test_a_resolution_below_one_step_is_refused():
    with pytest.raises(ValueError, match="8 or more, found 4"):
        buckets(4)


@given(sizes)
def test_a_picture_gets_the_nearest_shape(size):
    shapes = buckets(512)
    found = assign(size, shapes)
    ratio = size[0] / size[1]

    def off(shape):
        return max(shape[0] / shape[1] / ratio, ratio / (shape[0] / shape[1]))

    assert off(found) <= min(map(off, shapes)) * (1 + 1e-5)
    assert assign(size, list(reversed(shapes))) == found
    assert assign((size[1], size[0]), shapes) == (found[1], found[0]) or off(found) == pytest.approx(off(found[::-1]))


@pytest.mark.parametrize(
    ("size", "shape"),
    [((2000, 2000), (512, 512)), ((1920, 1080), (640, 384)), ((1080, 1920), (384, 640)), ((9000, 100), (1024, 256))],
)
def test_known_assignments(size, shape):
    assert assign(size, buckets(512)) == shape


@given(sizes.filter(lambda s: s[0] * s[1] < 10**6), st.sampled_from(buckets(64)))
def test_a_fitted_picture_has_the_buckets_size_and_range(size, shape):
    picture = torch.rand(3, size[1], size[0], generator=torch.Generator().manual_seed(sum(size)))
    fitted = fit(picture, shape)
    assert fitted.shape == (3, shape[1], shape[0])
    assert fitted.min() >= 0 and fitted.max() <= 1


def test_a_picture_of_the_right_size_is_untouched():
    picture = torch.rand(3, 64, 64)
    assert torch.equal(fit(picture, (64, 64)), picture)


@pytest.mark.parametrize("factor", [1.5, 3, 20])
def test_scaling_neither_shifts_nor_distorts(factor):
    """A linear slope stays one: its value gives the place in the picture."""
    side = int(64 * factor)
    slope = (torch.arange(side) + 0.5) / side
    fitted = fit(slope.expand(3, side, side), (64, 64))
    expected = ((torch.arange(64) + 0.5) / 64).expand(64, 64)
    torch.testing.assert_close(fitted[0][:, 2:-2], expected[:, 2:-2], atol=0.005, rtol=0)


def test_the_middle_is_kept():
    picture = torch.zeros(3, 64, 192)
    picture[:, :, 64:128] = 1
    assert fit(picture, (64, 64)).min() == 1


# ---- augmentation ----

ALL = Augmentation(random_crop=True, flip=True, colour=1.0)


def test_augmentation_is_off_by_default():
    assert Augmentation().count == 1
    assert ALL.count == 4
    picture = torch.rand(3, 64, 64)
    assert torch.equal(augmented(picture, (64, 64), Augmentation(), "key", 1), picture)


def test_the_first_variant_is_the_plain_picture():
    picture = torch.rand(3, 100, 80)
    assert torch.equal(augmented(picture, (56, 72), ALL, "key", 0), fit(picture, (56, 72)))


def test_variants_differ_by_key_and_number_and_by_nothing_else():
    picture = torch.rand(3, 100, 80, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    drawn = {(key, v): augmented(picture, (56, 72), ALL, key, v) for key in ("a", "b") for v in (1, 2, 3)}
    torch.manual_seed(2)
    for (key, variant), result in drawn.items():
        assert result.shape == (3, 72, 56) and result.min() >= 0 and result.max() <= 1
        assert torch.equal(augmented(picture, (56, 72), ALL, key, variant), result)
        assert sum(torch.equal(result, other) for other in drawn.values()) == 1


def test_a_flip_mirrors_some_variants_and_leaves_the_others():
    picture = torch.rand(3, 64, 64)
    found = [augmented(picture, (64, 64), Augmentation(flip=True), f"{key}", 1) for key in range(30)]
    mirrored = sum(torch.equal(result, picture.flip(-1)) for result in found)
    assert mirrored + sum(torch.equal(result, picture) for result in found) == 30
    assert 5 < mirrored < 25


def test_a_random_crop_lies_within_the_picture_and_moves():
    """Slopes to the right and downwards show which part of the picture a crop shows."""
    slope = torch.linspace(0, 1, 200)
    picture = torch.stack([slope.expand(200, 200), slope[:, None].expand(200, 200), torch.zeros(200, 200)])
    crops = [augmented(picture, (64, 64), Augmentation(random_crop=True), f"{key}", 1) for key in range(20)]
    lefts = [crop[0, 32, 0].item() for crop in crops]
    widths = [(crop[0, 32, -1] - crop[0, 32, 0]).item() for crop in crops]
    assert max(lefts) - min(lefts) > 0.05
    assert all(1 / 1.2 - 0.05 < width <= 1 for width in widths)
    assert max(widths) - min(widths) > 0.05


def test_colour_changes_colours_only_as_far_as_asked():
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    far = [augmented(picture, (64, 64), Augmentation(colour=s), "k", 1).sub(picture).abs().mean() for s in (0.1, 1.0)]
    assert 0 < far[0] < far[1] / 3


def test_kornia_is_imported_when_it_is_needed_only(tmp_path):
    import subprocess

    code = "import sys, afa_core.training.data.buckets, afa_core.training.data.dataset, afa_core.training.data.prompt_folder; print('kornia' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
