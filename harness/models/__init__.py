"""Policies: any causal language model of transformers, and our own forward pass for the families it knows."""

import transformers.utils

# transformers' model classes import the losses of object detection and assisted generation, unused here, and with them
# SciPy and scikit-learn where they are installed (MLflow needs them): a second of every start, and of every worker's.
transformers.utils.is_scipy_available = transformers.utils.is_sklearn_available = lambda: False
