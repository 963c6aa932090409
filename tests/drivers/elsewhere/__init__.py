"""A package that is not ours: an engine and a staleness policy, with their options (conf/)."""
