"""Every figure draws from what is there, says what is not, and comes out as the same bytes."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import synthetic

from analysis import figures, runs, style
from analysis.errors import AnalysisError
from analysis.figures import common, main, selection, tokens

NAMES = [
    "accuracy_vs_updates",
    "masked_fraction_vs_updates",
    "final_accuracy_vs_staleness",
    "difference_by_method",
    "difference_to_grpo",
    "cost_of_staleness",
    "diagnostics_vs_staleness",
    "staleness_protocols",
    "accuracy_by_protocol",
    "threshold_heatmap",
    "final_accuracy_vs_learning_rate",
    "f1_left",
    "f1_right",
    "f2",
    "f3",
    "f4a",
    "f4b",
    "f5",
    "f6",
    "f7a",
    "f7b",
    "f8",
    "f9a",
    "f9b",
    "f10",
    "f11",
    "later_tis",
    "later_asymmetric",
    "later_m2po_vs_grpo",
    "later_loss_time",
]
SHORT = {"updates": 40, "eval_every": 10}


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A study that carries every figure: all methods, settings, protocols, tokens, two base models."""
    root = tmp_path_factory.mktemp("rich")
    synthetic.write_study(root / "main", staleness=(0, 256), **SHORT)
    for seed in (1, 2, 3):
        for name in ("cispo", "decoupled", "topr", "gppo"):
            synthetic.write_run(root / f"{name}{seed}", name, 256, seed, **SHORT)
        variants = {
            "truncate": ("decoupled", 256, {"algo__mode": "truncate"}),
            "areal": ("m2po", 256, {"algo__variant": "areal"}),
            "high": ("grpo", 256, {"algo__epsilon_high": 0.28, "tokens": True}),
            "tau": ("m2po", 256, {"algo__m2_threshold": 0.16}),
            "tau0": ("m2po", 0, {"algo__m2_threshold": 0.16}),
            "bounded": ("grpo", 256, {"choices__lag": "bounded"}),
            "free": ("grpo", 256, {"choices__lag": "bounded", "driver": "overlapped"}),
            "lrg": ("grpo", 256, {"learner__lr": 1e-5}),
            "lrm": ("m2po", 256, {"learner__lr": 1e-5}),
        }
        for key, (name, staleness, options) in variants.items():
            synthetic.write_run(root / f"{key}{seed}", name, staleness, seed, **SHORT, **options)
        for name, staleness in (("grpo", 0), ("grpo", 256), ("m2po", 256), ("no_trust_region", 256)):
            place = root / f"big-{name}{staleness}{seed}"
            synthetic.write_run(place, name, staleness, seed, **SHORT, choices__model="hf", model__path="hub/Qwen-1.7B")
        synthetic.write_tokens(root / f"main/grpo/s256/seed{seed}/tokens.parquet", np.random.default_rng(seed))
    return runs.load([root])


def test_the_registry_holds_every_promised_name():
    others = {"stabilisers", "outcome_by_axis", "accuracy_by_setting", "shadow_agreement", "fidelity_vs_staleness",
              "accuracy_by_base"}  # fmt: skip
    assert set(figures.FIGURES) == {*NAMES, *others}


def test_the_stabilisers_need_many_methods(rich):
    ((_, why),) = figures.draw(rich.where(algorithm="grpo", setting=""), ["stabilisers"])
    assert "at least 6 methods" in str(why)


def test_several_base_policies_have_a_panel_and_a_shape_each(tmp_path, rich):
    for name in ("grpo", "m2po"):
        for seed in range(1, 7):
            synthetic.write_run(tmp_path / f"{name}{seed}", name, 64, seed, **SHORT, model__path=f"bases/{seed % 2}")
    found = dict(figures.draw(runs.load([tmp_path]), ["accuracy_by_base", "difference_by_method"]))
    panels = found["accuracy_by_base"].figure.axes
    assert [ax.get_title(loc="left") for ax in panels[:2]] == ["base policy 0", "base policy 1"]
    assert set(found["accuracy_by_base"].data["n"].dropna()) == {1, 3}  # a seed, and those of a base
    (key,) = found["difference_by_method"].figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["base policy 0", "base policy 1"]
    differences = found["difference_by_method"].data
    assert (differences.groupby("metric")["kind"].value_counts().unstack()[["centre", "seed"]] == [1, 6]).all(axis=None)
    ((_, why),) = figures.draw(rich, ["accuracy_by_base"])
    assert why == "needs runs from several base policies (model.path)"


