"""Made-up run folders for the tests of the analysis."""

from __future__ import annotations

import pytest
import synthetic

from analysis import runs


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The tests neither read nor leave anything in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGRANGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory):
    """Five algorithms × four staleness values × three seeds, of 80 updates each."""
    return synthetic.write_study(tmp_path_factory.mktemp("runs") / "staleness")


@pytest.fixture(scope="session")
def study(study_folder):
    return runs.load([study_folder])
