"""Options of the benchmarks: a mistake is named in one sentence, before anything is timed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar, get_args

import torch

from fire_rl.agents.program import Precision
from fire_rl.envs import make_env
from fire_rl.envs.atari import rom_name
from fire_rl.launch.config import find_device

T = TypeVar("T")


def _checked(check: Callable[[str], T]) -> Callable[[str], T]:
    """`check` for argparse, which shows a ValueError's own words only if it has this type."""

    def checked(text: str) -> T:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


@_checked
def positive(text: str) -> int:
    """A number of things, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"give a whole number from 1 on, not {text}")
    return int(text)


@_checked
def known_game(text: str) -> str:
    """The name of an Atari game."""
    rom_name(text)
    return text


@_checked
def known_env(text: str) -> str:
    """The name of an environment that can be built."""
    make_env(text, 1).close()
    return text


@_checked
def usable_device(text: str) -> torch.device:
    """A device that is there, or "auto"."""
    return find_device(text)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Give it `--precision`, as `fire-rl train` has it."""
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="tf32", help="of products on a GPU"
    )
