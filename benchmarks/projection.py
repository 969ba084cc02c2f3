"""Speed of `fire_`, which projects all matrices of one shape in one batch, against a loop over matrices.

    python -m benchmarks.projection --threads 1

Prints a Markdown table for the CPU, and for the GPU if there is one. Both sides do ten Newton–Schulz steps in
float32; repetitions are interleaved, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.baselines.projection import fire_by_loop
from benchmarks.options import positive
from benchmarks.timing import machine, now
from fire_rl import fire_


class Stacked(nn.Module):
    """Weights (members, out, in), as twin critics have them."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, outputs, inputs) / inputs**0.5)


def convolutions() -> nn.Module:
    """Those of the Nature CNN."""
    return nn.Sequential(nn.Conv2d(4, 32, 8), nn.Conv2d(32, 64, 4), nn.Conv2d(64, 64, 3))


def nature_cnn() -> nn.Module:
    """All of it, with nine actions."""
    return nn.Sequential(convolutions(), nn.Linear(3136, 512), nn.Linear(512, 9))


def simba(members: int, inputs: int, width: int, blocks: int, outputs: int) -> nn.Module:
    """The weights of SimBa: input layer, residual blocks width -> 4 width -> width, head."""
    shapes = [(inputs, width), *blocks * [(width, 4 * width), (4 * width, width)], (width, outputs)]
    return nn.Sequential(*(Stacked(members, d_in, d_out) for d_in, d_out in shapes))


CASES: dict[str, Callable[[], nn.Module]] = {
    "Nature CNN, 3 convolutions": convolutions,
    "Nature CNN, all 5 layers": nature_cnn,
    "SimBa actor": lambda: simba(1, 51, 128, 1, 19),
    "SimBa twin critics": lambda: simba(2, 70, 512, 2, 1),
}


def measure(
    build: Callable[[], nn.Module], device: torch.device, repetitions: int, with_exact: bool = True
) -> dict[str, list[float]]:
    """Milliseconds per repetition: the loop, the batched projection, a call with its report, the exact."""
    initial = build().to(device)
    times: dict[str, list[float]] = {"loop": [], "batched": [], "call": [], "exact": []}
    for _ in range(repetitions + 1):
        looped, batched, exact = (copy.deepcopy(initial) for _ in range(3))
        start = now(device)
        fire_by_loop(looped)
        middle = now(device)
        report = fire_(batched)
        end = now(device)
        times["loop"].append(1e3 * (middle - start))
        times["batched"].append(1e3 * report.seconds)
        times["call"].append(1e3 * (end - middle))
        if with_exact:
            times["exact"].append(1e3 * fire_(exact, solver="exact").seconds)
        for by_loop, by_batch in zip(looped.parameters(), batched.parameters(), strict=True):
            torch.testing.assert_close(by_batch, by_loop, atol=1e-5, rtol=0)
    return {name: values[1:] for name, values in times.items()}  # the first repetition warms up


def floor_ms(module: nn.Module, device: torch.device) -> float:
    """Milliseconds of the products of ten steps alone, at the speed that a large product has.

    X ← 1.5 X − 0.5 X XᵀX costs 4 k² l operations on a (k, l) matrix, k ≤ l.
    """
    operations = 0.0
    for weight in (tensor for tensor in module.parameters() if tensor.ndim > 1):
        is_convolution = weight.ndim == 4
        short, long = sorted(weight.shape[:2] if is_convolution else weight.shape[-2:])
        operations += 10 * 4.0 * short**2 * long * (weight.numel() // (short * long))
    size = 1_024 if device.type == "cpu" else 8_192
    a, out = torch.randn(size, size, device=device), torch.empty(size, size, device=device)
    times = []
    for _ in range(5):
        start = now(device)
        torch.mm(a, a, out=out)
        times.append(now(device) - start)
    return 1e3 * operations / (2.0 * size**3 / min(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=positive, default=15)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = False  # for the loop; fire_ sees to it itself
    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    for device in devices:
        print(f"{machine(device)}; median of {options.repetitions}\n")
        columns = ("weights", "loop, ms", "batched, ms", "speed-up", "best / best", "floor, ms")
        print(f"| {' | '.join((*columns, '`exact`, ms', 'whole call, ms'))} |")
        print(8 * "|---" + "|")
        for name, build in CASES.items():
            times = measure(build, device, options.repetitions)
            ms = {key: statistics.median(values) for key, values in times.items()}
            best = min(times["loop"]) / min(times["batched"])  # which a busy machine distorts least
            print(
                f"| {name} | {ms['loop']:.1f} | {ms['batched']:.1f} | {ms['loop'] / ms['batched']:.1f}× "
                f"| {best:.1f}× | {floor_ms(build(), device):.1f} | {ms['exact']:.1f} | {ms['call']:.1f} |",
                flush=True,
            )
        print()


if __name__ == "__main__":
    main()
