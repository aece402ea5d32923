"""Nothing of the package depends on lying on the processor."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).with_name("on_another_device.py")


def test_everything_works_on_a_device_that_is_not_the_processor() -> None:
    """In a process of its own: autograd looks which devices there are in the first backward pass, and never again."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout or "skipped" in done.stdout
