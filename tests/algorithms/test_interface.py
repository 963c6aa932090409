"""Names, parameters, configuration files and the door of TokenStats."""

import ast
from dataclasses import MISSING, fields
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
import yaml
from cases import CASES

import algorithms
from algorithms import AGGREGATIONS, TokenStats
from algorithms.aggregation import row_scale, totals
from algorithms.m2po import VARIANTS

CONF = Path(__file__).parents[2] / "conf" / "algo"


PAGES = Path(__file__).parents[2] / "docs" / "algorithms"
REQUIRED = {case.name: case.params for case in reversed(CASES)}
"""Parameters that make a method: those of its first case."""


def index() -> dict[str, str]:
    """The published aggregation of each method as the table in docs/algorithms/index.md has it."""
    rows = [line.split("|") for line in (PAGES / "index.md").read_text().splitlines() if line.startswith("| [")]
    return {row[2].strip(" `"): row[4].strip(" `") for row in rows}


def test_every_method_has_its_yaml_page_and_case():
    assert {case.name for case in CASES} == set(algorithms.names()) == set(index())
    for name in algorithms.names():
        assert (CONF / f"{name}.yaml").is_file(), name
        assert (PAGES / f"{name}.md").is_file(), name


@pytest.mark.parametrize("name", algorithms.names())
def test_yaml_repeats_the_signature(name: str):
    text = (CONF / f"{name}.yaml").read_text()
    assert len(text.splitlines()) <= 8
    written = yaml.safe_load(text)
    method = algorithms.METHODS[name]
    assert written.pop("_target_") == f"{method.__module__}.{method.__name__}"
    defaults = {f.name: f.default for f in fields(method)}
    for key, value in written.items():
        assert key in defaults, f"{name} has no parameter {key}"
        if defaults[key] is MISSING:  # required, or a mapping: the file chooses
            assert value is not None
        else:
            assert value == defaults[key], key


