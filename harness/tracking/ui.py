"""`python -m harness.ui`: MLflow's pages of the run folders on this machine; prints their address once it answers."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from harness.errors import UserError
from harness.tracking.saved_view import KEY
from harness.tracking.store import database_of, default_uri, experiments

HOST = "127.0.0.1"
PATIENCE_S = 300.0
# One worker and none of MLflow's job runners: nobody but this machine asks.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.ui", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: 5000)")
    options = parser.parse_args(arguments)
    try:
        uri = _store_of(options.runs)
        _check_port(options.port)
        _serve(uri, options.port)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _store_of(runs: Path) -> str:
    uri = default_uri(runs)
    database = database_of(uri)
    if database is None or not database.is_file():
        raise UserError(
            f"no {runs}/mlflow.db: start with make demo, or name the folder with make ui RUNS=...; "
            "a command that has just begun has yet to make it"
        )
    return uri


def _check_port(port: int) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be used ({error}): make ui PORT={_free_port()}") from None


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def _serve(uri: str, port: int) -> NoReturn:
    """Serves until it is told to end. Raises UserError with what MLflow said if it does not answer or ends."""
    names = experiments(uri)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: or MLflow would stay, and keep the port
    print("starting MLflow ...", flush=True)
    mlflow = [sys.executable, "-P", "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", uri]
    server = subprocess.Popen([*mlflow, "--host", HOST, "--port", str(port)], env=os.environ | SETTINGS,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    try:
        if not _answers(server, port):
            said = server.communicate()[0] if server.poll() is not None else ""
            raise UserError(f"MLflow does not answer on port {port}\n{said}".rstrip())
        print("\n".join(_addresses(names, port)), flush=True)
        said = server.communicate()[0]
        raise UserError(f"MLflow ended by itself, code {server.returncode}\n{said}".rstrip())
    finally:
        server.terminate()
        server.wait()


def _answers(server: subprocess.Popen[str], port: int) -> bool:
    until = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
            return True
        time.sleep(0.2)
    return False


def _addresses(names: dict[str, str], port: int) -> Iterator[str]:
    """The page of each experiment's cells, with what MLflow's own pages do not tell."""
    view = f"runs?viewStateShareKey={KEY}&workflowType=machine_learning"
    for experiment, name in names.items():
        yield f"{name}: http://{HOST}:{port}/#/experiments/{experiment}/{view}"
    yield 'The menu "Cells by accuracy" has a view of each sweep. MLflow\'s front page leads to its GenAI pages until'
    yield '"Model training" is chosen at the top left. Ctrl-C ends it.'
