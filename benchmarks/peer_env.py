"""The peers' environment: TRL beside the very torch and transformers that the project itself uses.

    python -m benchmarks.peer_env

`.venv-bench` sees the packages of the environment that makes it; only TRL and what it adds are installed there.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-bench"
PYTHON = FOLDER / "bin" / "python"
TRL = "1.16.0"


def ensure() -> Path:
    """Python of the peers' environment, made on first use."""
    if not _has_trl():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        own = subprocess.run(
            [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        (Path(own) / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), f"trl=={TRL}", "accelerate"], check=True)
    return PYTHON


def _has_trl() -> bool:
    if not PYTHON.is_file():
        return False
    asked = [str(PYTHON), "-c", f"import trl, torch; assert trl.__version__ == '{TRL}'"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    print(ensure())
