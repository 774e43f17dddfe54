"""Work that hangs is given up, and holds up neither its caller nor the interpreter's end."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from histoslide.errors import StalledError
from histoslide.machine import watched
from histoslide.machine.watched import WatchedThreads


def threads(limit_s: float = 30) -> WatchedThreads:
    return WatchedThreads("the network", way_out="try again", limit_s=limit_s)


def test_results_and_errors_reach_who_asked() -> None:
    class OddError(Exception):
        pass

    def fail() -> None:
        raise OddError

    made = threads()
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda n: made.run(lambda: n * n), range(50))) == [
            n * n for n in range(50)
        ]
    with pytest.raises(OddError):
        made.run(fail)
    assert made.run(threading.current_thread).daemon


def test_callers_at_once_do_not_wait_for_one_another() -> None:
    made, together = threads(), threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        for job in [pool.submit(made.run, lambda: together.wait(20)) for _ in range(3)]:
            job.result(timeout=30)


def test_threads_are_used_again_and_end_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_IDLE_S", 0.2)
    made = threads()
    first = made.run(threading.current_thread)
    assert made.run(threading.current_thread) is first
    first.join(20)
    assert not first.is_alive()
    assert made.run(threading.current_thread) is not first


def test_what_hangs_is_given_up_in_one_line_and_nothing_is_begun_after_it() -> None:
    made, leave = threads(0.2), threading.Event()
    try:
        with pytest.raises(StalledError) as caught:
            made.run(leave.wait)
        said = str(caught.value)
        assert said == (
            "the network has computed nothing for 0 s while work waits for it: it hangs, so this "
            "run ends; try again"
        )
        begun: list[int] = []
        with pytest.raises(StalledError):
            made.run(lambda: begun.append(1))
        assert not begun
    finally:
        leave.set()


def test_longer_work_has_longer_time() -> None:
    made, leave = threads(0.1), threading.Event()
    timer = threading.Timer(0.5, leave.set)
    timer.start()
    assert made.run(lambda: leave.wait(20), times=100)
    timer.join()


def test_an_interpreter_does_not_wait_for_what_hangs() -> None:
    code = (
        "import threading\n"
        "from histoslide.machine.watched import WatchedThreads\n"
        "made = WatchedThreads('it', way_out='go home', limit_s=0.2)\n"
        "try: made.run(threading.Event().wait)\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == ["StalledError"]
