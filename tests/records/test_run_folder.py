"""A run folder: token parts in a checkpoint's marks, a manifest that is refused when changed, bounded diffs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from harness.command.cell import run_cell
from harness.command.plan import plan
from harness.config import Config
from harness.errors import RunFailed, UserError
from harness.progress import Progress
from harness.records.files import exclusive, is_held, naming, read_signed
from harness.records.folder import RunFolder, check_folder
from harness.records.layout import CONFIG, DIFFS, FILES, FOLDERS, LOCK, MANIFEST, REFUSED, TOKENS, TRACKING
from harness.records.state import status_of
from harness.records.token_parts import drop


def folder_with_tokens(path: Path, updates: range) -> RunFolder:
    folder = RunFolder(path, Config())
    for update in updates:
        folder.tokens.append(update, {"token_id": torch.arange(update)}, ["x"] * update)
    return folder


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
        return
    content[len(content) // 2] ^= 4 if how == "flip" else 0
    path.write_bytes({"cut": content[:-3], "flip": content, "empty": b"", "append": content + b"x"}[how])


def test_token_parts_are_joined_in_order_and_dropped_at_the_end(tmp_path: Path) -> None:
    folder = folder_with_tokens(tmp_path, range(1, 5))
    folder.tokens.join()
    drop(tmp_path)
    assert pq.read_table(tmp_path / TOKENS)["token_id"].to_pylist() == [i for n in range(1, 5) for i in range(n)]
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "tokens").exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    for place in (MANIFEST, TOKENS, TRACKING, f"{DIFFS}/a.diff", f"{REFUSED}/000004.json"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.with_name(f".{path.name}.99.partial").write_bytes(b"half")
    folder_with_tokens(tmp_path, range(0))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("how", ["cut", "flip", "empty", "remove", "append"])
def test_a_damaged_part_makes_its_checkpoint_unusable_and_is_named(tmp_path: Path, how: str) -> None:
    folder = folder_with_tokens(tmp_path, range(1, 3))
    early = folder.marks()
    folder.tokens.append(3, {"token_id": torch.arange(3)}, ["x"] * 3)
    late = json.loads(json.dumps(folder.marks()))
    damage(tmp_path / "tokens" / "000003.parquet", how)
    assert folder.damage(early) is None
    assert "000003.parquet" in str(folder.damage(late))
    with pytest.raises(RunFailed, match=r"000003\.parquet"):
        folder.tokens.join()
    assert not (tmp_path / TOKENS).exists()
    folder.rewind(early)
    folder.tokens.join()
    assert pq.read_table(tmp_path / TOKENS).num_rows == 3


@pytest.mark.parametrize("how", ["cut", "flip", "empty", "append"])
def test_a_manifest_that_was_changed_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    (config,) = plan([f"runs_dir={tmp_path}"]).cells
    folder = RunFolder(config.folder, config)
    folder.update_manifest(status="finished", config_sha256=config.sha256(), algorithm="none")
    check_folder(config)
    damage(config.folder / MANIFEST, how)
    with pytest.raises(UserError, match=r"manifest\.json: not a run's manifest .*move it away") as refused:
        check_folder(config)
    assert "\n" not in str(refused.value)
    assert status_of(config.folder) == "damaged"


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_is_no_file_or_folder_where_one_belongs_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (config,) = plan([f"runs_dir={tmp_path}"]).cells
    config.folder.mkdir(parents=True)
    os.mkfifo(config.folder / name)
    with pytest.raises(UserError, match=rf"{name}: not a (plain file|folder); move it away"):
        check_folder(config)


def test_brackets_in_a_text_are_no_nesting(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Config())
    folder.update_manifest(git={"diff": '+[{"\\' * 100})
    assert read_signed(tmp_path / MANIFEST)["git"]["diff"].startswith("+[{")


def test_a_damaged_configuration_is_written_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Config())
    folder.write_config()
    whole = (tmp_path / CONFIG).read_bytes()
    for how in ("cut", "flip", "empty", "remove", "append"):
        damage(tmp_path / CONFIG, how)
        folder.write_config()
        assert (tmp_path / CONFIG).read_bytes() == whole


def test_a_long_diff_is_kept_once_beside_the_manifest(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Config())
    short, long = {"sha": "abc", "diff": "+x"}, {"sha": "abc", "diff": "+ä\n" * 60_000}
    assert folder.keep_diff(short) == short
    for _ in range(3):
        kept = folder.keep_diff(long)
        assert len(json.dumps(kept)) < 200
    (file,) = (tmp_path / "diffs").iterdir()
    assert file.read_text() == long["diff"] and kept["diff_sha256"].startswith(file.stem)


def test_a_reader_needs_no_right_to_write(tmp_path: Path) -> None:
    with exclusive(tmp_path / LOCK):
        (tmp_path / LOCK).chmod(0o444)
        assert is_held(tmp_path / LOCK)
    assert not is_held(tmp_path / LOCK)


def test_an_error_without_a_file_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"rows\.jsonl"), naming(tmp_path / "rows.jsonl"):
        raise OSError(errno.EIO, "Input/output error")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = plan([f"runs_dir={tmp_path / 'file' / 'runs'}"]).cells
    (tmp_path / "file").write_text("no folder")  # another command's, between the check and the run
    said: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda _, text: said.append(text))
    assert run_cell(config) == "failed"
    (line,) = said
    assert "\n" not in line and str(tmp_path / "file") in line


def test_the_manifest_is_read_without_its_hash(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Config())
    folder.update_manifest(status="running")
    folder.update_manifest(status="paused")
    assert read_signed(tmp_path / MANIFEST) == {"status": "paused"}
