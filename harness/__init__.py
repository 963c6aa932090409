"""The shared rollout/learner core into which the algorithms plug as interchangeable losses."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]  # the folder that holds the packages
INSTALLED = (
    PROJECT / "lagrange"
)  # of an installed copy run.py, conf/ and sweeps/, which lie beside the packages in a checkout
SETTINGS = INSTALLED if (INSTALLED / "conf" / "config.yaml").is_file() else PROJECT
