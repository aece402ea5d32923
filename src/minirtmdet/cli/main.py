"""The command line: the commands, and what becomes of an error."""

import sys
import warnings
from collections.abc import Sequence

import torch
import tyro

from minirtmdet.cli.data import scenes
from minirtmdet.cli.evaluate import evaluate
from minirtmdet.cli.export import export
from minirtmdet.cli.info import info
from minirtmdet.cli.loading import ARGUMENTS, PartialFailure
from minirtmdet.cli.predict import predict
from minirtmdet.cli.train import train
from minirtmdet.cli.weights import weights
from minirtmdet.distributed import ProcessFailed, ProcessLost
from minirtmdet.engine.faults import is_lost_worker

app = tyro.extras.SubcommandApp()
app.command(train)
app.command(name="eval")(evaluate)
app.command(predict)
app.command(export)
app.command(scenes)
app.command(weights)
app.command(info)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend become one message and exit code 2."""
    ARGUMENTS.set(list(sys.argv[1:] if args is None else args))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app.cli(prog="minirtmdet", args=args, config=(tyro.conf.OmitSubcommandPrefixes,))
    except PartialFailure as error:
        print(f"minirtmdet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except torch.OutOfMemoryError as error:
        # the trainer's own says which settings to lower; what torch says is about its allocator
        advice = error if error.__cause__ else "the GPU has too little memory; try a smaller --batch-size"
        print(f"minirtmdet: error: {advice}", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError, ProcessLost, ProcessFailed) as error:
        print(f"minirtmdet: error: {_with_notes(str(error), error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        advice = "where nobody killed it, memory or shared memory (/dev/shm) is too small; try a smaller --data.workers"
        words = _with_notes(f"{str(error).rstrip('. ')}: {advice}", error)
        print(f"minirtmdet: error: {words}", file=sys.stderr)
        return 2
    return 0


def _with_notes(words: str, error: BaseException) -> str:
    """What an error says, and what whoever passed it on has added."""
    return "; ".join([words, *getattr(error, "__notes__", [])])


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line."""
    print(f"minirtmdet: warning: {message}", file=sys.stderr)
