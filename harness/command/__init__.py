"""What run.py does before and around a run."""
