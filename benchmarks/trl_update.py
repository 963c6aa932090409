"""TRL's GRPOTrainer at the default run's work: a contender for `benchmarks.end_to_end` (see there).

    .venv-bench/bin/python benchmarks/trl_update.py --model harness/assets/carry --updates 40 --threads 1

Same base policy, prompts in the same order, 512 responses a batch and four updates of 128 from it, lengths,
learning rate, optimizer, clipping and token-mean loss. It waits for a line on stdin before each batch.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from benchmarks.turns import Pace  # noqa: E402
from harness.tasks.carry import Carry  # noqa: E402

PROMPTS, GROUP, UPDATES_A_BATCH = 64, 8, 4


class Paced(TrainerCallback):
    def __init__(self, pace: Pace, rewards: list[float]) -> None:
        self.pace, self.rewards = pace, rewards

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % UPDATES_A_BATCH == 0:
            self.pace.wait(self.rewards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Carry()
    problems = task.train(1, range(PROMPTS * options.updates // UPDATES_A_BATCH))
    answers = {problem.prompt: problem for problem in problems}
    rewards: list[float] = []

    def reward(prompts, completions, **_):
        grades = task.grade([answers[prompt] for prompt in prompts], completions)
        values = [grade.reward for grade in grades]
        rewards.append(sum(values) / len(values))
        return values

    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            reward_funcs=reward,
            args=settings(folder, options.updates),
            train_dataset=Dataset.from_list([{"prompt": problem.prompt} for problem in problems]),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        with Pace() as pace:
            trainer.add_callback(Paced(pace, rewards))
            trainer.train()
            pace.finish(rewards)


def settings(folder: str, updates: int) -> GRPOConfig:
    return GRPOConfig(
        output_dir=folder,
        max_steps=updates,
        per_device_train_batch_size=PROMPTS * GROUP // UPDATES_A_BATCH,
        gradient_accumulation_steps=1,
        steps_per_generation=UPDATES_A_BATCH,
        num_generations=GROUP,
        max_completion_length=24,
        temperature=1.0,
        learning_rate=3e-5,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        beta=0.0,
        epsilon=0.2,
        loss_type="dapo",
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        seed=1,
    )


if __name__ == "__main__":
    main()
