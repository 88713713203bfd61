"""Ctrl-C: what must be whole is finished first, if it ends soon; then the process ends, whatever it is in, with 130.

XLA compiles in C++, where no handler written in Python runs and out of which no exception leads; so a thread of its own
waits for the signal, and ends the process.  A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

STATUS = 130  # of a command ended by Ctrl-C, as a shell counts
GRACE = 1.5  # seconds until what has not ended is abandoned
CLOSING = 0.3  # seconds for the terminal to take the last line, where it stands still

_asked, _whole, _closing = threading.Event(), threading.Event(), threading.Lock()
_stop: list[Callable[[], Any]] = []  # the display that holds the terminal
_command, _handled = "fnconv", False
_advice: Callable[[], str] = str


def handle(command: str) -> None:
    """From now on Ctrl-C ends the process so, unless it was started to ignore it, as behind nohup."""
    global _command, _handled
    _command = f"fnconv {command}"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()
    signal.signal(signal.SIGINT, lambda *_: None)  # the byte that the signal writes is what counts
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    _handled = True


def advise(advice: Callable[[], str]) -> None:
    """What the last line adds, such as how to go on."""
    global _advice
    _advice = advice


@contextmanager
def whole() -> Iterator[None]:
    """Ctrl-C lets this block end, if it does so within `GRACE` seconds."""
    _whole.set()
    try:
        yield
    finally:
        _whole.clear()
        if _asked.is_set():
            _leave()


@contextmanager
def showing(display: Any) -> Iterator[None]:
    """Enter a live display of rich; Ctrl-C stops it before the last line."""
    with display:
        _stop.append(display.stop)
        try:
            yield
        finally:
            _stop.clear()


def end() -> None:
    """The command is done; what is left is the interpreter's own end."""
    if _asked.is_set():
        _leave()
    if _handled:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _watch(signals: socket.socket) -> None:
    _wait(signals)
    _asked.set()
    if _whole.is_set():
        signals.settimeout(GRACE)
        with suppress(TimeoutError):
            _wait(signals)
    _leave()


def _wait(signals: socket.socket) -> None:
    while signals.recv(1)[0] != signal.SIGINT:
        pass


def _leave() -> NoReturn:
    closing = threading.Thread(target=_close, daemon=True)  # which a terminal that stands still can block
    closing.start()
    closing.join(CLOSING)
    os._exit(STATUS)


def _close() -> None:
    _closing.acquire()  # for good: there is one last line
    for stop in _stop:
        with suppress(Exception):
            stop()
    print(f"{_command}: interrupted{_advice()}", file=sys.stderr, flush=True)
    sys.stdout.flush()
