"""The command line: `fire-rl COMMAND …`."""

from __future__ import annotations

import os

# Before torch is imported: idle OpenMP threads sleep instead of spinning. With more runs than cores, spinning
# costs a factor of four to eight.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import importlib
import sys
from collections.abc import Sequence

from fire_rl.names import unknown_name

USAGE_ERROR = 2

# Each is a module of `fire_rl.launch.commands`, imported when asked for.
COMMANDS = {
    "train": "one run: an agent learns in an environment, a method resets it",
    "bench": "many runs: all missing jobs of a suite, then its figure",
    "status": "how the runs of a folder stand: what runs, what failed, how long still",
    "plot": "the figures of recorded runs",
    "report": "one HTML file to read and to send",
    "compare": "two folders of records: differences with intervals",
    "export": "records as tidy tables",
    "eval": "evaluate a finished or interrupted run, and film it",
    "measure": "measures of plasticity of a run's newest checkpoint",
    "new-method": "write the file of a new method, and its test",
    "check-method": "does a method keep the reset contract?",
    "probe": "a method's effect on plasticity in a minute, without an environment",
    "methods": "the reset methods, a line each",
    "envs": "the environments, a line each",
    "suites": "the built-in suites, a line each",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 failed, 2 wrong usage, 128 + n stopped by signal n.

    What the user got wrong is answered by one sentence on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else USAGE_ERROR
    try:
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], list(COMMANDS))
        command = importlib.import_module(f"fire_rl.launch.commands.{words[0].replace('-', '_')}")
        code: int = command.main(words[1:])
        return code
    except (ValueError, MemoryError, FileNotFoundError) as error:
        print(f"fire-rl: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # `fire-rl envs | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("fire-rl: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def overview() -> str:
    """What `fire-rl --help` prints."""
    lines = [f"  {name:<13} {summary}" for name, summary in COMMANDS.items()]
    last = "fire-rl COMMAND --help tells a command's options."
    return "\n".join(["usage: fire-rl COMMAND [options]", "", *lines, "", last])


if __name__ == "__main__":
    sys.exit(main())
