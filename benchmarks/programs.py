"""What a compiled program does on each device, read from its text: collectives and products.

A compiled program is a list of computations that call each other. What stands in the body of a loop
is counted as often as the loop runs, which the compiler writes next to it where it knows; of the
branches of a condition, the largest count of each kind. Sizes are those of a device's own part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[\w-]+)\((?P<rest>.*)$"
)
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRUE_OR_FALSE = re.compile(r"\b(?:true|false)_computation=%?([\w.-]+)")
TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes


class Program(NamedTuple):
    """The computations of a program by name, and the one that it starts with."""

    computations: dict[str, list[Instruction]]
    entry: str


class Work(NamedTuple):
    """What a device does in one execution; collectives by kind."""

    flops: float  # of matrix products: a multiplication and an addition are two
    number: dict[str, int]
    bytes: dict[str, int]  # of the whole arrays, which a device has after a gather or a sum


def parse(text: str) -> Program:
    """Read the text of a compiled program (`jax.stages.Compiled.as_text`)."""
    computations: dict[str, list[Instruction]] = {}
    entry, lines = None, None
    for line in text.splitlines():
        if header := HEADER.match(line):
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif lines is not None and (found := INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))):
            lines.append(Instruction(**found.groupdict()))
    if entry is None:
        raise ValueError("text: expected a compiled program with an ENTRY, got none")
    return Program(computations, entry)


def work(text: str) -> Work:
    """Count the products and collectives of one execution of a compiled program.

    Raises:
        ValueError: where a loop that has any does not say how often it runs, or products hide in
            calls of a library.
    """
    program = parse(text)
    counts = _count(program, program.entry, {})

    def of(quantity: str) -> dict[str, int]:
        return {kind: counts[quantity, kind] for kind in COLLECTIVES if counts[quantity, kind]}

    return Work(counts["flops", "dot"], of("number"), of("bytes"))


def _count(program: Program, name: str, known: dict[str, Counter]) -> Counter:
    """Count what a computation does when it is called once; `known` keeps what was counted."""
    if name not in known:
        total: Counter = Counter()
        shapes = {line.name: line.shape for line in program.computations[name]}
        for line in program.computations[name]:
            total += _own(line, shapes)
            for times, called in _calls(line):
                parts = [_count(program, inner, known) for inner in called]
                most = Counter(
                    {key: max(part[key] for part in parts) for key in set().union(*parts)}
                )
                if most and times is None:
                    raise ValueError(f"text: expected loops of known length, got {line.name}")
                total += Counter({key: times * value for key, value in most.items()})
        known[name] = total
    return known[name]


def _calls(line: Instruction) -> Iterator[tuple[int | None, list[str]]]:
    """Yield how often an instruction calls one of these computations."""
    times: int | None = 1
    if line.opcode == "while":
        count = TRIP_COUNT.search(line.rest)
        times = int(count[1]) if count else None
    for called in CALLED.findall(line.rest):
        yield times, [called]
    listed = BRANCHES.search(line.rest)
    branches = re.findall(r"[\w.-]+", listed[1]) if listed else TRUE_OR_FALSE.findall(line.rest)
    if branches:
        yield times, branches


def _own(line: Instruction, shapes: dict[str, str]) -> Counter:
    """Count what an instruction does itself."""
    if line.opcode == "dot":
        return Counter({("flops", "dot"): _dot_flops(line, shapes)})
    hidden = line.opcode == "convolution" or (
        line.opcode == "custom-call" and re.search("matmul|dot|gemm|conv", line.rest)
    )
    if hidden or line.opcode.endswith("-start"):
        raise ValueError(f"text: expected products and collectives in the open, got {line.opcode}")
    if line.opcode not in COLLECTIVES:
        return Counter()
    kind = line.opcode
    size = num_bytes(line.shape)
    if kind == "reduce-scatter":  # what is added up, of which the result is a part
        size = sum(num_bytes(shapes[operand]) for operand in _operands(line))
    return Counter({("number", kind): 1, ("bytes", kind): size})


def _operands(line: Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", line.rest.split(")", 1)[0])


def _dot_flops(line: Instruction, shapes: dict[str, str]) -> float:
    [left] = dimensions(shapes[_operands(line)[0]])
    [result] = dimensions(line.shape)
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
    contracted = math.prod(left[int(axis)] for axis in axes[1].split(",") if axis) if axes else 1
    return 2.0 * math.prod(result) * contracted


def dimensions(shape: str) -> list[list[int]]:
    """Return the lengths of every array in the text of a shape, which may be a tuple."""
    return [[int(n) for n in sizes.split(",") if n] for _, sizes in SHAPE.findall(shape)]


def num_bytes(shape: str) -> int:
    """Return the bytes of all arrays in the text of a shape."""
    kinds = [kind for kind, _ in SHAPE.findall(shape)]
    return sum(
        BYTES[kind] * math.prod(sizes) for kind, sizes in zip(kinds, dimensions(shape), strict=True)
    )
