"""What a run depends on beside its configuration: code, model, data, machine; and what of it has changed since.

Each dependency has a name a reader knows ("method algorithms.m2po", "data train.jsonl") and a hash or a version. Light:
a finished cell is compared without loading torch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.errors import UserError
from harness.paths import bases
from harness.records.files import file_sha256, read_json
from harness.records.layout import MANIFEST
from harness.records.manifest import processor, versions
from harness.records.parent import contents
from harness.records.sources import source_sha256
from harness.records.state import status_of
from harness.schema import leaves

OURS = ("algorithms", "harness")
RUNNING = ("harness.training", "harness.evaluation", "harness.rewards.worker")
# Of another one of these a run may not carry on unless on_change=record: one curve would hold two of them.
SCIENCE = ("method", "reward", "package", "model", "data", "suite", "parent")
MODEL_FILES = (".json", ".safetensors", ".txt", ".jinja", ".model")
NO_WEIGHTS = ("optimizer.safetensors", "rollouts.safetensors", "checkpoint.json")  # in a checkpoint of ours


def dependencies(config: Config) -> dict[str, str]:
    """Everything that a run depends on beside its configuration.

    config: of the run.
    Returns name → hash, commit or version; what cannot be known beforehand (a hub that has not been asked) is left out.
    """
    return dict(_code(config)) | dict(_inputs(config)) | {"cpu": processor()} | versions()


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The names of both whose values differ; the code of all of ours only where no part of it is named."""
    different = [name for name in now if name in before and before[name] != now[name]]
    parts = [name for name in different if name.startswith(("method ", "reward "))]
    return [name for name in different if name != "harness" or not parts]


def is_science(name: str) -> bool:
    """Whether a run that carries on with another one of this would be two runs in one."""
    return name.split(maxsplit=1)[0] in SCIENCE


def recorded(manifest: dict[str, Any]) -> dict[str, str]:
    """What a run depended on when it was last started; {} for a run of 0.1.0, which did not say."""
    starts = [manifest, *manifest.get("resumed", [])]
    return dict(next((start["depends_on"] for start in reversed(starts) if "depends_on" in start), {}))


def changed_since(config: Config, manifest: dict[str, Any]) -> list[str]:
    """The dependencies of a run that are others than when it was last started, in words."""
    before = recorded(manifest)
    return described(before, dependencies(config)) if before else []


