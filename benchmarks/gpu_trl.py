"""Seconds of a step of TRL's GRPOTrainer on random weights, for benchmarks.gpu (see there).

As TRL is run by people in a hurry: bfloat16, checkpointing, Liger's loss and vLLM in the same process where they are
installed. Rewards are random.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import tempfile
import time
import warnings

warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--responses", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--budget", type=int, required=True)
    options = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed.")
        return
    # Imported late: TRL need not be installed.
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            marks.append(time.perf_counter())

        def on_train_end(self, args, state, control, **kwargs):
            marks.append(time.perf_counter())

    found = {name: importlib.util.find_spec(name) is not None for name in ("vllm", "liger_kernel")}
    gpu = torch.cuda.is_available()
    rows = max(options.budget // (options.tokens + 256) // 4 * 4, 4)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=options.model,
            reward_funcs=lambda completions, **_: [random.random() for _ in completions],
            args=GRPOConfig(
                output_dir=folder,
                max_steps=3,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=max(options.responses // rows, 1),
                num_generations=4,
                max_completion_length=options.tokens,
                bf16=gpu,
                use_cpu=not gpu,
                gradient_checkpointing=True,
                use_vllm=found["vllm"] and gpu,
                vllm_mode="colocate",
                vllm_gpu_memory_utilization=0.3,
                use_liger_kernel=found["liger_kernel"] and gpu,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": f"Tom has {i} pens. How many?"} for i in range(2048)]),
            processing_class=AutoTokenizer.from_pretrained(options.model, padding_side="left"),
            callbacks=[Clock()],
        )
        trainer.train()
    steps = [after - before for before, after in zip(marks, marks[1:], strict=False)][1:]
    work = f"{rows * max(options.responses // rows, 1)} responses of {options.tokens} tokens"
    parts = ", ".join(name for name, there in found.items() if there and gpu) or "neither vLLM nor Liger"
    print(f"{work} ({parts}): {statistics.median(steps):.1f} s a step.")


if __name__ == "__main__":
    main()
