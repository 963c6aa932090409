"""The folder's own helpers can be imported by name."""
