"""Weights and data of the embedded tasks."""
