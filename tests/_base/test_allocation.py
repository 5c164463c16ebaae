"""Memory that was freed is there again, without a page fault."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import resource, sys
    import numpy as np
    from lnpjax._base.allocation import keep_freed_memory

    if sys.argv[1] == "kept":
        assert keep_freed_memory()
    for repetition in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(48 * 2**20, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
)


def faults(how):
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other allocators are not told")
def test_kept_memory_has_no_page_faults():
    assert faults("kept") < 20
    assert faults("returned") > 20  # the control: pages of 4 KB, or fewer huge ones
