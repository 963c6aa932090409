"""`python -m harness.twin`: every method's expected update on an enumerated task (harness/learner/twin.py)."""

from harness.learner.twin import main

if __name__ == "__main__":
    main()
