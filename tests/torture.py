"""Attack runs and commands for as long as one likes: `python -m tests.torture --rounds 20`.

Every attack is made on real processes of the command line, with a seed that is printed; what an
attack that succeeded left behind is kept, and its folder is printed too.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DONE, REFUSED = 0, 2
SIZES = (
    "--hidden-size 8 --intermediate-size 8 --num-layers 1 --num-heads 2 --context-length 8 "
    "--batch-size 4 --steps 60 --num-validation 6 --window-width 2 --distribution 5 "
    "--checkpoint-every 5 --checkpoints-kept 3"
)
REPRODUCE = ["reproduce", "random-features", "--preset", "smoke"]
ONE_LINE = 400  # characters; a traceback has more


@dataclass(frozen=True)
class Workshop:
    """A folder to work in, and what a run and a sweep are that nobody attacked.

    Attributes:
        folder: of this round alone.
        text: what networks learn.
        run: a finished run.
        sweep: a finished sweep.
        seconds: how long the run took.
        generator: of the moments and places of attacks.
    """

    folder: Path
    text: Path
    run: Path
    sweep: Path
    seconds: float
    generator: random.Random

    def train(self, out: Path) -> list[str]:
        """The command that makes the run again, in another folder."""
        return ["train", *shlex.split(SIZES), "--data", str(self.text), "--out", str(out)]


def lnpjax(arguments: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
    """Start the command line; Ctrl-C and closed pipes reach it as they would from a shell."""
    command = [sys.executable, "-m", "lnpjax", *arguments]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, preexec_fn=_default_signals, **piped)  # type: ignore[call-overload]


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def finish(process: subprocess.Popen[bytes], *allowed: int) -> str:
    """Wait, check the exit status, and return what was said on standard error."""
    _, err = process.communicate(timeout=600)
    said = (err or b"").decode(errors="replace")
    assert process.returncode in allowed, f"status {process.returncode}: {said[-2000:]}"
    assert "Traceback" not in said, said[-2000:]
    return said


def contents(run: Path) -> dict[str, bytes]:
    """What a run holds, except who writes to it, how fast it went, and the figures."""
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file()
        and file.name not in (".lock", "sessions.jsonl")
        and "figures" not in file.parts
    }


def same_rows(run: Path, workshop: Workshop) -> None:
    """Check that a run is bit for bit what it would have been."""
    for name in (
        "metrics.jsonl",
        *(f"spectra/{file.name}" for file in workshop.run.glob("spectra/*")),
    ):
        assert (run / name).read_bytes() == (workshop.run / name).read_bytes(), name


def kills(workshop: Workshop) -> str:
    """Kill a training at random moments, resume it each time, and let it end."""
    run, killed = workshop.folder / "killed", 0
    for _ in range(workshop.generator.randint(1, 4)):
        started = (run / "config.json").exists()
        process = lnpjax(["train", "--resume", str(run)] if started else workshop.train(run))
        time.sleep(workshop.generator.uniform(0, workshop.seconds))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    started = (run / "config.json").exists()
    finish(lnpjax(["train", "--resume", str(run)] if started else workshop.train(run)), DONE)
    same_rows(run, workshop)
    return f"{killed} kills"


def interrupts(workshop: Workshop) -> str:
    """Interrupt a training once or twice, and resume it."""
    run, twice = workshop.folder / "interrupted", workshop.generator.random() < 0.5
    process = lnpjax(workshop.train(run))
    while not run.exists() and process.poll() is None:
        time.sleep(0.01)  # Python itself prints a traceback for what it imports
    time.sleep(workshop.generator.uniform(0, workshop.seconds))
    for _ in range(1 + twice):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    finish(process, DONE, 128 + signal.SIGINT, -signal.SIGINT)
    started = (run / "config.json").exists()
    finish(lnpjax(["train", "--resume", str(run)] if started else workshop.train(run)), DONE)
    same_rows(run, workshop)
    return "twice" if twice else "once"


def flips(workshop: Workshop) -> str:
    """Flip one bit of a run that was killed before its end: it is found, or it does not matter."""
    run = shutil.copytree(workshop.run, workshop.folder / "flipped")
    shutil.rmtree(max((run / "checkpoints").glob("[0-9]*")))  # as killed before the last one
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and file.stat().st_size]
    kept = [file for file in files if "figures" not in file.parts and "spectra" not in file.parts]
    file = workshop.generator.choice(kept)
    content, bit = (
        bytearray(file.read_bytes()),
        workshop.generator.randrange(8 * file.stat().st_size),
    )
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    before = contents(run)
    process = lnpjax(["train", "--resume", str(run)])
    said = finish(process, DONE, REFUSED)
    where = f"bit {bit} of {file.relative_to(run)}"
    if process.returncode == DONE:
        same_rows(run, workshop)
        return (
            f"{where}: {'went on from another checkpoint' if 'going on' in said else 'no matter'}"
        )
    assert contents(run) == before, f"{where}: refused, and yet something has changed"
    assert len(said.strip().splitlines()[-1]) < ONE_LINE, said
    return f"{where}: refused"


def outputs(workshop: Workshop) -> str:
    """Close, fill or narrow the output of a training."""
    run = workshop.folder / "unread"
    kind = workshop.generator.choice(["| head -1", "> /dev/full", "> /dev/full 2>&1", "ascii"])
    command = [sys.executable, "-m", "lnpjax", *workshop.train(run)]
    environment = os.environ | (
        {"PYTHONIOENCODING": "ascii", "COLUMNS": "20"} if kind == "ascii" else {}
    )
    line = " ".join(command) + ("" if kind == "ascii" else f" {kind}")
    shell = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        env=environment,
        capture_output=True,
        timeout=600,
    )
    assert shell.returncode in (DONE, 128 + signal.SIGPIPE), (
        kind,
        shell.returncode,
        shell.stderr[-2000:],
    )
    assert b"Traceback" not in shell.stderr, shell.stderr[-2000:]
    same_rows(run, workshop)
    return kind


def sweeps(workshop: Workshop) -> str:
    """Kill a sweep, damage one of its units, and start it three times at once."""
    sweep = workshop.folder / "sweep"
    command = [*REPRODUCE, "--out", str(sweep)]
    process = lnpjax(command)
    time.sleep(workshop.generator.uniform(0, workshop.seconds))
    process.kill()
    process.communicate()
    units = sorted((sweep / "units").glob("*.jsonl"))
    if units:
        workshop.generator.choice(units).write_text('{"kind": "components", "chi_pos": 0.5}\n')
    racing = [lnpjax(command) for _ in range(3)]
    for process in racing:
        finish(process, DONE, REFUSED)
    finish(lnpjax(command), DONE)
    assert (sweep / "results.jsonl").read_bytes() == (workshop.sweep / "results.jsonl").read_bytes()
    return f"{len(units)} units were done; {sum(p.returncode == DONE for p in racing)} of 3 ended"


ATTACKS: dict[str, Callable[[Workshop], str]] = {
    attack.__name__: attack for attack in (kills, interrupts, flips, outputs, sweeps)
}


def main() -> int:
    """Attack, and return 1 if an attack succeeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}")
    parser.add_argument("--rounds", type=int, default=5, help="of every attack")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options = parser.parse_args()
    unknown = set(options.attacks) - set(ATTACKS)
    if unknown:
        parser.error(f"ATTACK: expected some of {', '.join(ATTACKS)}, got {', '.join(unknown)}")
    base = Path(tempfile.mkdtemp(prefix="lnpjax-torture-"))
    print(f"seed {options.seed}, in {base}", flush=True)
    text, run, sweep = base / "counting.txt", base / "whole", base / "sweep"
    text.write_text(" ".join(str(number) for number in range(2000)))
    whole = Workshop(base, text, run, sweep, 0.0, random.Random(options.seed))
    began = time.monotonic()
    finish(lnpjax(whole.train(run)), DONE)
    seconds = time.monotonic() - began
    finish(lnpjax([*REPRODUCE, "--out", str(sweep)]), DONE)
    succeeded = 0
    for number in range(options.rounds):
        for name in options.attacks or ATTACKS:
            folder = base / f"{name}-{number}"
            folder.mkdir()
            generator = random.Random(f"{options.seed} {name} {number}")
            try:
                result = ATTACKS[name](Workshop(folder, text, run, sweep, seconds, generator))
            except Exception as error:  # whatever it is, the attack has succeeded
                succeeded += 1
                print(f"{name} {number}: SUCCEEDED, {folder}: {error!r}", flush=True)
            else:
                print(f"{name} {number}: {result}", flush=True)
                shutil.rmtree(folder)
    if not succeeded:
        shutil.rmtree(base)
    print(f"{succeeded} attacks succeeded", flush=True)
    return int(succeeded > 0)


if __name__ == "__main__":
    sys.exit(main())
