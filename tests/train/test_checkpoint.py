"""Checkpoints: what is saved is resumed bit for bit, and what is damaged is refused by name."""

import json
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fnconv.train import checkpoint
from fnconv.train.data import Data
from fnconv.train.loop import fit
from fnconv.train.run import Config, Drift, Epoch, Metrics, Run


def small_data(seed=0):
    random = np.random.default_rng(seed)
    images = random.standard_normal((60, 28, 28, 1), np.float32)
    labels = random.integers(0, 10, 60, np.int32)
    return Data(images[:40], labels[:40], images[40:], labels[40:])


def small_run(gradients="manual", epochs=2):
    """A run that looks trained, without the training."""
    run = Run.start(Config(gradients=gradients, seed=3, learning_rate=0.1), small_data())
    copies = {
        name: jax.tree.map(lambda w, more=more: w + jnp.float32(0.1 * more), copy)
        for more, (name, copy) in enumerate(run.copies.items(), 1)
    }
    metrics = {name: Metrics(1 / 3, 0.7, 2 / 3, 0.6) for name in copies}
    drift = Drift(0.1, 1e-7) if gradients == "both" else None
    return replace(run, copies=copies, history=(Epoch(metrics, drift),) * epochs)


def assert_same(run, other):
    """Every field and every bit of two runs is equal."""
    assert (run.config, run.data, run.history) == (other.config, other.data, other.history)
    assert run.copies.keys() == other.copies.keys()
    assert jax.tree.structure(run.copies) == jax.tree.structure(other.copies)
    for one, two in zip(jax.tree.leaves(run.copies), jax.tree.leaves(other.copies), strict=True):
        assert one.dtype == two.dtype
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.parametrize("gradients", ["manual", "autodiff", "both"])
def test_load_returns_what_save_wrote(tmp_path, gradients):
    run = small_run(gradients)
    checkpoint.save(tmp_path / "run", run)
    assert_same(checkpoint.load(tmp_path / "run"), run)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_header_tells_what_the_file_holds(tmp_path):
    checkpoint.save(tmp_path / "run", small_run())
    header = read_header((tmp_path / "run").read_bytes())
    assert header["architecture"] == "LeNet-5"
    assert header["epochs"] == 2
    assert header["config"]["seed"] == 3
    assert header["config"]["learning_rate"] == 0.1


