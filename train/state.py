"""Everything that a run is made of at one moment, as what a checkpoint holds: named tensors and plain data."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of the generators of Python, NumPy and torch (CPU and, where it is another, the device's)."""
    version, numbers, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    states: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state().numpy().tobytes().hex()
    return states


def restore_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Set all generators to saved states.

    Raises:
        KeyError: the states are of a run on another kind of device.
    """
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_byte_tensor(states["torch"]))
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(_byte_tensor(states[device.type]))


def _byte_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors named `<parameter's number>.<name>`, and the rest as plain data."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                plain.setdefault(str(number), {})[name] = value
    return tensors, {"state": to_plain(plain), "param_groups": to_plain(state["param_groups"])}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Set an optimizer to a saved state.

    Raises:
        ValueError: the state is of other parameters.
    """
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in plain["state"].items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    state = {number: from_plain(values) for number, values in sorted(state.items())}
    optimizer.load_state_dict({"state": state, "param_groups": from_plain(plain["param_groups"])})


def to_plain(value: Any) -> Any:
    """Nested data as JSON can hold it: tuples become lists, and numbers that are not finite their names."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def from_plain(value: Any) -> Any:
    """What `to_plain` was given, with lists for tuples and text for keys."""
    if isinstance(value, Mapping):
        return float(value["float"]) if set(value) == {"float"} else {k: from_plain(v) for k, v in value.items()}
    return [from_plain(entry) for entry in value] if isinstance(value, list) else value


__all__ = ["from_plain", "generator_states", "optimizer_state", "restore_generators", "restore_optimizer", "to_plain"]
