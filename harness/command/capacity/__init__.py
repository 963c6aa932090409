"""What a run will take before it is started: memory, seconds, and how stale its rollouts will be."""