@pytest.mark.parametrize("name", algorithms.names())
def test_method_files_stay_short(name: str):
    """≤ 60 lines of code: docstrings, comments and blank lines do not count."""
    import importlib

    source = Path(importlib.import_module(algorithms.METHODS[name].__module__).__file__).read_text()
    docs = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for child in body:
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    docs |= set(range(child.lineno, child.end_lineno + 1))
    lines = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if number not in docs and line.strip() and not line.strip().startswith("#")
    ]
    assert len(lines) <= 60, len(lines)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("m2p", {}, "unknown algorithm 'm2p'; nearest: m2po; valid: bapo, cispo,"),
        ("m2po", {"m2_treshold": 1}, "no parameter 'm2_treshold'; nearest: m2_threshold; valid: m2_threshold,"),
        ("grpo", {"m2_threshold": 1}, "grpo has no parameter 'm2_threshold'"),
        ("m2po", {"m2_threshold": -0.1}, "m2_threshold=-0.1; expected a number from 0 to inf"),
        ("m2po", {"m2_threshold": float("nan")}, "m2_threshold=nan; expected"),
        ("m2po", {"m2_threshold": "0.04"}, "m2_threshold='0.04'; expected"),
        ("m2po", {"m2_threshold": None}, "m2_threshold=None; expected"),
        ("m2po", {"variant": "papers"}, "variant='papers' is not one of paper, released, all_tokens_mean, areal"),
        ("grpo", {"dual_clip": 0.5}, "dual_clip=0.5; expected a number from 1 to inf"),
        ("grpo", {"epsilon_low": True}, "epsilon_low=True; expected"),
        ("grpo", {"aggregation": "token"}, "unknown aggregation 'token'; nearest: token_mean"),
        ("opsm", {}, "opsm needs a value for delta"),
        ("bapo", {"positive_share": 1.5}, "positive_share=1.5; expected a number from 0 to 1"),
        ("mis", {"ratio_low": 3.0, "ratio_high": 2.0}, "ratio_low=3.0 is above ratio_high=2.0"),
        ("m2_penalty", {"base": "grop"}, "unknown algorithm 'grop'"),
        ("m2_penalty", {"base_parameters": {"x": 1}}, "dppo has no parameter 'x'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name: str, params: dict, message: str):
    with pytest.raises(ValueError, match=r"(?s).*") as error:
        algorithms.make(name, **params)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", algorithms.names())
def test_every_method_takes_every_aggregation(name: str):
    published = algorithms.make(name, **REQUIRED[name])
    base = getattr(published, "inner", None)
    assert published.aggregation == (index()[name] if base is None else base.aggregation)
    for mode in AGGREGATIONS:
        assert algorithms.make(name, **{**REQUIRED[name], "aggregation": mode}).aggregation == mode


def test_published_aggregations_of_the_specification():
    modes = {name: algorithms.make(name).aggregation for name in ("grpo", "m2po", "gspo", "gspo_token", "sapo", "topr")}
    assert modes == {
        "grpo": "token_mean",
        "m2po": "token_mean",
        "gspo": "seq_mean_token_mean",
        "gspo_token": "seq_mean_token_mean",
        "sapo": "seq_mean_token_mean",
        "topr": "seq_mean_token_sum",
    }


def good() -> dict[str, torch.Tensor]:
    return {
        "logp_current": torch.zeros(2, 3),
        "logp_behaviour": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "mask": torch.ones(2, 3, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logp_current": torch.zeros(6)}, "logp_current is torch.float32 (6,); expected float32 or float64 [B,T]"),
        ({"logp_current": torch.zeros(2, 3).half()}, "cast half precision up"),
        ({"logp_behaviour": torch.zeros(2, 4)}, "logp_behaviour is torch.float32 (2, 4); expected float (2, 3)"),
        ({"logp_proximal": torch.zeros(2, 3).long()}, "logp_proximal is torch.int64"),
        ({"mask": torch.ones(2, 3)}, "mask is torch.float32 (2, 3); expected bool (2, 3)"),
        ({"advantages": torch.zeros(3)}, "advantages has shape (3,); expected (2,) or (2, 3)"),
        ({"advantages": torch.zeros(2).long()}, "advantages are torch.int64; expected a float dtype"),
        ({"staleness": torch.zeros(5)}, "staleness has shape (5,)"),
        ({"entropy": torch.zeros(2)}, "entropy is torch.float32 (2,); expected float (2, 3)"),
        ({"group": torch.zeros(2, 3)}, "group has shape (2, 3); expected (2,)"),
    ],
)
def test_the_door_of_token_stats(change: dict, message: str):
    with pytest.raises(ValueError, match=r"(?s).*") as error:
        TokenStats(**{**good(), **change})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_contract_of_token_stats():
    """The order of the fields is part of it: they may be given by position."""
    optional = ["logp_proximal", "logp_engine", "staleness", "entropy", "group"]
    assert [f.name for f in fields(TokenStats)] == [*good(), *optional]
    stats = TokenStats(*good().values())
    assert all(getattr(stats, name) is None for name in optional)


def test_variants_of_m2po_are_methods_of_their_own():
    kinds = {type(algorithms.make("m2po", variant=v).rule).__name__ for v in VARIANTS}
    assert kinds == {"PaperM2PO", "ReleasedM2PO", "AllTokensMeanM2PO", "ArealM2PO"}
    assert algorithms.make("m2po", variant="areal").needs == {"logp_proximal"}
    assert algorithms.make("m2po", variant="paper").needs == frozenset()


def test_advantages_by_row_or_by_token_are_the_same():
    logp = torch.randn(4, 5)
    mask = torch.rand(4, 5) > 0.3
    A = torch.randn(4)
    for name in algorithms.names():
        extra = {"logp_proximal": logp * 0.9, "logp_engine": logp * 1.1, "staleness": torch.ones(4)}
        method = algorithms.make(name, **REQUIRED[name])
        by_row = method(TokenStats(logp, logp * 0.8, A, mask, **extra))
        by_token = method(TokenStats(logp, logp * 0.8, A[:, None].expand(4, 5), mask, **extra))
        torch.testing.assert_close(by_row.loss, by_token.loss)
        assert torch.equal(by_row.kept, by_token.kept)


def test_row_scale_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    expected = {
        "token_mean": [1 / 3, 1 / 3],
        "seq_mean_token_mean": [1 / 4, 1 / 2],
        "seq_mean_token_sum": [1 / 2, 1 / 2],
        "seq_mean_token_sum_norm": [1 / 30, 1 / 30],
    }
    for mode, (first, second) in expected.items():
        by_row = torch.tensor([[first], [second]], dtype=torch.float64)
        torch.testing.assert_close(row_scale(mask, mode, 10).expand(3, 1)[:2], by_row)
        # A part of the batch, given the counts of the whole, agrees with the whole.
        part = row_scale(mask[1:], mode, 10, totals(mask))
        torch.testing.assert_close(part.expand(2, 1)[:1], by_row[1:])
        assert row_scale(mask & False, mode).isfinite().all()


def test_no_module_imports_in_a_circle_or_inside_a_function():
    imports: dict[str, set[str]] = {}
    for file in sorted((CONF.parents[1] / "algorithms").glob("*.py")):
        tree = ast.parse(file.read_text())
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert all(node in tree.body for node in statements), f"{file.name} imports inside a function"
        modules = [getattr(node, "module", None) or node.names[0].name for node in statements]
        names = {name.removeprefix("algorithms.") for name in modules if name.startswith("algorithms.")}
        names |= {a.name for node in statements if getattr(node, "module", "") == "algorithms" for a in node.names}
        imports[file.stem] = names
    list(TopologicalSorter(imports).static_order())  # raises CycleError
    assert not any("__init__" in names for names in imports.values())


def test_importing_algorithms_is_light():
    import subprocess
    import sys

    heavy = (
        "import sys, algorithms; print([m for m in ('pandas', 'transformers', 'hydra', 'harness') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
