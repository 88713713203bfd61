"""The images LeNet-5 is trained on: scikit-learn's handwritten digits, or the user's files in MNIST's format."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from fnconv.base.errors import invalid
from fnconv.train.idx import find_idx, read_idx
from fnconv.train.lenet import CLASSES, IMAGE_SHAPE

TEST_IMAGES = 360
BACKGROUND, FOREGROUND = -0.1, 1.175


class Data(NamedTuple):
    """Images of shape (N, 28, 28, 1), float32, and labels of shape (N,), int32."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]

    def digest(self) -> str:
        """A checksum of the training set, by which a resumed run knows its data."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train_images).data)
        digest.update(np.ascontiguousarray(self.train_labels).data)
        return digest.hexdigest()


def load_digits() -> Data:
    """The 1,797 handwritten digits of scikit-learn, 8x8, scaled up bilinearly to 28x28.

    The split never changes: 1,437 training and 360 test images, stratified by class (`train_test_split` with
    `random_state=0`), whatever the seed of a run.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    digits = load()
    enlarged = np.asarray(jax.image.resize(digits.images, (len(digits.images), *IMAGE_SHAPE), "linear"))
    images = enlarged.round(2) / 16  # rounded, to be the same on every machine
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=TEST_IMAGES, stratify=digits.target, random_state=0
    )
    return Data(_normalize(train_x), train_y.astype(np.int32), _normalize(test_x), test_y.astype(np.int32))


def load_idx(directory: Path) -> Data:
    """Read MNIST-format files (train-images, train-labels, t10k-images, t10k-labels) from `directory`."""
    if not directory.is_dir():
        raise invalid("load_idx", "directory", "must be a directory of IDX files", directory)
    return Data(*_read_set(directory, "train"), *_read_set(directory, "t10k"))


def _read_set(directory: Path, name: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    images_path, labels_path = find_idx(directory, f"{name}-images", 3), find_idx(directory, f"{name}-labels", 1)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != IMAGE_SHAPE:
        raise invalid("load_idx", str(images_path), "must hold images of 28x28", f"shape {images.shape}")
    if len(images) == 0:
        raise invalid("load_idx", str(images_path), "must hold at least one image", f"shape {images.shape}")
    if len(labels) != len(images):
        rule = f"must hold one label per image of {images_path.name}"
        raise invalid("load_idx", str(labels_path), rule, f"{len(labels)} labels for {len(images)} images")
    if labels.max() >= CLASSES:
        at = int(np.argmax(labels >= CLASSES))
        rule = f"must hold labels 0 to {CLASSES - 1}"
        raise invalid("load_idx", str(labels_path), rule, f"{labels[at]} at entry {at}")
    return _normalize(images / np.float32(255)), labels.astype(np.int32)


def _normalize(images: NDArray[np.floating]) -> NDArray[np.float32]:
    """From 0 to 1 to the range of LeCun et al. (1998), which has a mean near 0 and a variance near 1."""
    scaled = images.astype(np.float32) * np.float32(FOREGROUND - BACKGROUND) + np.float32(BACKGROUND)
    return scaled.reshape(*images.shape, 1)


def shift_images(images: NDArray[np.float32], most: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Move each image by up to `most` pixels along each axis, at random; the space left behind is background."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=BACKGROUND)
    top, left = random.integers(0, 2 * most + 1, (2, count))
    rows = top[:, np.newaxis] + np.arange(height)
    columns = left[:, np.newaxis] + np.arange(width)
    image = np.arange(count)[:, np.newaxis, np.newaxis]
    moved: NDArray[np.float32] = padded[image, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
    return moved
