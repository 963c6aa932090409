"""A sweep of made-up runs becomes figures and a table, the same bytes each time."""

from __future__ import annotations

from analysis import __main__ as cli

FIRST = ["accuracy_vs_updates", "masked_fraction_vs_updates", "final_accuracy_vs_staleness"]


def test_figures_come_as_png_pdf_and_csv_and_are_the_same_twice(study_folder, tmp_path, capsys):
    for out in ("a", "b"):
        assert (
            cli.main(["figures", str(study_folder), "--out", str(tmp_path / out), "--only", ",".join(FIRST)])
            == 0
        )
    made = {f"{name}.{kind}" for name in FIRST for kind in ("png", "pdf", "csv")} | {"figures.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == made
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert "60 of 60 runs used" in capsys.readouterr().err


def test_table_has_n_and_an_interval(study_folder, capsys):
    assert cli.main(["table", str(study_folder)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len([row for row in rows if row.startswith("| M2PO")]) == 4
    assert "[" in rows[2] and "| 3 |" in rows[2]
