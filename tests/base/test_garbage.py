"""The pause of Python's cycle collector."""

import gc
import threading

import pytest

from pipeline.base import garbage


def test_the_collector_goes_on_after_the_last_pause() -> None:
    """Pauses of two threads overlap, one ends by an error: the collector rests until both are over, not longer."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with garbage.paused():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with pytest.raises(ValueError), garbage.paused():
        thread.start()
        inside.wait(60)
        raise ValueError
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    """Who switched it off finds it off."""
    gc.disable()
    try:
        with garbage.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
