"""LagRange's methods against TRL, verl, Liger and AReaL: `python -m parity` writes docs/parity.md."""