def described(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Each change in words: a version with both values, anything else by its name."""
    shown = versions().keys() | {"cpu"}
    return [f"{name} {before[name]} → {now[name]}" if name in shown else _words(name) for name in changes(before, now)]


def check_unchanged(config: Config) -> None:
    """Raises UserError for a run that would carry on with another method, reward, model or data than it began with."""
    manifest = config.folder / MANIFEST
    if config.on_change == "record" or not manifest.is_file() or status_of(config.folder) not in _carries_on(config):
        return
    before, now = recorded(read_json(manifest)), dependencies(config)
    other = [_words(name) for name in changes(before, now) if is_science(name)]
    if other:
        raise UserError(
            f"{config.folder}: {listed(other)} changed since this run began; put it back, start anew with repeat=1 or "
            "another runs_dir, or carry on all the same with on_change=record"
        )


def _carries_on(config: Config) -> tuple[str, ...]:
    return ("interrupted", "paused", *(("failed",) if config.retry_failed else ()))


def finished_at(manifest: dict[str, Any]) -> str:
    """When a run finished, with the day where that was not today."""
    then = time.localtime(manifest.get("finished") or 0)
    is_today = time.strftime("%F", then) == time.strftime("%F")
    return time.strftime("%H:%M" if is_today else "%F %H:%M", then)


def skipped_line(config: Config) -> str:
    """What is said of a finished run in place of running it: when it finished, and what has changed since."""
    line = f"already finished {finished_at(read_json(config.folder / MANIFEST))}, skipped"
    return "; ".join([line, *filter(None, [change_line(config)])])


def change_line(config: Config) -> str:
    """What has changed since a run finished and how to run it again; "" where nothing has."""
    different = changed_since(config, read_json(config.folder / MANIFEST))
    return f"{listed(different)} changed since: repeat=1 or another runs_dir" if different else ""


def listed(names: Iterable[str]) -> str:
    """`the code of a and b has`, `a, b and c have`: the beginning of a sentence about what has changed."""
    words = list(names)
    head = ", ".join(words[:-1])
    return f"{head} and {words[-1]} have" if head else f"{words[-1]} has"


def _words(name: str) -> str:
    kind, _, what = name.partition(" ")
    if kind in ("method", "reward", "package"):
        return f"the code of {what}"
    return "the code of algorithms and harness" if kind == "harness" else f"{kind} {what}"


# Code ----------------------------------------------------------------------------------------------------


def _code(config: Config) -> Iterator[tuple[str, str]]:
    targets = list(_targets(config))
    algo, task = str(config.algo.get("_target_")), str(config.task.get("_target_"))
    groups = {
        "harness": ([*RUNNING, *targets], OURS),
        f"method {_module(algo)}": ([_module(algo)], ("algorithms",)),
        f"reward {_module(task)}": ([_module(task)], ("harness.tasks", "harness.rewards")),
    }
    for package in config.allow_code:
        inside = [target for target in targets if target == package or target.startswith(f"{package}.")]
        groups[f"package {package}"] = (inside or [package], (package,))
    for name, (modules, packages) in groups.items():
        if digest := source_sha256(modules, packages):
            yield name, digest


def _targets(config: Config) -> Iterator[str]:
    """The module of every class and function that a configuration names."""
    for name, value in leaves(config.as_dict()):
        if isinstance(value, str) and name.rpartition(".")[2] in ("_target_", "reward") and "." in value:
            yield _module(value)


def _module(target: str) -> str:
    return target.rpartition(".")[0]


# Model and data ------------------------------------------------------------------------------------------


def _inputs(config: Config) -> Iterator[tuple[str, str]]:
    """The contents of the model's folder, of the forked run's checkpoint, of the task's files and of the suites'."""
    if config.fork:
        yield "parent checkpoint", contents(config.fork)
    paths = {f"model {config.served_model.path}": config.served_model.path}
    if config.learner.kl_coefficient and config.learner.reference != "initial":
        paths[f"model {config.learner.reference}"] = config.learner.reference
    for name, path in paths.items():
        folder = _found(path)
        yield from _known(name, _hash(folder, MODEL_FILES) if folder else _hub_commit("models", path))
    for key, value in leaves(config.task):
        if isinstance(value, str) and key.rpartition(".")[2].rpartition("_")[2] == "path" and (found := _found(value)):
            yield f"data {value}", _hash(found)
    if (schedule := config.lag.get("schedule")) and (found := _found(str(schedule))):
        yield f"data {schedule}", _hash(found)
    if config.task.get("hub") and not config.task.get("path"):
        hub = str(config.task["hub"])
        yield from _known(f"data {hub}", _hub_commit("datasets", hub, config.task.get("revision")))
    folder = _found(config.eval.suites_path) if config.eval.suites_path else None
    for suite in config.eval.suites:
        files = sorted([*folder.glob(suite), *folder.glob(f"{suite}.*")]) if folder else []
        yield from _known(f"suite {suite}", " ".join(_hash(file) for file in files) or None)


def _known(name: str, value: str | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield name, value


def _found(path: str) -> Path | None:
    """A file or folder, looked up as tasks and models are: from where the command is typed, then from the project."""
    places = (base / path for base in bases())
    return next((place for place in places if place.exists()), None)


def _hash(path: Path, endings: tuple[str, ...] = ()) -> str:
    """Hash of a file's bytes, or of the names and bytes of the files in a folder. endings: those that count."""
    if path.is_file():
        return _file(path, path.stat().st_size, path.stat().st_mtime_ns)
    files = (f for f in sorted(path.rglob("*")) if f.is_file() and not f.name.startswith("."))
    kept = [f for f in files if not endings or (f.suffix in endings and f.name not in NO_WEIGHTS)]
    lines = (f"{f.relative_to(path)} {_file(f, f.stat().st_size, f.stat().st_mtime_ns)}\n" for f in kept)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _file(path: Path, size: int, modified: int) -> str:
    del size, modified  # part of the cache's key: a file that changed is read again
    return file_sha256(path)


def _hub_commit(kind: str, name: str, revision: str | None = None) -> str | None:
    """The commit of what the hub's cache holds under a name; None if it holds nothing, or the name is none."""
    from huggingface_hub import constants  # late: only a hub name needs it

    ref = Path(constants.HF_HUB_CACHE, f"{kind}--{name.replace('/', '--')}", "refs", revision or "main")
    return ref.read_text().strip() if ref.is_file() else None
