"""Profile a server and its workers with py-spy while they are measured."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.results import ROOT

HERTZ = 200
TOP = 20
_FRAME = re.compile(r"(?P<function>\S+) \((?P<file>[^:)]+)(?::\d+)?\)")


@dataclass
class Profiler:
    """Collect samples of one part over all its rounds, by what was measured."""

    folder: Path
    part: str
    _stacks: dict[str, Counter[str]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, pid: int, what: str) -> Iterator[None]:
        with tempfile.NamedTemporaryFile() as file:
            command = [_py_spy(), "record", "--pid", str(pid), "--subprocesses", "--gil"]
            command += ["--rate", str(HERTZ), "--format", "raw", "--output", file.name]
            watcher = subprocess.Popen(
                [*command, "--duration", "unlimited"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                time.sleep(1)  # py-spy has to find all processes and threads first
                yield
            finally:
                watcher.send_signal(signal.SIGINT)  # as Ctrl-C does: py-spy writes its samples
                _, errors = watcher.communicate()
            samples = self._stacks.setdefault(what, Counter())
            for line in Path(file.name).read_text().splitlines():
                stack, _, count = line.rpartition(" ")
                samples[stack] += int(count)
            if not samples:
                raise SystemExit(f"py-spy took no samples: {errors.strip()}")

    def write(self) -> Path | None:
        """Write a table for each thing that was measured; return None if there is none."""
        if not self._stacks:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.part}.profile.txt"
        tables = ["\n".join(_table(what, stacks)) for what, stacks in self._stacks.items()]
        path.write_text("\n\n".join(tables) + "\n")
        return path


def _py_spy() -> str:
    beside = Path(sys.executable).parent / "py-spy"
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        raise SystemExit("--profile needs py-spy: pip install -r bench/requirements.txt")
    return program


def _table(what: str, stacks: Counter[str]) -> Iterator[str]:
    own, within, libraries = Counter[str](), Counter[str](), Counter[str]()
    for stack, count in stacks.items():
        frames = [_frame(part) for part in stack.split(";") if _FRAME.search(part)]
        if not frames:
            continue
        own[frames[-1]] += count
        libraries[_library(stack)] += count
        for frame in set(frames):
            within[frame] += count
    total = own.total()
    yield f"{what}: {total} samples of threads that held the interpreter's lock"
    for title, counted in (
        ("by library", libraries),
        ("in the function itself", own),
        ("in it and all it calls", within),
    ):
        yield f"\n  {title}"
        for name, count in counted.most_common(TOP):
            yield f"  {count / total:6.1%}  {name}"


def _frame(text: str) -> str:
    frame = _FRAME.search(text)
    assert frame is not None
    return f"{frame['function']} ({_short(frame['file'])})"


def _short(file: str) -> str:
    return file.removeprefix(f"{ROOT}/").rpartition("site-packages/")[2]


def _library(stack: str) -> str:
    """Return the library, or the folder of SEF, of the innermost frame.

    Frames of the standard library are skipped.
    """
    files: Sequence[str] = [_short(frame["file"]) for frame in _FRAME.finditer(stack)]
    for file in reversed(files):
        top = file.split("/")[0]
        if top in ("sef", "backend.py", "smart_emergency_fallback.py"):
            return "/".join(file.split("/")[:2]) if top == "sef" else file
        if "/" in file and not file.startswith(("/", "<")) and top not in sys.stdlib_module_names:
            return top
    return "standard library"
