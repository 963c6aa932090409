"""The report: one page, no network, everything said, nothing foreign runs."""

from __future__ import annotations

import base64
import gzip
import json
import re

import pytest
import synthetic

from analysis import figures, findings, leaderboard, report, runs

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>{{ 7*7 }}"


@pytest.fixture(scope="module")
def few_figures():
    """Drawing is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        chosen = ("outcome_by_axis", "accuracy_vs_updates", "f1_left", "f8", "f10")
        patch.setattr(figures, "FIGURES", {name: figures.FIGURES[name] for name in chosen})
        yield


@pytest.fixture(scope="module")
def hostile_study(tmp_path_factory):
    """Run names, errors, tokens, settings and answers that try to be markup."""
    root = tmp_path_factory.mktemp("hostile")
    for seed in (1, 2, 3):
        for name in ("grpo", "m2po"):
            for staleness in (0, 64):
                synthetic.write_run(root / f"{name}{staleness}-{seed}", name, staleness, seed, updates=20)
    mean = root / "<img src=x onerror=alert(1)>"
    synthetic.write_run(mean, "grpo", 64, 4, updates=20, tokens=True, learner__lr="<b onmouseover=alert(1)>")
    sample = {"update": 20, "split": "test", "prompt": HOSTILE, "response": HOSTILE, "reward": 1}
    (mean / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    (root / "grpo64-1/samples.jsonl").write_text(json.dumps(sample) + '\n{"cut of')
    synthetic.write_run(root / "bad", "grpo", 64, 9, updates=20, status="failed", manifest={"error": HOSTILE})
    return runs.load([root])


@pytest.fixture(scope="module")
def page(hostile_study, few_figures):
    return report.page(hostile_study, title=f"A title {HOSTILE}")


def test_it_asks_for_nothing_from_outside(page):
    outside = re.sub(r'(>|")[A-Za-z0-9+/=]{200,}(<|")', r"\1\2", page)  # what is packed is text, not yet code
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["'](?!#|data:)""", outside)
    assert "url(" not in outside and "@import" not in outside


def test_foreign_text_is_escaped_everywhere(page):
    # the title, the prompt, the response, the error: all as text
    assert "<script>window.hacked" not in page and "<img src=x" not in page and "{{ 7*7 }}" in page
    assert page.count("<script") == 3


def test_the_policy_allows_the_two_scripts_and_no_other(page):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#39;", "'")
    assert "default-src 'none'" in policy
    scripts = re.search(r"script-src ([^;]*)", policy)[1].split()
    boot = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(boot) == 1 and f"'{report._hash(boot[0].encode())}'" in scripts and len(scripts) == 2


def test_it_holds_findings_tables_provenance_and_what_is_missing(page, hostile_study):
    for sentence in findings.findings(hostile_study):
        assert sentence.replace("<", "&lt;").replace("'", "&#39;") in page
    for row in hostile_study.used.itertuples():
        assert row.final_weights_sha256[:10] in page and row.config_sha256[:10] in page
    assert "failed after 20 updates" in page
    assert "Missing: no trust region" in page


def test_curves_hold_every_run(page, hostile_study):
    packed = re.search(r'id="data">([^<]*)<', page)[1]
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert {run["run"] for run in data["runs"]} == set(hostile_study.used["run"])
    assert set(data["quantities"]) == set(report.CURVES)
    updates, values = data["quantities"]["accuracy"]["runs"]["grpo0-1"]
    assert updates == [0, 10, 20] and len(values) == 3


def test_it_is_small_and_the_same_twice(study, few_figures, tmp_path):
    first = report.write(study, tmp_path)
    text = first.read_bytes()
    assert len(text) < 5_000_000
    assert report.page(study).encode() == text


def test_the_findings_are_numbers_and_what_it_cannot_say(study):
    told = findings.findings(study)
    assert told[0].startswith(
        "At s = 256, area under the curve of sampled_accuracy minus that of GRPO of the same seed"
    )
    assert "M2PO +0." in told[0] and "(n = 3 is too few for 4 comparisons)" in told[0]
    assert told[1].startswith("On-policy GRPO: area under the curve of sampled_accuracy 0.") and "(n = 3)" in told[1]
    told = " ".join(told)
    assert "no trust region at s = 256" in told and "3 of 3 runs fall below half of their best, first at update" in told
    assert not re.search(r"ahead|behind|beats|better|outperform", told)
    one = " ".join(findings.findings(study.where(seed=1)))
    assert "no interval" in one and "no claim" in one
    fresh = " ".join(findings.findings(study.where(staleness=0)))
    assert "the question stays open" in fresh


def test_the_answer_reads_the_table_below_it(study, few_figures, tmp_path):
    answer, table = findings.answer(study), leaderboard.leaderboard(study)
    assert answer.startswith("By area under the curve of sampled_accuracy, mean over s = 16, 64, 256, against GRPO")
    assert "n = 3 is too few for 4 comparisons" in answer and "†" not in answer and "s = 16, 64, 256" in table.caption
    for seed in range(1, 9):
        for name in ("grpo", "m2po", "gspo"):
            synthetic.write_run(tmp_path / f"{name}{seed}", name, 64, seed, updates=8, eval_every=4)
    told = runs.load([tmp_path])
    table = leaderboard.leaderboard(told)
    for row in table.rows:
        verdict = row[table.columns.index("against GRPO")]
        words = {"ahead": "ahead of GRPO", "behind": "behind GRPO", "–": ""}[verdict]
        difference = row[table.columns.index("difference to GRPO")]
        assert not words or f"{row[0]} ({difference.value:+.3f}): {words}" in findings.answer(told)
    page = report.page(told)  # one staleness: no axis, but a picture all the same
    assert page.index('class="answer"') < page.index("figure-accuracy_vs_updates") < page.index("<table>")
    alone = findings.answer(told.where(algorithm="m2po"))
    assert re.search(r"M2PO \d\.\d{3}\. Not compared with GRPO: there is no run of GRPO\.$", alone)
    assert findings.answer(told.where(algorithm="grpo")).endswith("there is no other method.")
    for manifest in tmp_path.glob("*/manifest.json"):
        held = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(held | {"final_weights_sha256": str(held["seed"]), "sha256": None}))
    same = findings.answer(runs.load([tmp_path]))
    assert same.endswith("M2PO = GRPO = GSPO: the same run."), same


def test_a_notice_stands_above_the_findings_and_stays_text(study, few_figures, tmp_path):
    text = report.write(study, tmp_path, notice=["First <b>.", "Second."]).read_text()
    assert text.index("<p>First &lt;b&gt;.</p>") < text.index("<p>Second.</p>") < text.index('class="answer"')
    assert 'class="notice"' not in report.page(study)
    assert "a table of untuned methods does not rank them" in text


def test_a_sample_says_its_update(page):
    assert ", update 20, test, reward 1</summary>" in page


def test_figures_have_titles_a_reader_knows(page):
    assert "<b>Accuracy under the largest staleness (paper, 1 left)</b> <code>f1_left</code>" in page
