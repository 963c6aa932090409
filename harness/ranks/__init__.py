"""The learner's ranks: processes that each hold a slice of every parameter and compute their share of a mini-batch.

The rule that makes their number invisible: micro-batches are those of the configuration, dealt out in turn, and
whoever owns a slice of the gradient adds the micro-batches' parts of it in the order in which one process would
(summing.py). The distribution itself is PyTorch's FSDP2.
"""
