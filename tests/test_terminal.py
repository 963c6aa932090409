"""What a command shows while it works: on terminals of three widths, and where there is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from harness import build
from harness.command import pace
from harness.command.plan import plan
from harness.command.watch import View, labels
from tests.conftest import ROOT, SMALL, only_run
from tests.terminal import look

# The display looks once a second, and 48 updates can be over before it has.
SECONDS_LONG = (*SMALL, "updates=400", "eval.every=200", "checkpoint_every=200")


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_run_is_alive_on_a_terminal(columns, tmp_path):
    seen = look(["staleness=8", *SECONDS_LONG], tmp_path, columns)
    assert seen.code == 0, "\n".join(seen.lines)
    text = "\n".join(seen.lines)
    assert any("reading the configuration" in line for line in seen.screens[0] + seen.screens[1])
    assert "m2po s=8 seed=1, 400 updates: task carry" in " ".join(text.split())
    rows = {line for screen in seen.screens for line in screen if re.match(r"m2po s=8 seed=1 .*\d/400", line)}
    assert rows and any("left" in row for row in rows)
    if columns >= 80:
        assert all("accuracy" in row and "masked" in row for row in rows)
    assert not any("…" in row or "..." in row for row in rows)  # nothing is cut
    assert not re.search(r"\d/400 ", text), "the display goes when the run ends"
    flat = re.sub(r"\s+", "", text)
    assert f"finished:{only_run(tmp_path).relative_to(tmp_path)}" in flat
    assert "found:accuracyonvalidationwentfrom" in flat and "next:" in text
    assert f"mode=evaluatecheckpoint={only_run(tmp_path).relative_to(tmp_path)}" in flat


def test_a_sweep_has_a_line_for_each_running_cell_and_one_for_all(tmp_path):
    typed = ["-m", "algo=grpo,m2po", "staleness=4", *SECONDS_LONG, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    seen = look(typed, tmp_path, 80)
    text = " ".join("\n".join(seen.lines).split())
    assert seen.code == 0, text
    assert "2 runs of 400 updates, 2 at a time: task carry" in text and "into runs/sweeps/algo-" in text
    both = [s for s in seen.screens if sum(bool(re.match(r"(grpo|m2po) s=4 seed=1 ", line)) for line in s) == 2]
    assert both, "two cells, two lines"
    assert any(re.match(r"2 runs: 2 running · \d+ % · .*(left|so far)", line) for s in both for line in s)
    assert "drawing figures …" in text and "found: " in text and "python -m analysis leaderboard runs/sweeps/" in text
    assert all(len(line) <= 80 for line in seen.lines)


def test_a_line_now_and_then_where_there_is_no_terminal_and_none_with_quiet(command, tmp_path):
    said = command("staleness=4", *SMALL).stderr.splitlines()
    assert said[0].startswith("m2po s=4 seed=1, 16 updates: task carry") and said[1].startswith("into runs/carry/m2po")
    quiet = command("staleness=8", *SMALL, "quiet=true")
    assert quiet.stderr == "" and quiet.stdout.startswith("finished: runs/carry/m2po-s8")
    assert "found:" not in quiet.stdout and "next:" not in quiet.stdout


def test_a_line_a_minute_says_how_far_a_run_is(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import run; from harness.command import watch;"
        "watch.SECONDS_BETWEEN_LOOKS = .05; watch.watching.__wrapped__.__defaults__ = (.3,); sys.exit(run.command())"
    )
    typed = [sys.executable, "-c", code, "staleness=4", *SECONDS_LONG]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"(?m)^m2po s=4 seed=1 · \d+/400 · accuracy \S+ · masked \S+ · 0:\d\d left$", done.stderr)


# The time left ---------------------------------------------------------------------------------------------


def cell(tmp_path, *words, answers=160):
    (config,) = plan([*SMALL, "updates=400", "eval.every=40", f"runs_dir={tmp_path}", *words]).cells
    config.folder.mkdir(parents=True)
    row = {"update": 0, "split": "validation", "n": answers // 5, "k": 4, "sampled_accuracy": 0.5}  # and one greedy
    (config.folder / "eval.jsonl").write_text(json.dumps(row) + "\n")
    return config


def simulate(config, until, evaluation=2.0, batch=0.5, train=0.5):
    """Rows up to an update, and the seconds that the whole run takes."""
    step, ahead = config.updates_per_step, build.staleness_policy(config).lag_steps
    elapsed, rows, generated = evaluation, [], 0
    for number in range(config.batches):
        wanted = min(config.batches, number + ahead + 1)
        elapsed, generated = elapsed + (wanted - generated) * batch, wanted
        for _ in range(step):
            elapsed += train / step
            rows.append({"update": len(rows) + 1, "time/elapsed_s": elapsed})
        elapsed += evaluation * (len(rows) % config.eval.every == 0)
    written = "".join(json.dumps(row) + "\n" for row in rows[:until])
    (config.folder / "metrics.jsonl").write_text(written)
    return elapsed - rows[until - 1]["time/elapsed_s"]


@pytest.mark.parametrize("staleness", [0, 64, 256])
@pytest.mark.parametrize("costs", [(1.0, 0.5, 0.5), (10.0, 0.5, 0.5), (2.0, 0.2, 1.0), (2.0, 1.0, 0.2)])
def test_the_time_left_is_right_within_a_factor_of_two_after_ten_updates(tmp_path, staleness, costs):
    evaluation, batch, _ = costs
    config = cell(tmp_path, f"staleness={staleness}", "rollout.prompts_per_step=16", "rollout.group_size=4",
                  answers=int(64 * evaluation / batch))  # fmt: skip
    for until in (12, 48, 200):
        truth = simulate(config, until, *costs)
        one = pace.Pace(config)
        one.look()
        assert truth / 2 <= one.left_s() <= truth * 2, until


@pytest.mark.parametrize("watched_before", [False, True])
def test_a_run_that_carries_on_counts_from_where_it_did(tmp_path, watched_before):
    config = cell(tmp_path, "staleness=0")
    old = [{"update": u, "time/elapsed_s": 100.0 * u} for u in range(1, 201)]
    new = [{"update": u, "time/elapsed_s": 5.0 + (u - 200)} for u in range(201, 221)]
    one, other = pace.Pace(config), pace.Pace(config)
    for n in (0, 1, 8, 20)[not watched_before :]:
        (config.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*old, *new[:n]]))
        one.look()
        if n == 1:
            assert one.left_s() is None, "of one update nothing is known"
    assert 170 <= one.left_s() <= 181
    assert one.update_s() == pytest.approx((25 + 180) / 200, rel=0.05)
    assert pace.together_s([one], [], [other], 1) == pytest.approx(180 + 400, rel=0.1)
    other.look()
    assert pace.together_s([one], [], [other], 1) == pytest.approx(180 + 180, rel=0.1), "interrupted at 220"


def test_a_fork_counts_from_the_update_that_it_starts_at(tmp_path):
    config = cell(tmp_path, "staleness=0")
    truth = simulate(config, 200)
    for name in ("metrics.jsonl", "eval.jsonl"):
        rows = [json.loads(line) for line in (config.folder / name).read_text().splitlines()]
        own = [row | {"update": row["update"] + 180} for row in rows[:20]]
        (config.folder / name).write_text("".join(json.dumps(row) + "\n" for row in own))
    one = pace.Pace(config)
    one.look()
    assert one.update == 200 and truth / 2 <= one.left_s() <= truth * 2


def test_what_has_not_begun_takes_as_long_as_what_runs(tmp_path):
    config = cell(tmp_path, "staleness=0")
    left = simulate(config, 200)
    one, new = pace.Pace(config), pace.Pace(config)
    one.look()
    whole = one.update_s() * config.updates
    assert pace.together_s([one], [], [new, new], 1) == pytest.approx(left + 2 * whole, rel=0.2)
    assert pace.together_s([one], [], [new] * 3, 2) == pytest.approx((left + 3 * whole) / 2, rel=0.2)
    assert pace.together_s([], [], [new], 1) is None


def test_what_is_paused_at_a_rung_tells_its_pace(tmp_path, monkeypatch):
    config = cell(tmp_path, "staleness=0")
    left = simulate(config, 200)
    paused, new = pace.Pace(config), pace.Pace(config)
    paused.look()
    then = time.monotonic() + 600  # it stands still: that is no progress
    monkeypatch.setattr(time, "monotonic", lambda: then)
    whole = paused.update_s() * config.updates
    assert pace.together_s([], [], [paused, new], 1) == pytest.approx(left + whole, rel=0.2)


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, "0:01"), (59.6, "1:00"), (3599.5, "1:00:00"), (7322, "2:02:02")])
def test_clock(seconds, shown):
    assert pace.clock(seconds) == shown


def test_a_label_names_what_was_varied(tmp_path):
    made = plan(["-m", "algo.m2_threshold=0.01,0.04", "learner.lr=1e-5", "tracking=none", f"runs_dir={tmp_path}"])
    assert labels(made) == ["m2po s=0 seed=1 m2_threshold=0.01", "m2po s=0 seed=1 m2_threshold=0.04"]
    view = View(made)
    started = time.monotonic()
    view.look()
    assert view.summary().startswith("2 runs: 2 waiting · 0 % · 0:0") and time.monotonic() - started < 1
