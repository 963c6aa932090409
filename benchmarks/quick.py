"""The ratios that matter, in two minutes, against those of the last release: information, never a test.

python -m benchmarks.quick            prints them and flags what fell by more than 15 %
python -m benchmarks.quick --store    writes them to benchmarks/ratios.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import floor, generate

STORED = Path(__file__).with_name("ratios.json")
ALLOWED_FALL = 0.15


def ratios() -> dict[str, float]:
    """Larger is better. Ratios taken within this process, since milliseconds are the machine's."""
    _, tokens = generate.report(repeats=6)
    _, over_floor = floor.report(repeats=3)
    return {
        "torch engine over generate, tokens/s": tokens["torch engine"],
        "with the trainer's log-probs": tokens["torch engine, trainer log-probs too"],
        "floor over update": 1 / over_floor,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true")
    options = parser.parse_args()
    found = ratios()
    if options.store:
        STORED.write_text(json.dumps({k: round(v, 3) for k, v in found.items()}, indent=2) + "\n")
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    for name, value in found.items():
        before = stored.get(name)
        note = "" if before is None else f"   last release {before:.2f}"
        fell = before is not None and value < before * (1 - ALLOWED_FALL)
        print(f"{name:40} {value:6.2f}{note}{'   FELL' if fell else ''}")


if __name__ == "__main__":
    main()