def test_figures_of_one_curve_a_method_are_not_drawn_where_they_would_hide_most_runs(rich):
    found = dict(figures.draw(rich.where(algorithm="m2po", staleness=256), ["f11", "accuracy_by_setting"]))
    assert "are at others (outcome_by_axis, accuracy_by_setting)" in str(found["f11"])
    assert "n = 3" in found["accuracy_by_setting"].caption


def test_a_figure_that_fails_is_said_and_the_others_are_drawn(study, monkeypatch):
    def broken(_):
        raise ValueError("Data cannot be log-scaled.\nMore.")

    held = {"f5": figures.FIGURES["f5"], "f2": figures.Figure("Broken", broken)}
    monkeypatch.setattr(figures, "FIGURES", held)
    found = dict(figures.draw(study))
    assert found["f2"] == "ValueError: Data cannot be log-scaled." and not isinstance(found["f5"], str)


def test_log_axes_have_several_labelled_ticks():
    with common.options():
        for low, high in ((0.02, 0.03), (0.02, 0.5), (1e-6, 1.0)):
            figure, (ax,) = common.canvas(1)
            ax.plot([0, 1], [low, high])
            common.log_scale(ax, pd.Series([low, high]))
            figure.draw_without_rendering()
            ticks = [t for t in ax.yaxis.get_major_ticks() if low * 0.9 <= t.get_loc() <= high * 1.1]
            assert sum(bool(t.label1.get_text()) for t in ticks) >= 2, (low, high)


def test_markers_of_the_legend_are_on_the_curves_of_single_seeds(study):
    ((_, drawn),) = figures.draw(study.where(seed=1), ["f2"])
    ((_, paper),) = figures.draw(study.where(seed=1), ["f1_left"])
    assert {line.get_marker() for line in paper.figure.axes[0].lines} >= {"s", "o", "X"} and drawn


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_drawn_from_a_study_that_carries_it(rich, name):
    ((_, drawn),) = figures.draw(rich, [name])
    assert not isinstance(drawn, str), drawn
    assert (len(drawn.data) and "n = " in drawn.caption) or name in ("threshold_heatmap", "staleness_protocols")
    assert not drawn.missing, drawn.missing


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_survives_a_single_short_run(tmp_path, name):
    study = runs.load([synthetic.write_run(tmp_path / "only", "m2po", 64, updates=8, eval_every=8)])
    ((_, drawn),) = figures.draw(study, [name])
    if isinstance(drawn, str):
        assert drawn.startswith("needs "), drawn
    elif "low" in drawn.data:
        assert drawn.data["low"].isna().all() and "n = 1 " in drawn.caption
        assert "no interval" in drawn.caption


def test_runs_without_evaluations_still_show_what_they_have(tmp_path):
    for staleness in (0, 64):
        run = synthetic.write_run(tmp_path / str(staleness), "grpo", staleness, updates=8)
        (run / "eval.jsonl").unlink()
    told = dict(figures.draw(runs.load([tmp_path])))
    assert told["f2"] == "needs evaluations (eval.jsonl)"
    assert not isinstance(told["f5"], str) and not isinstance(told["masked_fraction_vs_updates"], str)


