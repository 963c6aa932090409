"""The marks of every test that starts vLLM: skipped where it is not installed, and all of them in one worker."""

import pytest

from harness.errors import UserError
from harness.rollout import vllm_engine

try:
    vllm_engine.check_installed()
    WITHOUT = ""
except UserError as missing:
    WITHOUT = str(missing)

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT),
    pytest.mark.xdist_group("vllm"),  # importing and starting it is most of their time
]
