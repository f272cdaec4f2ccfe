"""A SLURM of files for tests: as ``sbatch``, ``squeue`` or ``scancel`` it starts, lists, ends jobs.

A job is a process group of its own; what is known of it lies in a folder, a few files by number.
"""

from __future__ import annotations

import contextlib
import json
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


def jobs(folder: Path) -> dict[str, dict[str, str]]:
    """Return what is known of every job, by number."""
    found = {}
    for path in sorted(folder.glob("*.job"), key=lambda path: int(path.stem)):
        job = json.loads(path.read_text())
        found[path.stem] = job | {"state": _state(path)}
    return found


def end(folder: Path, number: str, state: str) -> None:
    """Let a job end in a state: its process is told, as by SLURM, with SIGTERM."""
    (folder / f"{number}.state").write_text(state)
    _signal(folder / f"{number}.job", signal.SIGTERM)


def kill_all(folder: Path) -> None:
    """Leave no process of any job, of those that are over neither."""
    for path in folder.glob("*.job"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(json.loads(path.read_text())["pid"], signal.SIGKILL)


def _signal(path: Path, number: int) -> None:
    if not path.with_suffix(".over").exists():
        with contextlib.suppress(ProcessLookupError):  # it ends at this moment
            os.killpg(json.loads(path.read_text())["pid"], number)


def _state(path: Path) -> str:
    if not path.with_suffix(".over").exists():
        return "RUNNING"
    if path.with_suffix(".state").exists():
        return path.with_suffix(".state").read_text()
    return "FAILED" if int(path.with_suffix(".over").read_text()) else "COMPLETED"


def _sbatch(folder: Path, arguments: list[str]) -> None:
    options = {}
    while arguments[0].startswith("-"):
        key, _, value = arguments.pop(0).lstrip("-").partition("=")
        options[key] = value
    if options.get("partition") == "closed":
        sys.exit("sbatch: error: invalid partition specified: closed")
    limit = folder / "limit"
    at_work = [number for number, job in jobs(folder).items() if job["state"] == "RUNNING"]
    if limit.exists() and len(at_work) >= int(limit.read_text()):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    number = 1
    while True:
        try:
            with (folder / f"{number}.number").open("x"):
                break
        except FileExistsError:
            number += 1
    # The script is copied, as SLURM does: dask-jobqueue removes its own at once.
    script = folder / f"{number}.sh"
    script.write_bytes(Path(arguments[0]).read_bytes())
    log = options.get("output", str(folder / f"{number}.log")).replace("%%", "%")
    read, write = os.pipe()
    if os.fork() == 0:
        _keep(folder / f"{number}.job", script, arguments[1:], options, log, write)
    os.close(write)
    os.read(read, 1)  # the job is known before its number is
    print(number if "parsable" in options else f"Submitted batch job {number}")


def _keep(
    path: Path, script: Path, arguments: list[str], options: dict[str, str], log: str, write: int
) -> None:
    """Start the job, wait for its end and note it."""
    os.setsid()
    with Path(log).open("ab") as out, Path(os.devnull).open("rb") as nothing:
        for descriptor, file in ((0, nothing), (1, out), (2, out)):
            os.dup2(file.fileno(), descriptor)
        process = subprocess.Popen(["/bin/sh", script, *arguments], start_new_session=True)
    name = options.get("job-name") or options.get("J") or script.name
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"pid": process.pid, "name": name, "options": options}))
    beside.rename(path)
    os.close(write)
    code = process.wait()
    path.with_suffix(".over").write_text(str(code))
    os._exit(0)


def _squeue(folder: Path) -> None:
    if (folder / "down").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
    for number, job in jobs(folder).items():
        print(f"{number}|{job['state']}|{job['name']}")


def main(tool: str, folder: Path, arguments: list[str]) -> None:
    """Do what a command of SLURM does."""
    if tool == "sbatch":
        _sbatch(folder, arguments)
    elif tool == "squeue":
        _squeue(folder)
    else:
        for number in arguments:
            end(folder, number, "CANCELLED")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
