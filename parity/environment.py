"""Builds the peers' environment, `.venv-parity`, unless it is there already: `python3 -m parity.environment`.

Standard library only, for it runs before anything is installed. A stamp of requirements.txt in the environment tells
whether it is up to date, so running it again costs nothing.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-parity"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
AREAL = Path(__file__).parent / "requirements-areal.txt"


def build() -> Path:
    """The environment's python; builds the environment if it is missing or stale. A few minutes the first time."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "requirements.sha256"
    expected = hashlib.sha256(REQUIREMENTS.read_bytes() + AREAL.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == expected:
        return python
    print(f"building {FOLDER.name} (TRL, verl, Liger, AReaL): a few minutes", file=sys.stderr)
    if not python.exists():
        venv.create(FOLDER, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
    subprocess.run([*install, "--no-deps", "-r", str(AREAL)], check=True)
    stamp.write_text(expected)
    return python


if __name__ == "__main__":
    print(build())
