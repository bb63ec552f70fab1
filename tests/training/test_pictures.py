"""Images of every mode are converted as people expect; what cannot be is named by row and place, and early."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from transformers import ViTImageProcessor

from hf_memoria import segment_images

SIZE = (6, 5)
RGB = ViTImageProcessor(size={"height": 5, "width": 6})
GREY = ViTImageProcessor(size={"height": 5, "width": 6}, image_mean=[0.5], image_std=[0.5])


def stored(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return {"path": None, "bytes": buffer.getvalue()}


def plain(colour=(10, 200, 90), mode="RGB"):
    return Pictures.new(mode, SIZE, colour)


def segments_of(*streams, processor=RGB, feature=None):
    features = Features(images=List(feature or Image()))
    return segment_images(Dataset.from_dict({"images": list(streams)}, features=features), processor, lanes=1)


def pixels_of(picture, processor=RGB):
    return processor(images=picture, return_tensors="pt")["pixel_values"][0]


def sixteen_bits(values):
    return Pictures.fromarray(np.full(SIZE[::-1], values, dtype=np.uint16))


def half_clear(mode):
    """Make an image whose right half is black and not seen at all, and whose left half is its colour."""
    picture = Pictures.new("RGBA", SIZE, (0, 0, 0, 0))
    picture.paste((10, 200, 90, 255), (0, 0, 3, 5))
    return picture.convert(mode)


def half_white(mode="RGB"):
    picture = plain((255, 255, 255))
    picture.paste((10, 200, 90), (0, 0, 3, 5))
    return picture.convert(mode)


CONVERTED = {
    "grey": (stored(plain(77, "L")), plain((77, 77, 77))),
    "black and white": (stored(plain(1, "1")), plain((255, 255, 255))),
    "palette": (stored(plain().convert("P", palette=Pictures.Palette.ADAPTIVE)), plain()),
    "CMYK": (stored(plain((10, 20, 30, 40), "CMYK"), "TIFF"), plain((10, 20, 30, 40), "CMYK").convert("RGB")),
    "CMYK as JPEG": (
        stored(plain((10, 20, 30, 40), "CMYK"), "JPEG", quality=100),
        plain((10, 20, 30, 40), "CMYK").convert("RGB"),
    ),
    "YCbCr": (stored(plain((90, 120, 130), "YCbCr"), "TIFF"), plain((90, 120, 130), "YCbCr").convert("RGB")),
    "16 bits": (stored(sixteen_bits(77 * 257)), plain((77, 77, 77))),
    "16 bits, white": (stored(sixteen_bits(65535)), plain((255, 255, 255))),
    "16 bits, dark": (stored(sixteen_bits(300), "TIFF"), plain((1, 1, 1))),
    "16 bits, of which one is clear": (stored(sixteen_bits(300), transparency=300), plain((255, 255, 255))),
    "RGBA": (stored(half_clear("RGBA")), half_white()),
    "half seen": (stored(plain((0, 0, 0, 102), "RGBA")), plain((153, 153, 153))),
    "grey with alpha": (stored(plain((0, 0), "LA")), plain((255, 255, 255))),
    "palette with a clear colour": (stored(half_clear("RGBA").convert("P"), transparency=0), None),
    "RGB with a clear colour": (stored(plain(), transparency=(10, 200, 90)), plain((255, 255, 255))),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_every_mode_becomes_rgb(case):
    content, expected = CONVERTED[case]
    if expected is None:  # its palette is Pillow's choice: what it shows on white is what it is to be
        seen = Pictures.open(io.BytesIO(content["bytes"])).convert("RGBA")
        assert seen.getextrema()[3] == (0, 255)
        expected = Pictures.alpha_composite(Pictures.new("RGBA", SIZE, "white"), seen).convert("RGB")
    segments = segments_of([stored(plain((1, 2, 3))), content])
    found = segments[1]["pixel_values"]
    assert found.shape == (3, 5, 6)
    # JPEG is not exact.
    torch.testing.assert_close(found, pixels_of(expected), rtol=0, atol=2.5 / 127.5 if "JPEG" in case else 1e-6)


@pytest.mark.parametrize("make", [plain, half_clear, lambda mode: sixteen_bits(77 * 257)], ids=["RGB", "RGBA", "16"])
def test_a_processor_of_one_channel_gets_grey(make):
    picture = make("RGBA") if make is half_clear else make(*([] if make is plain else ["I;16"]))
    expected = {plain: plain().convert("L"), half_clear: half_white("L")}.get(make, plain(77, "L"))
    segments = segments_of([stored(plain()), stored(picture)], processor=GREY)
    assert torch.equal(segments[1]["pixel_values"], pixels_of(expected, GREY))


def test_a_mode_that_the_feature_names_is_kept():
    taken = []

    def processor(images, **kwargs):
        taken.append(images.mode)
        return {"pixel_values": torch.zeros(1, 1, 5, 6)}

    segments = segments_of([stored(plain()), stored(half_clear("RGBA"))], processor=processor, feature=Image(mode="L"))
    assert [segments[0], segments[1]]
    assert set(taken) == {"L"}
    deep = segments_of([stored(sixteen_bits(77 * 257))], feature=Image(mode="RGB"))
    assert torch.equal(deep[0]["pixel_values"], pixels_of(plain((77, 77, 77))))


def test_files_that_datasets_was_told_not_to_decode_are_read():
    segments = segments_of([stored(plain())], feature=Image(decode=False))
    assert torch.equal(segments[0]["pixel_values"], pixels_of(plain()))


def broken(kind, tmp_path):
    whole = stored(Pictures.effect_noise((64, 64), 50))["bytes"]
    return {
        "no image": {"path": None, "bytes": b"<html>not found</html>"},
        "empty": {"path": None, "bytes": b""},
        "cut in its head": {"path": None, "bytes": whole[:20]},
        "a file that is gone": {"path": str(tmp_path / "gone.png"), "bytes": None},
        "nothing": None,
        "32 bits": stored(plain(70000, "I"), "TIFF"),
        "floats": stored(plain(0.5, "F"), "TIFF"),
        "cut short": {"path": None, "bytes": whole[:-900]},
    }[kind]


EARLY = {
    "no image": "UnidentifiedImageError: cannot identify image file",
    "empty": "UnidentifiedImageError",
    "cut in its head": "Repair it, or leave its row out",
    "a file that is gone": r"FileNotFoundError: .*gone\.png",
    "nothing": "it is None",
    "32 bits": "its mode must be one whose white is known, got 'I'",
    "floats": "its mode must be one whose white is known, got 'F'",
}


@pytest.mark.parametrize("kind", EARLY)
def test_what_cannot_be_converted_is_named_before_training(kind, tmp_path):
    good = stored(plain())
    with pytest.raises(ValueError, match=f"(?s)image 1 of row 2 is none: .*{EARLY[kind]}"):
        segments_of([good], [good, good], [good, broken(kind, tmp_path)])


def test_what_only_pixels_show_is_named_where_it_is_read(tmp_path):
    good = stored(plain())
    segments = segments_of([good], [good, good, broken("cut short", tmp_path)])
    assert len([segments[row] for row in range(3)]) == 3
    with pytest.raises(ValueError, match=r"image 2 of row 1 is none: OSError: .*truncated.* Repair it"):
        segments[3]


def test_rows_are_those_of_the_dataset_that_was_given():
    good, wrong = stored(plain()), {"path": None, "bytes": b"x"}
    dataset = Dataset.from_dict({"images": [[good], [wrong], [good, wrong]]}, features=Features(images=List(Image())))
    with pytest.raises(ValueError, match="image 1 of row 1 is none"):
        segment_images(dataset.select([0, 2]), RGB, lanes=1)
    assert len(segment_images(dataset.select([0]), RGB, lanes=1)) == 1


def arrays(values, dtype):
    nested = Value(dtype)
    for _ in range(1 + np.ndim(values)):
        nested = List(nested)
    return Dataset.from_dict({"images": [[values]]}, features=Features(images=nested))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.full((5, 6), 77), "uint8", plain((77, 77, 77))),
        (np.full((5, 6, 1), 77), "int64", plain((77, 77, 77))),
        (np.full((1, 5, 6), 77), "uint8", plain((77, 77, 77))),
        (np.full((5, 6), 77 * 257), "uint16", plain((77, 77, 77))),
        (np.full((5, 6, 3), 77 * 257), "uint16", plain((77, 77, 77))),
        (np.asarray(half_clear("RGBA")), "uint8", half_white()),
        (np.moveaxis(np.asarray(half_clear("RGBA")), -1, 0), "uint8", half_white()),
    ],
)
def test_arrays_are_converted_as_files_are(values, dtype, expected):
    segments = segment_images(arrays(values, dtype), RGB, lanes=1)
    assert torch.equal(segments[0]["pixel_values"], pixels_of(expected))


@pytest.mark.parametrize(
    ("values", "dtype", "told"),
    [
        (np.full((5, 6, 3), 300), "int64", "its integers must be of 0 to 255, or of uint16, got 300 to 300 of int64"),
        (np.full(5, 3), "uint8", r"it must have the shape .* got \[5\]"),
        (np.full((5, 6, 7), 1), "uint8", "image 0 of row 0 is none"),
    ],
)
def test_arrays_that_are_no_images_are_named(values, dtype, told):
    with pytest.raises(ValueError, match=f"(?s){told}") as found:
        segment_images(arrays(values, dtype), RGB, lanes=1)
    assert "image 0 of row 0" in str(found.value)


def test_files_need_a_processor():
    dataset = Dataset.from_dict({"pixel_values": [[stored(plain())]]}, features=Features(pixel_values=List(Image())))
    with pytest.raises(TypeError, match=r"column 'pixel_values' must hold floats .* got List\(Image"):
        segment_images(dataset, lanes=1)
