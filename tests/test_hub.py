"""With no hub to be reached: refused after one question, or loaded from the cache."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from datasets.packaged_modules.json.json import Json

from harness.tasks.files import FORMATS
from tests.conftest import ROOT
from tests.tiny import gsm8k_rows, make_model, write_jsonl

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Endpoint = Callable[[int], None]


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Makes a port of this machine the hub of the processes a test starts; their cache is empty."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))

    def at(port: int) -> None:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")

    return at


@pytest.fixture
def silent(endpoint: Endpoint) -> Iterator[list[socket.socket]]:
    """A hub that accepts every connection and answers none; the connections."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:  # closed
                    return

        threading.Thread(target=accept, daemon=True).start()
        endpoint(server.getsockname()[1])
        yield accepted
        server.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


@pytest.fixture
def empty(endpoint: Endpoint) -> Iterator[list[str]]:
    """A hub that has nothing; the paths of its requests."""
    requests: list[str] = []

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint(server.server_address[1])
        yield requests
        server.shutdown()


FILE = f"give task.path=FILE, {FORMATS} with the columns question, answer"
FOLDER = "give a Hugging Face model folder (config.json, *.safetensors, tokenizer.json)"


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["task=gsm8k"], FILE), (["model=hf", "model.path=somebody/model"], FOLDER)]
)
def test_a_hub_that_does_not_answer_is_asked_once(
    command: Command, silent: list[socket.socket], arguments: list[str], expected: str
) -> None:
    result = command(*arguments, "tracking=none")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and expected in result.stderr
    assert len(silent) == 1


def test_a_hub_that_answers_is_asked_for_what_was_named(command: Command, empty: list[str]) -> None:
    result = command("task=gsm8k", "tracking=none")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and FILE in result.stderr
    assert any("openai/gsm8k" in path for path in empty)


LOADS = """
import json
from harness.groups import ModelConfig
from harness.models.loading import load_model
from harness.tasks.sources import Source, load
rows = load(Source("openai/gsm8k", "train", ("question", "answer"), subset="main")).rows
model = load_model(ModelConfig(path="somebody/model"), "cpu").module
print(json.dumps([rows, sum(p.numel() for p in model.parameters())]))
"""


def test_what_is_cached_loads_without_a_hub(tmp_path: Path, silent: list[socket.socket]) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", gsm8k_rows(3))
    made = Json(cache_dir=str(tmp_path), dataset_name="gsm8k", config_name="main", data_files={"train": [str(file)]})
    made.download_and_prepare(str(tmp_path / "cache" / "datasets" / "openai___gsm8k" / "main" / "0.0.0" / "0123abcd"))
    model = tmp_path / "cache" / "hub" / "models--somebody--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    make_model(model / "snapshots" / ("0" * 40))
    result = subprocess.run(
        [sys.executable, "-c", LOADS], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    rows, parameters = json.loads(result.stdout)
    assert rows == gsm8k_rows(3)
    assert parameters > 10_000
    assert len(silent) == 1
