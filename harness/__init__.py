"""The shared rollout/learner core into which the algorithms plug as interchangeable losses."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]  # the folder that holds conf/, sweeps/ and the packages
