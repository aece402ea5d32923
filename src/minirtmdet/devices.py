"""Which device a setting means, and in which precision the network computes there."""

from typing import Literal

import torch


def pick_device(name: str) -> torch.device:
    """The device that a setting means: ``auto`` is the CUDA GPU where there is one, else the CPU.

    Raises:
        ValueError: for a device that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: PyTorch finds no CUDA GPU on this machine; --device cpu works everywhere")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps: PyTorch finds no Apple GPU on this machine; --device cpu works everywhere")
    return torch.device(name)


def pick_amp(setting: str, device: torch.device) -> torch.dtype | None:
    """The type that the network computes in under autocast, None for fp32 throughout.

    >>> pick_amp("auto", torch.device("cpu")), pick_amp("bf16", torch.device("cpu"))
    (None, torch.bfloat16)
    """
    if setting == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.bfloat16 if setting == "bf16" else None


def pick_compile(
    setting: Literal["auto", "off", "step", "record", "graph"], device: torch.device
) -> Literal["off", "step", "record", "graph"]:
    """How a step runs; ``auto`` compiles on a CUDA GPU, which a thousand launches a step would keep waiting.

    >>> pick_compile("auto", torch.device("cpu")), pick_compile("auto", torch.device("cuda"))
    ('off', 'step')
    """
    if setting == "auto":
        return "step" if device.type == "cuda" else "off"
    return setting


def describe_computing(
    amp: str, compile: Literal["auto", "off", "step", "record", "graph"], device: torch.device, processes: int
) -> str:
    """Where and how a run computes, in words.

    >>> describe_computing("bf16", "off", torch.device("cpu"), 2)
    'cpu, 2 processes, bf16, losses in fp32'
    """
    words = [f"{device}", *([f"{processes} processes"] if processes > 1 else [])]
    words.append("fp32" if pick_amp(amp, device) is None else "bf16, losses in fp32")
    if pick_compile(compile, device) in ("step", "graph"):
        words.append("compiled in the first step, which takes a minute")
    return ", ".join(words)
