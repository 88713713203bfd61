"""Ctrl-C at twenty moments of `train` and `compare`, and at one of every other command."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from functools import cache

import pytest
from test_idx import write_set

from fnconv.train import checkpoint

MOMENTS = 20
LIMIT, SLACK = 2.0, 2.0  # seconds; machines that run tests are busy
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests
from fnconv.cli import interrupts, main
interrupts.handle(sys.argv[1])
print("started", file=sys.stderr, flush=True)
main()
"""
MODEL = """
import jax, jax.numpy as jnp
def loss(w, x):
    for _ in range(3):
        x = jax.nn.relu(jax.lax.conv(x, w, (1, 1), "SAME"))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID").sum()
def args():
    return jnp.ones((4, 4, 3, 3)), jnp.ones((2, 4, 8, 8))
"""
WHOLE = """
import time
from fnconv.cli import interrupts
with interrupts.whole():
    print("within", flush=True)
    time.sleep({})
    print("done")
"""
TRAIN = ("train", "--data", ".", "--batch-size", "16", "--save", "run")


class Command:
    """A command in a process of its own, on a pipe or on a terminal."""

    def __init__(self, folder, *arguments, terminal=False):
        # Nothing is compiled before, nor kept half-written.
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        environment |= {"XDG_CACHE_HOME": str(folder), "TERM": "xterm", "PYTHONFAULTHANDLER": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments], cwd=folder, env=environment, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.output = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(ours,))
        self._reader.start()
        self.expect("started")

    def _read(self, ours):
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # a terminal whose last process is gone
                data = b""
            with self._changed:
                self.output += data.decode(errors="replace")
                self._changed.notify()
            if not data:
                os.close(ours)
                return

    def expect(self, text):
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.output, 120), self.output

    def end(self):
        status = self._process.wait(120)
        self._reader.join()
        return status

    def interrupt(self, times=1):
        """The seconds that it takes from the last signal to the end; all else that holds after Ctrl-C is asserted."""
        assert self._process.poll() is None, self.output
        for _ in range(times):
            self._process.send_signal(signal.SIGINT)
            time.sleep(0.1 * (times - 1))
        start = time.monotonic()
        assert self.end() == 130, self.output
        taken = time.monotonic() - start
        assert taken < LIMIT + SLACK
        assert self.output.count(": interrupted") == 1, self.output
        assert not any(word in self.output for word in ("Traceback", "Fatal", "Error")), self.output
        assert self.output.rfind("\x1b[?25h") >= self.output.rfind("\x1b[?25l"), "the cursor stays hidden"
        return taken


@cache
def seconds_to_first_epoch(folder):
    command = Command(folder, *TRAIN, "--epochs", "1")
    start = time.monotonic()
    command.expect("epoch 1 of 1")
    assert command.end() == 0
    return time.monotonic() - start


@cache
def seconds_of_compare(folder):
    command = Command(folder, "compare", "model.py:loss", "--rounds", "0")
    start = time.monotonic()
    assert command.end() == 0, command.output
    return time.monotonic() - start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("interrupts")
    write_set(path)
    (path / "model.py").write_text(MODEL)
    return path


moments = pytest.mark.parametrize(
    "moment", [pytest.param(i, marks=() if i % 8 == 3 else pytest.mark.slow) for i in range(MOMENTS)]
)


@pytest.mark.sample(1)
@moments
def test_train(moment, folder):
    """Twelve moments while it imports and compiles, eight among epochs of milliseconds, with their checkpoints."""
    file = folder / "run"
    first = seconds_to_first_epoch(folder)
    file.unlink(missing_ok=True)
    command = Command(folder, *TRAIN, "--epochs", "1000000", terminal=moment % 2 == 1)
    if moment < 12:
        time.sleep(first * moment / 12)
    else:
        while not file.exists():
            time.sleep(0.01)
        time.sleep(0.037 * (moment - 12))
    command.interrupt()
    if file.exists():
        epochs = len(checkpoint.load(file).history)
        assert f"after epoch {epochs}; to go on: fnconv train --resume run --save run" in command.output
    else:
        assert moment < 12
    assert not list(folder.glob(".run.*"))


@pytest.mark.sample(1)
@moments
def test_compare(moment, folder):
    command = Command(folder, "compare", "model.py:loss", "--rounds", "1000000", terminal=moment % 2 == 1)
    time.sleep(seconds_of_compare(folder) * moment / (MOMENTS - 1))
    command.interrupt()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("check", "model.py:loss", "--level", "full"),
        ("show", "conv", "--input", "400x400", "--kernel", "9x9", "--values"),
    ],
)
@pytest.mark.parametrize("after", [0.3, pytest.param(3, marks=pytest.mark.slow)])
def test_every_other_command(arguments, after, folder):
    command = Command(folder, *arguments)
    time.sleep(after)
    command.interrupt()


def test_what_is_to_be_whole_may_end_and_a_second_signal_does_not_wait(folder):
    for seconds, signals, done in ((0.7, 1, True), (60, 1, False), (60, 2, False)):
        (folder / "user.py").write_text(WHOLE.format(seconds))
        command = Command(folder, "compare", "user.py:f")
        command.expect("within")
        taken = command.interrupt(signals)
        assert ("done" in command.output) == done
        assert (taken > 1) == (seconds == 60 and signals == 1)


def test_a_terminal_shows_the_progress_of_compare(folder):
    command = Command(folder, "compare", "model.py:loss", "--rounds", "0", terminal=True)
    command.expect("compiling manual and automatic gradient")
    assert command.end() == 0