def test_files_are_png_pdf_csv_with_embedded_fonts_and_the_same_bytes_twice(rich, tmp_path):
    chosen = ["f1_left", "f7b", "f10", "threshold_heatmap", "staleness_protocols"]
    for out in ("a", "b"):
        figures.write(rich, tmp_path / out, only=chosen)
    made = {f"{name}.{kind}" for name in chosen for kind in ("png", "pdf", "csv")} | {"figures.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == made
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    pdf = (tmp_path / "a/f1_left.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    index = json.loads((tmp_path / "a/figures.json").read_text())
    assert index["f1_left"]["drawn"] and "n = 3 seeds" in index["f1_left"]["caption"]


def test_csv_holds_the_seeds_and_the_centre_with_its_interval(rich, tmp_path):
    figures.write(rich, tmp_path, only=["f1_left"])
    rows = pd.read_csv(tmp_path / "f1_left.csv")
    assert set(rows["kind"]) == {"seed", "centre"}
    centre = rows[rows["kind"] == "centre"]
    assert (centre["n"] == 3).all() and (centre["low"] <= centre["value"]).all()
    assert set(zip(centre["algorithm"], centre["staleness"], strict=True)) == {
        ("grpo", 0), ("grpo", 256), ("m2po", 256), ("no_trust_region", 256)}  # fmt: skip


def test_a_figure_says_which_of_its_series_are_missing(tmp_path):
    for staleness in (0, 64):
        synthetic.write_run(tmp_path / str(staleness), "grpo", staleness, **SHORT)
    ((_, drawn),) = figures.draw(runs.load([tmp_path]), ["f1_left"])
    assert drawn.missing == ["no trust region, s = 64", "M2PO, s = 64"]
    assert {"algorithm", "staleness"} <= set(drawn.data.columns)


def test_methods_that_never_mask_show_their_clip_fraction(study):
    rows = main.acting_fraction(study)
    means = rows.groupby(rows["run"].astype(str).str.split("/").str[0])["value"].mean()
    assert means["tis"] > 0 and means["no_trust_region"] == 0


def test_windows_are_whole_steps_and_keep_the_mean(study):
    windows = selection.windowed(study, "reward")
    one = windows[windows["run"] == "grpo/s0/seed1"]
    raw = study.updates[study.updates["run"] == "grpo/s0/seed1"]
    assert (one["update"] % 4 == 0).all()
    assert one["value"].mean() == pytest.approx(raw["reward"].mean())


def test_any_metric_can_be_drawn_and_an_unknown_one_names_the_nearest(study, tmp_path):
    figures.write(study, tmp_path, only=["f5"], curves=["entropy", "time/update_s"])
    assert (tmp_path / "entropy_vs_updates.png").exists() and (tmp_path / "time_update_s_vs_updates.pdf").exists()
    with pytest.raises(AnalysisError, match="'entropi'; nearest: entropy"):
        figures.write(study, tmp_path, curves=["entropi"])
    with pytest.raises(AnalysisError, match="no figure named 'f12'; nearest: f2, f11"):
        figures.write(study, tmp_path, only=["f12"])


def test_runs_of_different_tasks_are_refused(tmp_path):
    synthetic.write_run(tmp_path / "a", task="carry", **SHORT)
    synthetic.write_run(tmp_path / "b", task="gsm8k", **SHORT)
    study = runs.load([tmp_path])
    with pytest.raises(AnalysisError, match=r"carry \(1 run\), gsm8k \(1 run\); choose one with --where task=carry"):
        figures.write(study, tmp_path / "out")


def test_width_of_one_and_two_columns(study):
    widths = []
    for columns in (1, 2):
        ((_, drawn),) = figures.draw(study, ["f1_left"], columns=columns)
        widths.append(drawn.figure.get_size_inches()[0])
    assert widths == [style.COLUMN, style.PAGE]


def test_hostile_tokens_are_shown_as_text():
    assert tokens.visible("$x^2$") == r"\$x^2\$"
    assert tokens.visible(" a\n") == "␣a⏎"
    assert tokens.visible("\x00\x1b[31m") == "\\x00\\x1b[31m"
    assert tokens.visible("") == "(empty)"


# -------------------------------------------------------------------------------------------- palette


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira, Fernandes (2009), severity 1
BLINDNESS = {
    "normal": np.eye(3),
    "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritan": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}
MAIN = ("grpo", "gspo", "tis", "m2po", "no_trust_region")


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_main_methods_differ_for_every_kind_of_eye(kind):
    seen = [lab(BLINDNESS[kind] @ linear(style.LOOKS[name].colour)) for name in MAIN]
    nearest = min(math.dist(a, b) for i, a in enumerate(seen) for b in seen[i + 1 :])
    assert nearest > 18


def test_the_main_methods_differ_in_grey():
    lightness = sorted(lab(linear(style.LOOKS[name].colour))[0] for name in MAIN)
    assert np.diff(lightness).min() > 7


def test_no_two_methods_share_colour_or_marker():
    looks = list(style.LOOKS.values())
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(looks)


def test_an_unknown_method_always_gets_the_same_look():
    assert style.look("mine") == style.look("mine") and style.look("mine").label == "mine"