@pytest.mark.parametrize(("model", "gradients"), [("classic", "both"), ("modern", "manual")])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, model, gradients):
    data = small_data()
    config = Config(model=model, gradients=gradients, batch_size=16, seed=5)
    runs = list(fit(Run.start(config, data), data, 3))
    checkpoint.save(tmp_path / "first", runs[0])
    resumed = list(fit(checkpoint.load(tmp_path / "first"), data, 3))
    assert len(resumed) == 2
    assert_same(resumed[-1], runs[-1])
    for name, run in (("resumed", resumed[-1]), ("whole", runs[-1])):
        checkpoint.save(tmp_path / name, run)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_run_does_not_go_on_with_other_data():
    with pytest.raises(ValueError, match="fit: data must be the training set that the run began with"):
        fit(small_run(), small_data(seed=1), 9)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch, moment):
    path = tmp_path / "run"
    checkpoint.save(path, small_run())
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, small_run("both"))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_symbolic_link_stays_and_leads_to_the_checkpoint(tmp_path):
    (tmp_path / "away").mkdir()
    link = tmp_path / "link"
    link.symlink_to("away/run")
    for run in (small_run(epochs=1), small_run(epochs=2)):  # first into nothing, then over a file
        checkpoint.save(link, run)
        assert link.is_symlink()
        assert_same(checkpoint.load(tmp_path / "away" / "run"), run)
    assert [file.name for file in (tmp_path / "away").iterdir()] == ["run"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to the pipe").symlink_to("pipe")
    (tmp_path / "device").symlink_to(os.devnull)

    def kinds():
        return {file.name: (file.lstat().st_ino, file.lstat().st_mode) for file in tmp_path.iterdir()}

    before = kinds()
    for path in tmp_path.iterdir():
        for refuse in (lambda path: checkpoint.save(path, small_run()), checkpoint.check_save):
            with pytest.raises(
                ValueError, match=r"check_save: path must be a (regular file, or none yet|file in an ex)"
            ):
                refuse(path)
    assert kinds() == before
    assert os.path.exists(os.devnull)


def read_header(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"][checkpoint.HEADER])


def rewrite(content, change):
    """The file with its tensors and its header changed by `change`, and a checksum that fits them."""
    tensors, header = load_tensors(content), read_header(content)
    del header["sha256"]
    change(tensors, header)
    header["sha256"] = checkpoint._checksum(header, tensors)
    return save_tensors(tensors, {checkpoint.HEADER: json.dumps(header)})


def set_tensor(name, value):
    return lambda content: rewrite(content, lambda tensors, _: tensors.update({name: value}))


def set_header(**entries):
    return lambda content: rewrite(content, lambda _, header: header.update(entries))


def flip(position):
    def damage(content):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        return bytes(damaged)

    return damage


C1 = "manual.params.c1.w"
DAMAGED = {
    "empty": (lambda content: b"", "must be a whole safetensors file; got a damaged one"),
    "a text": (lambda content: b"not a checkpoint at all", "must be a whole safetensors file; got a damaged one"),
    "cut in the header": (lambda content: content[:100], "must be a whole safetensors file; got a damaged one"),
    "cut by a byte": (lambda content: content[:-1], "must be a whole safetensors file; got a damaged one"),
    "a byte more": (lambda content: content + b"\0", "must be a whole safetensors file; got a damaged one"),
    "first weight flipped": (flip(-400_000), "must have the content of checksum .* that its header announces"),
    "last byte flipped": (flip(-1), "must have the content of checksum .* that its header announces"),
    "another file": (
        lambda content: save_tensors({"x": np.zeros(3)}),
        "must have a JSON entry 'fnconv' in its header; got {}",
    ),
    "a header that is no object": (
        lambda content: save_tensors({"x": np.zeros(3)}, {checkpoint.HEADER: "[]"}),
        "must have a JSON object as its entry 'fnconv'; got list",
    ),
    "a header without history": (
        lambda content: rewrite(content, lambda _, header: header.pop("history")),
        "must have the header that save writes; got .*history",
    ),
    "an unknown option": (set_header(config={"colour": 1}), "must have the header that save writes; got .*colour"),
    "a bad option": (set_header(config={"momentum": 2}), "must have the header that save writes; got .*momentum"),
    "another network": (set_header(architecture="AlexNet"), "must hold the architecture 'LeNet-5'; got 'AlexNet'"),
    "a tensor less": (
        lambda content: rewrite(content, lambda tensors, _: tensors.pop(C1)),
        rf"must hold '{C1}' as float32 of shape \(5, 5, 1, 6\); got no such tensor",
    ),
    "a tensor more": (set_tensor("c9", np.zeros(3)), "must hold no 'c9'; got float64"),
    "another shape": (
        set_tensor(C1, np.zeros((5, 5, 1, 7), np.float32)),
        rf"must hold '{C1}' as float32 of shape \(5, 5, 1, 6\); got float32 of shape \(5, 5, 1, 7\)",
    ),
    "another dtype": (
        set_tensor(C1, np.zeros((5, 5, 1, 6), np.float64)),
        rf"must hold '{C1}' as float32 of shape \(5, 5, 1, 6\); got float64",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, case):
    damage, message = DAMAGED[case]
    path = tmp_path / "run"
    checkpoint.save(path, small_run())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"load: {path} {message}"):
        checkpoint.load(path)


def test_a_flip_anywhere_is_noticed(tmp_path):
    path = tmp_path / "run"
    checkpoint.save(path, small_run())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for position in (*range(0, header, 7), *range(header, len(content), 40_009)):
        path.write_bytes(flip(position)(content))
        with pytest.raises(ValueError, match=f"load: {path} must "):
            checkpoint.load(path)


def test_paths_that_cannot_be_read_or_written_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"load: path must be a checkpoint file; got .*nothing"):
        checkpoint.load(tmp_path / "nothing")
    for path in (tmp_path, tmp_path / "missing" / "run"):
        with pytest.raises(ValueError, match="check_save: path must be a file in an existing directory"):
            checkpoint.check_save(path)
