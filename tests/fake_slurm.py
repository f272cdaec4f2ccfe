"""A SLURM of files for tests: ``sbatch`` starts a job, ``scancel`` ends it, ``squeue`` lists some.

A job is a process group of its own, described by a few files in a folder, named by its number. Of
the options in a script, the begin and the partition count.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

TOOLS = ("sbatch", "squeue", "scancel")


def install(folder: Path) -> Path:
    """Write the three commands into a folder of their own, and return it for the PATH."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for tool in TOOLS:
        # Without site: a start costs a tenth.
        program = f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" {tool} "{folder}" "$@"\n'
        (programs / tool).write_text(program)
        (programs / tool).chmod(0o755)
    return programs


def jobs(folder: Path) -> dict[str, str]:
    """Return the state of every job, by number."""
    return {
        path.stem: _state(path) for path in sorted(folder.glob("*.job"), key=lambda p: int(p.stem))
    }


def end(folder: Path, number: str, state: str) -> None:
    """Let a job end in a state; SLURM sends SIGTERM."""
    path = folder / f"{number}.job"
    if path.exists() and not path.with_suffix(".over").exists():
        _write(path.with_suffix(".state"), state)
        with contextlib.suppress(ProcessLookupError):  # it ends at this moment
            os.killpg(int(path.read_text()), signal.SIGTERM)


def kill_all(folder: Path) -> None:
    """End every process of any job."""
    for path in folder.glob("*.job"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def _state(path: Path) -> str:
    if not path.with_suffix(".over").exists():
        return "RUNNING"
    if path.with_suffix(".state").exists():
        return path.with_suffix(".state").read_text()
    return "FAILED" if int(path.with_suffix(".over").read_text()) else "COMPLETED"


def _sbatch(folder: Path, arguments: list[str]) -> None:
    script = Path(arguments[-1]).read_text()
    options = [line.split(maxsplit=1)[1] for line in script.splitlines() if "#SBATCH" in line]
    if "-p closed" in options:
        sys.exit("sbatch: error: invalid partition specified: closed")
    number = _new_number(folder)
    # The script is copied, as SLURM does: dask-jobqueue removes its own at once.
    copy = folder / f"{number}.sh"
    copy.write_text(script)
    read, write = os.pipe()
    if os.fork() == 0:
        _keep(folder / f"{number}.job", copy, options, write)
    os.close(write)
    os.read(read, 1)  # the job is known before its number is
    print(f"Submitted batch job {number}")


def _new_number(folder: Path) -> int:
    """Take a number, unless too many jobs are at work; one caller at a time."""
    with (folder / "numbers").open("a+") as numbers:
        fcntl.flock(numbers, fcntl.LOCK_EX)
        numbers.seek(0)
        taken = numbers.read().count("\n")
        limit = folder / "limit"
        over = len(list(folder.glob("*.over")))
        if limit.exists() and taken - over >= int(limit.read_text()):
            sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
        numbers.write("taken\n")
    return taken + 1


def _keep(path: Path, script: Path, options: list[str], write: int) -> None:
    """Start the job, wait for its end and note it."""
    os.setsid()
    with path.with_suffix(".log").open("ab") as out, Path(os.devnull).open("rb") as nothing:
        for descriptor, file in ((0, nothing), (1, out), (2, out)):
            os.dup2(file.fileno(), descriptor)
    begin = next((o.partition("+")[2] for o in options if o.startswith("--begin=now+")), "0")
    command = ["/bin/sh", "-c", f"sleep {begin}; exec bash {script}"]
    process = subprocess.Popen(command, start_new_session=True)
    _write(path, str(process.pid))
    os.close(write)
    code = process.wait()
    _write(path.with_suffix(".over"), str(code))
    os._exit(0)


def _write(path: Path, text: str) -> None:
    """Write a file that others read at any moment: it is there whole or not at all."""
    beside = path.with_name(f"{path.name}.new.{os.getpid()}")
    beside.write_text(text)
    beside.rename(path)


def main(tool: str, folder: Path, arguments: list[str]) -> None:
    """Execute a command of SLURM."""
    if tool == "sbatch":
        _sbatch(folder, arguments)
    elif tool == "scancel":
        for number in arguments:
            end(folder, number, "CANCELLED")
    else:
        states = jobs(folder)
        wanted = arguments[arguments.index("--jobs") + 1].split(",")
        print("\n".join(number for number in wanted if states.get(number) == "CANCELLED"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
