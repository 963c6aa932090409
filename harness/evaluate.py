"""`python run.py mode=evaluate checkpoint=FOLDER`: accuracy of any checkpoint or base model, nothing trained."""

from __future__ import annotations

from pathlib import Path

import torch

from harness import build
from harness.config import Config
from harness.drivers.generation import Generation
from harness.evaluation import Evaluator, report_data
from harness.grading import Grader
from harness.models.digest import weights_sha256
from harness.models.loading import LoadedModel, longest_prompt, resolve_path
from harness.progress import Progress
from harness.records.checkpoint import MANIFEST
from harness.records.files import read_json
from harness.records.folder import RunFolder
from harness.rollout.prompts import PromptEncoder
from harness.tasks.prepare import prepare


class Evaluation:
    """The evaluation of one folder of weights, in a run folder of its own. Started again it starts over."""

    def __init__(self, config: Config, folder: RunFolder, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        torch.set_num_threads(config.torch_threads)
        progress.note("loading the model")
        self.model: LoadedModel = build.model(config)
        encode = PromptEncoder(self.model.tokenizer, config.model)
        data = prepare(config, build.task(config), encode, longest_prompt(config))
        report_data(data, folder, progress)
        grader = Grader(data.task, self.model.tokenizer, config.learner.truncated)
        self.evaluator = Evaluator(config, data.task, encode, grader, data.suites)
        self.version = version_of(str(config.checkpoint))
        self.accuracy: dict[str, float] = {}
        self.generation: Generation = build.generation(config, self.model)

    def run(self) -> str:
        """Evaluates every split and suite and returns the hash of the weights."""
        self.folder.rewind({})
        self.generation.publish(self.version, self.model.module.state_dict())
        for row, samples in self.evaluator.run(self.generation, self.version):
            self.folder.append("eval.jsonl", row)
            for sample in samples:
                self.folder.append("samples.jsonl", sample)
            self.progress.evaluated(row)
            self.accuracy[row["split"]] = row["sampled_accuracy"]
        return weights_sha256(self.model.module.state_dict())

    def outcome(self) -> str:
        return ", ".join(f"{split} {accuracy:.3f}" for split, accuracy in self.accuracy.items())

    def close(self) -> None:
        self.generation.close()


def version_of(checkpoint: str) -> int:
    """Updates behind a checkpoint's weights; 0 for a model that is none of ours."""
    manifest = Path(resolve_path(checkpoint)) / MANIFEST
    return int(read_json(manifest)["update"]) if manifest.is_file() else 0
