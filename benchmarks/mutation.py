"""Would the tests notice? Small faults are put into the code one at a time, and the tests that reach it are run.

    python benchmarks/mutation.py diffusion --count 60 --seed 0 --output mutation-diffusion.json

One pytest session runs the room's tests once and notes which functions each test calls. Then, for every mutant, the
process forks; the child swaps the code of one function in memory and runs the tests that call it, the fastest first,
until one fails. A mutant is killed by a failing test or by running for `--timeout` seconds, and survives otherwise.

Mutants are drawn at random, with a seed, from all places inside functions: a comparison, an arithmetic or boolean
operator, a number, a condition, a sign, or a call of min or max is changed. Text of messages is left out: a message may
be reworded without a test that fails. So are defaults of parameters and constants of modules, which are no function's
code.
"""

import argparse
import ast
import copy
import gc
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "registry": ("ediffi/registry", ["tests/registry", "tests/diffusion", "tests/pipeline/test_stage.py"]),
    "diffusion": ("ediffi/diffusion", ["tests/diffusion", "tests/pipeline", "tests/training/test_stage.py"]),
    "pipeline": ("ediffi/pipeline", ["tests/pipeline", "tests/diffusion", "tests/hub/test_load.py"]),
    "training": ("ediffi/training", ["tests/training"]),
}
"""Where a room's code is, and the tests that should notice a fault in it."""

COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass
class Mutant:
    """A fault: where it is, what it changes, and what became of it."""

    file: str
    line: int
    function: str
    before: str
    after: str
    outcome: str = ""
    by: str = ""
    seconds: float = 0.0


def mutations(node: ast.AST) -> Iterator[ast.AST]:
    """Every changed copy of one node; the node's children are visited on their own."""
    new: Any
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new = copy.deepcopy(node)
        new.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield new
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        if not (isinstance(node, ast.BinOp) and any(isinstance(s, ast.JoinedStr) for s in (node.left, node.right))):
            new = copy.deepcopy(node)
            new.op = OPERATORS[type(node.op)]()
            yield new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.copy_location(ast.Constant(node.value + 1 if type(node.value) is int else node.value * 2 + 1), node)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.copy_location(ast.Constant(not node.value), node)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        new = copy.deepcopy(node)
        new.test = ast.copy_location(ast.UnaryOp(ast.Not(), new.test), new.test)
        yield new
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        new = copy.deepcopy(node)
        new.func.id = {"min": "max", "max": "min"}[node.func.id]
        yield new


def places(tree: ast.Module) -> Iterator[tuple[str, list[tuple[ast.AST, str, int | None]]]]:
    """Every node inside a function, with its function's name and the way to it from the module."""

    def visit(node: ast.AST, name: str, inside: bool, way: list[tuple[ast.AST, str, int | None]]) -> Iterator[Any]:
        if isinstance(node, ast.Raise | ast.Assert) or (isinstance(node, ast.Expr) and is_text_or_log(node.value)):
            return
        if inside:
            yield name, way
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
                if field != "args" or not isinstance(node, ast.FunctionDef | ast.Lambda):
                    continue
                continue
            for index, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                    continue
                step = (node, field, index if isinstance(value, list) else None)
                if isinstance(child, ast.FunctionDef | ast.ClassDef) and not inside:
                    function = isinstance(child, ast.FunctionDef)
                    yield from visit(child, f"{name}.{child.name}".strip("."), function, [*way, step])
                else:
                    yield from visit(child, name, inside, [*way, step])

    yield from visit(tree, "", False, [])


def is_text_or_log(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return True
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "logger"


def node_at(way: list[tuple[ast.AST, str, int | None]]) -> ast.AST:
    parent, field, index = way[-1]
    value = getattr(parent, field)
    return value if index is None else value[index]


def mutants(folder: Path) -> list[tuple[Mutant, CodeType]]:
    """All mutants of a folder, each with its module's changed code."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for name, way in list(places(tree)):
            if len(way) < 2:
                continue
            node = node_at(way)
            for changed in mutations(node):
                parent, field, index = way[-1]
                value = getattr(parent, field)
                if index is None:
                    setattr(parent, field, changed)
                else:
                    value[index] = changed
                code = compile(ast.fix_missing_locations(tree), str(path), "exec")
                before, after = (
                    ast.unparse(n.test if isinstance(n, ast.If | ast.While) else n) for n in (node, changed)
                )
                line = getattr(node, "lineno", 0)
                found.append((Mutant(str(path.relative_to(ROOT)), line, name, before[:90], after[:90]), code))
                if index is None:
                    setattr(parent, field, node)
                else:
                    value[index] = node
    return found


def code_of(module: CodeType, name: str) -> CodeType | None:
    """The code of a function inside a module's code."""
    code = module
    for part in name.split("."):
        inner = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part]
        if not inner:
            return None
        code = inner[-1]
    return code


