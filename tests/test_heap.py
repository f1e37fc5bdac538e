"""What is freed between batches stays with the process, and goes at the end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from relatif_widgets import heap

SCRIPT = """
import json, resource, torch
from relatif_widgets import heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0]) / 1024

def batches():
    before = faults()
    for _ in range(5):
        blocks = [torch.ones(6 << 20) for _ in range(4)]  # 96 MB
        del blocks
    return faults() - before

torch.ones(1 << 16)  # threads have started
start = resident()
with heap.kept(1 << 40):
    batches()
    inside = batches()
    held = resident() - start
print(json.dumps({"inside": inside, "held": held, "left": resident() - start}))
"""


@pytest.mark.skipif(heap._glibc() is None, reason="malloc is another one here")
def test_batches_take_their_memory_from_what_the_last_one_freed() -> None:
    told = json.loads(subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True).stdout)
    pages = 5 * 96 * 256  # which without it are asked for again in one process, and not in another
    assert told["inside"] < pages / 100
    assert told["held"] > 60
    assert told["left"] < 20


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap._glibc() is None
    with heap.kept(1 << 40):
        pass


@pytest.mark.skipif(heap._glibc() is None, reason="malloc is another one here")
def test_a_small_fit_leaves_malloc_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Library:
        def mallopt(self, option: int, value: int) -> None:
            asked.append("mallopt")

        def malloc_trim(self, pad: int) -> None:
            asked.append("malloc_trim")

    monkeypatch.setattr(heap, "_glibc", Library)
    with heap.kept((1 << 30) - 1):
        pass
    assert asked == []
    with heap.kept(1 << 30):
        assert asked == ["mallopt", "mallopt"]
    assert asked == ["mallopt", "mallopt", "mallopt", "malloc_trim"]
