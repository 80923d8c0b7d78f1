"""The course assignments on convolutional networks, by their own names.

``step_by_step.py``  zero padding, one convolution step, convolution and pooling, forward and back
``application.py``   the ConvNet trained on the SIGNS data
``philox.py``        TensorFlow 1's random numbers, which give the published initial weights

The eight functions of *Step by Step* are also in `pyconv` itself; those of *Application* only here,
where their names (`model`, `predict`) cannot be mistaken for the library's.
"""

from .application import (
    AssignmentCost,
    Placeholder,
    assignment_weights,
    compute_cost,
    convert_to_one_hot,
    create_placeholders,
    forward_propagation,
    initialize_parameters,
    load_dataset,
    minibatch_order,
    model,
    predict,
    random_mini_batches,
)
from .step_by_step import (
    conv_backward,
    conv_forward,
    conv_single_step,
    create_mask_from_window,
    distribute_value,
    pool_backward,
    pool_forward,
    zero_pad,
)

__all__ = [
    "AssignmentCost",
    "Placeholder",
    "assignment_weights",
    "compute_cost",
    "conv_backward",
    "conv_forward",
    "conv_single_step",
    "convert_to_one_hot",
    "create_mask_from_window",
    "create_placeholders",
    "distribute_value",
    "forward_propagation",
    "initialize_parameters",
    "load_dataset",
    "minibatch_order",
    "model",
    "pool_backward",
    "pool_forward",
    "predict",
    "random_mini_batches",
    "zero_pad",
]