class Plugin:
    """Runs the tests once under a profile, then the mutants, each in a process of its own."""

    def __init__(self, folder: Path, count: int, seed: int, timeout: float) -> None:
        self.folder, self.count, self.seed, self.timeout = folder, count, seed, timeout
        self.calls: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.seconds: dict[int, float] = {}
        self.failed: set[int] = set()
        self.mutants: list[Mutant] = []
        self.number = 0

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(self.folder)):
            self.calls[code.co_filename, code.co_name].add(self.number)

    def protocol(self, session: pytest.Session, item: pytest.Item) -> None:
        """Run a test, also for a second time; with the session as what comes next, session fixtures stay."""
        item._initrequest()  # type: ignore[attr-defined]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=session)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(self.number)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        import torch

        torch.set_num_threads(1)
        for number, item in enumerate(session.items):
            self.number, begin = number, time.monotonic()
            sys.setprofile(self.profile)
            self.protocol(session, item)
            sys.setprofile(None)
            self.seconds[number] = time.monotonic() - begin
        print(
            f"\n{len(session.items)} tests in {sum(self.seconds.values()):.0f} s, {len(self.failed)} failed", flush=True
        )
        self.control(session)
        drawn = mutants(self.folder)
        random.Random(self.seed).shuffle(drawn)
        print(f"{len(drawn)} mutants, {self.count} drawn", flush=True)
        for mutant, module in drawn[: self.count]:
            self.judge(session, mutant, module)
            self.mutants.append(mutant)
            print(f"{len(self.mutants):4} {mutant.outcome:9} {mutant.seconds:5.0f} s  {mutant.file}:{mutant.line} "
                  f"{mutant.function}: {mutant.before} -> {mutant.after}", flush=True)  # fmt: skip
        return True

    def control(self, session: pytest.Session) -> None:
        """Unchanged code passes a second time, in a forked process, or the test is no judge."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            self.failed.clear()
            for number in range(len(session.items)):
                self.number = number
                self.protocol(session, session.items[number])
            os.write(writing, json.dumps(sorted(self.failed)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        self.failed |= set(json.loads(os.read(reading, 1 << 16) or "[]"))
        os.close(reading)
        print(f"{len(self.failed)} tests are left out: they fail, or fail when they run twice", flush=True)

    def judge(self, session: pytest.Session, mutant: Mutant, module: CodeType) -> None:
        key = (str(ROOT / mutant.file), mutant.function.rpartition(".")[2])
        numbers = sorted(self.calls.get(key, set()) - self.failed, key=lambda n: self.seconds[n])
        begin = time.monotonic()
        if not numbers:
            mutant.outcome = "uncovered"
            return
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            self.run(session, mutant, module, numbers, writing)
        os.close(writing)
        while time.monotonic() - begin < self.timeout:
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            time.sleep(0.05)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            mutant.by = "timeout"
        mutant.by = mutant.by or os.read(reading, 1000).decode()
        os.close(reading)
        mutant.outcome = "killed" if mutant.by not in ("", "-", "?") else {"?": "unmade"}.get(mutant.by, "survived")
        mutant.seconds = time.monotonic() - begin

    def run(self, session: pytest.Session, mutant: Mutant, module: CodeType, numbers: list[int], out: int) -> None:
        """In the child: put the mutant in, run the tests, write the name of the first that fails, and end."""
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        code, file, result = code_of(module, mutant.function), str(ROOT / mutant.file), "?"
        for function in [o for o in gc.get_objects() if isinstance(o, FunctionType)]:
            old = function.__code__
            same = old.co_filename == file and old.co_qualname == mutant.function
            if code and same and old.co_freevars == code.co_freevars:
                function.__code__, result = code, "-"
        if result == "-":
            self.failed.clear()
            for number in numbers:
                self.number, item = number, session.items[number]
                try:
                    self.protocol(session, item)
                except BaseException:  # a session that a mutant stops is noticed too
                    self.failed.add(number)
                if self.failed:
                    result = item.nodeid
                    break
        os.write(out, result.encode())
        os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--count", type=int, default=60, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a mutant's tests may take")
    parser.add_argument("--output", type=Path, help="a JSON file for the mutants and what became of them")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    folder, tests = ROOMS[options.room]
    plugin = Plugin(ROOT / folder, options.count, options.seed, options.timeout)
    pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[plugin])
    counted = [m for m in plugin.mutants if m.outcome != "unmade"]
    killed = [m for m in counted if m.outcome == "killed"]
    for mutant in counted:
        if mutant.outcome != "killed":
            print(f"{mutant.outcome}: {mutant.file}:{mutant.line} {mutant.function}: {mutant.before} -> {mutant.after}")
    print(f"{options.room}: {len(killed)} of {len(counted)} mutants killed ({len(killed) / max(1, len(counted)):.1%})")
    if options.output:
        content = {"room": options.room, "seed": options.seed, "mutants": [asdict(m) for m in plugin.mutants]}
        options.output.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
