"""Processes of ours are found again by their words, and end with whoever started them where they should."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from living import wait_for

from mlops_nb import processes

SLEEPS = "import time; time.sleep(60)"
FOLLOWS = f"""
import os, subprocess, sys
from mlops_nb import processes
processes.end_with(os.getppid())
started = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}])
print(os.getpid(), started.pid, flush=True)
while True:
    pass
"""
LEADS = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {FOLLOWS!r}], start_new_session=True)
time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Python with these words after its name; what still runs is ended with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_computes_ends_with_its_parent_and_so_does_what_it_started(started, how: signal.Signals) -> None:
    leader = started("-c", LEADS)
    assert leader.stdout
    follower, below = map(int, leader.stdout.readline().split())

    leader.send_signal(how)

    wait_for(lambda: not psutil.pid_exists(follower) and not psutil.pid_exists(below), seconds=10, what="both end")


def test_a_process_is_found_again_by_its_words(started) -> None:
    pid = processes.ours(started("-c", SLEEPS, "spec.json"))

    wait_for(lambda: psutil.Process(pid).cmdline(), what="its words")
    assert processes.again(pid, ["-c", SLEEPS]).pid == pid
    assert [process.pid for process in processes.started_with(["-c", SLEEPS, "spec.json"])] == [pid]
    assert processes.again(pid, ["-c", SLEEPS, "other.json"]) is None
    assert processes.again(os.getpid(), ["-c", SLEEPS]) is None
    assert processes.again(None, ["-c"]) is None


def test_a_process_that_was_killed_is_not_found_and_tells_how_it_ended(started) -> None:
    pid = processes.ours(started("-c", SLEEPS))
    assert processes.exit_code(pid) is None

    processes.kill_group(pid)

    wait_for(lambda: processes.again(pid, ["-c", SLEEPS]) is None, what="it ends")
    assert processes.exit_code(pid) == -signal.SIGKILL
    processes.kill_group(pid)


STANDS_BACK = """
import os, threading
from mlops_nb import processes
def nice():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
def behind():
    processes.stand_back()
    child = threading.Thread(target=lambda: print(nice()))
    child.start()
    child.join()
thread = threading.Thread(target=behind)
before = nice()
thread.start()
thread.join()
print(nice() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads stand where their process does")
def test_a_thread_stands_back_with_those_it_starts_and_its_process_does_not():
    done = subprocess.run([sys.executable, "-c", STANDS_BACK], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["10", "0"]


def test_a_process_that_is_about_to_end_is_waited_for_to_learn_what_it_ended_with():
    pid = processes.ours(subprocess.Popen([sys.executable, "-c", "input(); raise SystemExit(3)"], stdin=subprocess.PIPE))
    assert processes.exit_code(pid) is None
    processes._children[pid].stdin.close()

    assert processes.exit_code(pid, patience_seconds=30) == 1  # of the EOFError


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells of the end of a process that it is asked about")
def test_the_end_of_a_process_is_told_once_and_at_once():
    ends = processes.Ends()
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        assert ends.watch({one.pid, other.pid}) and len(ends.descriptors) == 2
        assert select.select(ends.descriptors, [], [], 0)[0] == []
        one.kill()
        assert len(select.select(ends.descriptors, [], [], 30)[0]) == 1
        ends.forget_ended()
        assert ends.watch({one.pid, other.pid}) and len(ends.descriptors) == 1  # still asked for, and told already
        assert ends.watch({other.pid}) and ends.watch(set()) and ends.descriptors == []
        other.kill()
    assert ends.watch({other.pid}) and ends.descriptors == []  # gone before it was asked for
