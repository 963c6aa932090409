"""The parity table forgets no method (the comparison itself runs in the peers' environment: `make parity`)."""

from pathlib import Path

import algorithms
from benchmarks.losses import OTHERS
from parity.catalogue import MATCHES, REASONS, absent


def test_every_method_is_compared_or_explained():
    compared = {match.name for match in MATCHES}
    assert compared | set(absent()) == set(algorithms.names())
    assert set(REASONS) == set(REASONS) & set(absent()), "a reason for a method that is compared, or that is not there"
    for match in MATCHES:
        assert match.method.aggregation


def test_the_generated_page_is_in_the_docs_and_within_tolerance():
    text = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
    assert "(!)**" not in text
    for match in MATCHES:
        assert match.label in text


def test_the_times_cover_every_method():
    """A method is timed against a peer (the row of its name that is `main`) or, where no peer has it, against GRPO."""
    timed = {match.name for match in MATCHES if match.main} | {other.split()[0] for other in OTHERS}
    assert set(algorithms.names()) - timed <= {"gspo_token"}  # gspo's own code
