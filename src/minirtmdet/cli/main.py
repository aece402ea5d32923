"""The command line: the commands, and what becomes of an error."""

import sys
import warnings
from collections.abc import Sequence

import torch
import tyro

from minirtmdet.cli.data import app as data
from minirtmdet.cli.data import scenes
from minirtmdet.cli.evaluate import evaluate
from minirtmdet.cli.export import export
from minirtmdet.cli.info import info
from minirtmdet.cli.loading import ARGUMENTS, PartialFailure
from minirtmdet.cli.predict import predict
from minirtmdet.cli.quantize import quantize
from minirtmdet.cli.train import spell_out, train
from minirtmdet.cli.weights import weights
from minirtmdet.distributed import ProcessFailed, ProcessLost
from minirtmdet.engine.faults import is_lost_worker

app = tyro.extras.SubcommandApp()
app.command(train)
app.command(name="eval")(evaluate)
app.command(predict)
app.command(export)
app.command(quantize)
app.command(scenes)
app.command(data, name="data", help="Look at a data set, divide it, cut it into tiles, convert its labels, draw it.")
app.command(weights)
app.command(info)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code: 0, 1 where part of the work failed, 2 for an error, 130 for Ctrl-C.

    An error that a user can mend becomes one message; any other is a fault of the package, and passes with its
    traceback.
    """
    args = list(sys.argv[1:] if args is None else args)
    ARGUMENTS.set(args)
    try:
        if args[:1] == ["train"]:
            args = spell_out(args)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app.cli(prog="minirtmdet", args=args, config=(tyro.conf.OmitSubcommandPrefixes,))
    except PartialFailure as error:
        print(f"minirtmdet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        print(f"minirtmdet: error: {message}", file=sys.stderr)
        return 2
    return 0


def _message(error: Exception) -> str | None:
    """What a user can do about an error, in words; None for a fault of the package."""
    if isinstance(error, torch.OutOfMemoryError):
        # the trainer's own says which settings to lower; what torch says is about its allocator
        return str(error) if error.__cause__ else "the GPU has too little memory; try a smaller --batch-size"
    # an optional module whose absence is explained; any other that is missing is a fault
    wanted = isinstance(error, ModuleNotFoundError) and "pip install" in str(error)
    if wanted or isinstance(error, ValueError | OSError | FloatingPointError | ProcessLost | ProcessFailed):
        words = str(error)
    elif isinstance(error, RuntimeError) and is_lost_worker(error):
        advice = "where nobody killed it, memory or shared memory (/dev/shm) is too small; try a smaller --data.workers"
        words = f"{str(error).rstrip('. ')}: {advice}"
    else:
        return None
    # what whoever passed the error on has added
    return "; ".join([words, *getattr(error, "__notes__", [])])


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line."""
    print(f"minirtmdet: warning: {message}", file=sys.stderr)
