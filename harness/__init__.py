"""The shared rollout/learner core into which the algorithms plug as interchangeable losses."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]  # the folder that holds the packages
INSTALLED = PROJECT / "lagrange"  # in an installed copy: run.py, conf/ and sweeps/
SETTINGS = INSTALLED if (INSTALLED / "conf" / "config.yaml").is_file() else PROJECT  # the folder that holds run.py
