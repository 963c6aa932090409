"""LagRange's methods against TRL, verl and Liger: `python -m parity` writes docs/parity.md."""
