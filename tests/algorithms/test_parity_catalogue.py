"""The parity table forgets no method (the comparison itself runs in the peers' environment: `make parity`)."""

from pathlib import Path

import algorithms
from parity.catalogue import ABSENT, MATCHES


def test_every_method_is_compared_or_explained():
    assert {match.name for match in MATCHES} | set(ABSENT) == set(algorithms.names())
    for match in MATCHES:
        assert match.method.aggregation


def test_the_generated_page_is_in_the_docs_and_within_tolerance():
    text = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
    assert "(!)**" not in text
    for match in MATCHES:
        assert match.label in text
