"""The shared rollout/learner core into which the algorithms plug as interchangeable losses."""
