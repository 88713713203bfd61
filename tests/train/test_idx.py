"""MNIST-format IDX files: what is read, and what is refused by name with what was expected."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fnconv.train.data import load_idx
from fnconv.train.idx import find_idx, read_idx

COUNTS = {"train": 40, "t10k": 12}


def idx(array, magic=None):
    """The bytes of an IDX file that holds `array`."""
    array = np.asarray(array, np.uint8)
    magic = 0x0800 + array.ndim if magic is None else magic
    return b"".join(size.to_bytes(4, "big") for size in (magic, *array.shape)) + array.tobytes()


def write_set(directory: Path, suffix="", mark="-", seed=0):
    """Write the four files, of random images, to `directory`; returns the arrays in them."""
    random = np.random.default_rng(seed)
    written = {}
    for name, count in COUNTS.items():
        arrays = {"images-3": random.integers(0, 256, (count, 28, 28)), "labels-1": np.arange(count) % 10}
        for key, array in arrays.items():
            kind, ndim = key.split("-")
            content = idx(array)
            path = directory / f"{name}-{kind}{mark}idx{ndim}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
            written[f"{name}-{kind}"] = array
    return written


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_are_read_plain_and_gzip_in_both_spellings(tmp_path, suffix, mark):
    written = write_set(tmp_path, suffix, mark)
    data = load_idx(tmp_path)
    assert data.train_images.shape == (40, 28, 28, 1)
    assert data.train_images.dtype == np.float32
    np.testing.assert_array_equal(data.train_labels, written["train-labels"])
    np.testing.assert_array_equal(data.test_labels, written["t10k-labels"])
    images = np.concatenate([data.train_images, data.test_images])[..., 0]
    expected = np.concatenate([written["train-images"], written["t10k-images"]]) / 255 * 1.275 - 0.1
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_any_number_of_axes_is_read(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    for ndim in (1, 2, 3):
        part = array[(0,) * (3 - ndim)]
        (tmp_path / "file").write_bytes(idx(part))
        np.testing.assert_array_equal(read_idx(tmp_path / "file", ndim), part)


def test_the_plain_file_is_preferred(tmp_path):
    write_set(tmp_path, ".gz", seed=0)
    write_set(tmp_path, seed=1)
    assert find_idx(tmp_path, "train-images", 3).name == "train-images-idx3-ubyte"


IMAGES = idx(np.zeros((40, 28, 28)))
LABELS = idx(np.zeros(40))
REFUSED = {
    "empty": ("images-idx3", b"", r"header of 16 bytes; got 0 bytes"),
    "header cut": ("images-idx3", IMAGES[:15], r"header of 16 bytes; got 15 bytes"),
    "data cut": ("images-idx3", IMAGES[:-1], r"31360 bytes .*\(40, 28, 28\); got 31359 bytes \(truncated\)"),
    "trailing": ("labels-idx1", LABELS + b"\0", r"40 bytes .*\(40,\); got 41 bytes \(trailing bytes\)"),
    "labels for images": ("images-idx3", LABELS + bytes(16), r"0x00000803 .*; got 0x00000801"),
    "images for labels": ("labels-idx1", IMAGES, r"0x00000801 .*; got 0x00000803"),
    "other type": ("labels-idx1", idx(np.zeros(40), 0x0D01), r"0x00000801 .*; got 0x00000d01"),
    "gzip without .gz": ("labels-idx1", gzip.compress(LABELS), r"0x00000801 .*; got 0x1f8b"),
    "huge empty shapes": (
        "images-idx3",
        b"\0\0\x08\x03" + b"\xff" * 8 + bytes(4),
        r"announce a shape that an array can have; got \(4294967295, 4294967295, 0\)",
    ),
    "no columns": ("images-idx3", idx(np.zeros((40, 28, 0))), r"hold images of 28x28; got shape \(40, 28, 0\)"),
    "huge sizes": ("images-idx3", b"\0\0\x08\x03" + b"\xff" * 12, r"got 0 bytes \(truncated\)"),
    "counts": (
        "labels-idx1",
        idx(np.zeros(39)),
        r"one label per image of train-images-idx3-ubyte; got 39 labels for 40",
    ),
    "size": ("images-idx3", idx(np.zeros((40, 32, 32))), r"28x28; got shape \(40, 32, 32\)"),
    "none": ("images-idx3", idx(np.zeros((0, 28, 28))), r"at least one image; got shape \(0, 28, 28\)"),
    "label 10": ("labels-idx1", idx([*range(10)] * 3 + [*range(1, 11)]), r"labels 0 to 9; got 10 at entry 39"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_by_name(tmp_path, case):
    kind, content, message = REFUSED[case]
    write_set(tmp_path)
    (tmp_path / f"train-{kind}-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=f"train-{kind}-ubyte must .*{message}"):
        load_idx(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip", "empty", "trailing"])
def test_a_corrupt_gzip_is_refused_by_name(tmp_path, damage):
    write_set(tmp_path, ".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    content = {
        "cut": whole[:-20],
        "flipped": bytes(flipped),
        "not gzip": IMAGES,
        "empty": b"",
        "trailing": whole + b"more",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz must "):
        load_idx(tmp_path)


def test_a_missing_file_and_a_missing_directory_are_refused(tmp_path):
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"must hold one of t10k-labels-idx1-ubyte, .*\.gz; got none of them"):
        load_idx(tmp_path)
    with pytest.raises(ValueError, match=r"directory must be a directory of IDX files; got .*nowhere"):
        load_idx(tmp_path / "nowhere")
