"""The parity table forgets no method (the comparison itself runs in the peers' environment: `make parity`)."""

from pathlib import Path

import algorithms
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
