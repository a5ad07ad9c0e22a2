"""The processes of a run, as Accelerate knows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import broadcast_object_list, get_int_from_env, parse_flag_from_env

from ..modeling_highmmt import HighMMTModel

T = TypeVar("T")


def process_state() -> PartialState:
    """Which process of how many this is, and its device.

    Raises:
        ValueError: several processes were launched, but Accelerate takes each for the only one, or has started one.
    """
    # Whoever asks first decides for all, and only `Accelerator` itself reads the variable.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = get_int_from_env(["WORLD_SIZE"], 1)
    if launched > 1 and state.num_processes == 1:
        raise ValueError(
            f"{launched} processes were launched, but there is no GPU for them, so that each would do all the work. "
            "Set ACCELERATE_USE_CPU=true to have them share it on the CPU."
        )
    # What `accelerate launch` sets where several are asked for, but not what it gives each that it starts.
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= set(os.environ) and "WORLD_SIZE" not in os.environ:
        if state.num_processes == 1:
            raise ValueError(
                "`accelerate launch` was asked for several processes but has started one, as it does on a CPU. Use "
                "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`, or unset MASTER_ADDR if "
                "one is meant."
            )
    return state


def new_accelerator(mixed_precision: str, gradient_accumulation_steps: int = 1) -> Accelerator:
    """An accelerator of this precision, whatever earlier ones of this process had.

    Raises:
        ValueError: half precision without a GPU, or several processes that do not know of each other.
    """
    process_state()
    if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
        # Accelerate keeps one state for all, but one run may follow another of a different precision.
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=gradient_accumulation_steps)
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("mixed_precision='fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
    return accelerator


def on_main_process(function: Callable[[], T]) -> T:
    """What a function gives that only the main process may call; where it fails, it fails on every process.

    Raises:
        Exception: whatever the function raises. The others would wait forever for a main process that has given up.
    """
    result, error = None, None
    if process_state().is_main_process:
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001 - raised again below
            error = raised
    if process_state().num_processes > 1:
        result, error = broadcast_object_list([result, error])
    if error is not None:
        raise error
    return cast(T, result)


@contextmanager
def plain_forward_afterwards(model: HighMMTModel) -> Iterator[None]:
    """Take Accelerate's wrapper for mixed precision off the model again; it would travel with copies of it."""
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)


__all__ = ["new_accelerator", "on_main_process", "plain_forward_afterwards", "process_state"]
