"""Supervised training of the small base policies that the embedded tasks start from."""
