"""OpenVINO is first used by one thread alone: two may wait for each other for ever."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from histoslide.model import openvino_extra
from histoslide.model.openvino_extra import alone_at_first, has_openvino

pytestmark = pytest.mark.skipif(not has_openvino(), reason="the extra openvino is missing")


def test_only_one_thread_is_in_it_until_it_has_been_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_extra, "_used_before", threading.Event())
    inside, most = 0, 0
    entered, leave, together = threading.Event(), threading.Event(), threading.Barrier(4)

    def use() -> None:
        nonlocal inside, most
        together.wait(20)
        with alone_at_first():
            inside += 1
            most = max(most, inside)
            entered.set()
            leave.wait(20)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(use) for _ in range(4)]
        assert entered.wait(20)
        assert not leave.wait(0.2)  # time for others to come in, if they could
        leave.set()
        for job in jobs:
            job.result(timeout=30)
    assert most == 1
    with ThreadPoolExecutor(4) as pool:  # used: all may be in it
        within = threading.Barrier(4)

        def use_again() -> None:
            with alone_at_first():
                within.wait(20)

        for job in [pool.submit(use_again) for _ in range(4)]:
            job.result(timeout=30)


def test_an_error_at_first_leaves_the_door_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_extra, "_used_before", threading.Event())
    with pytest.raises(ZeroDivisionError), alone_at_first():
        raise ZeroDivisionError
    assert not openvino_extra._used_before.is_set()
    with alone_at_first():
        pass
    assert openvino_extra._used_before.is_set()


def test_the_tables_are_filled_before_anything_is_computed() -> None:
    code = (
        "import openvino\n"
        "from histoslide.model import openvino_extra\n"
        "made, real = [], openvino.Tensor\n"
        "openvino.Tensor = lambda array: made.append(openvino_extra._first_use.locked()) "
        "or real(array)\n"
        "openvino_extra.import_openvino()\n"
        "print(made)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[True]"
