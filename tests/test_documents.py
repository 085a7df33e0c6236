"""The pages match the code: links, paths, settings, routes, reasons, values and the tour."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

import backend
from sef import failpoints
from sef.config import Settings, variable
from sef.db.tables import metadata
from sef.failover.signal_answers import Action
from sef.simulator.process import ensure_running, find_running
from sef.terms import (
    TRANSITIONS,
    CutoverStatus,
    Flag,
    Goal,
    IncidentKind,
    IncidentStatus,
    Mode,
    ReplicaStatus,
    ReplicaType,
    SignalType,
    StepKind,
    StepStatus,
)
from smart_emergency_fallback import SmartEmergencyFallback
from tests.harness import client_of
from tests.private_server import free_port
from tests.waiting import LIMIT, until

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {"var", "node_modules"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in NOT_OURS for part in path.relative_to(ROOT).parts)
)
SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "sef").rglob("*.py")])

README = (ROOT / "README.md").read_text()
API = (ROOT / "docs/api.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
DATABASE = (ROOT / "docs/database.md").read_text()
GLOSSARY = (ROOT / "docs/glossary.md").read_text()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def section(page: str, heading: str) -> str:
    """Return the text under a heading, up to the next heading of its level or above."""
    level = heading.split(" ")[0]
    _, separator, rest = page.partition(f"\n{heading}\n")
    assert separator, f"no heading {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """Return the names in backticks in the first column of the tables."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


# Links and paths


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"no file {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_in_a_page_exists(page: Path) -> None:
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - NOT_OURS
    for text in re.findall(r"`([\w./-]+)`", page.read_text()):
        has_suffix = re.search(r"\.(py|md|sql|toml|txt|lua|sh|html|js|css|yml|service)$", text)
        if has_suffix or ("/" in text.strip("/") and text.split("/")[0] in tops):
            assert (ROOT / text).exists() or (page.parent / text).exists(), f"no {text}"


def test_every_decision_is_listed_under_its_title() -> None:
    folder = ROOT / "docs/decisions"
    listed = re.findall(r"\[(.+?)\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())
    records = {path.name: path.read_text() for path in sorted(folder.glob("[0-9]*.md"))}
    assert [file for _, file in listed] == list(records)
    for title, file in listed:
        number = int(file[:4])
        text = records[file]
        assert text.startswith(f"# {number}. {title}\n"), file
        assert re.search(r"^Status: (accepted|superseded by )", text, re.MULTILINE), file
        assert len(text.splitlines()) <= 25, f"{file} is too long for a record"
    assert [int(file[:4]) for _, file in listed] == list(range(1, len(listed) + 1))


# docs/configuration.md


def shown(default: object) -> str:
    if default is None:
        return "unset"
    if default == "":
        return "empty"
    if isinstance(default, StrEnum):
        return f"`{default.value}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def setting_rows() -> list[str]:
    """Return the table of docs/configuration.md; `python -m tests.test_documents` prints it."""
    options = {param.name: f"`{param.opts[0]}`" for param in backend.serve.params}
    return [
        f"| `{variable(name)}` | {options.get(name, '')} | {shown(field.default)} | "
        f"{field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def test_the_configuration_page_has_exactly_the_settings() -> None:
    rows = [line for line in CONFIGURATION.splitlines() if line.startswith("| `SEF_")]
    assert rows == setting_rows()


def test_every_setting_in_a_page_exists() -> None:
    known = {variable(name) for name in Settings.model_fields}
    for page in PAGES:
        named = set(re.findall(r"\bSEF_[A-Z_]*[A-Z]\b", page.read_text()))
        assert named <= known | {"SEF_PRT", failpoints.VARIABLE}, name_of(page)


# docs/api.md


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return backend.create_app(Settings(var=tmp_path_factory.mktemp("var"), run_jobs=False))


def test_the_api_page_has_exactly_the_routes(app: Any) -> None:
    documented = set(re.findall(r"^### `([A-Z]+) (/[^` ]*)`$", API, re.MULTILINE))
    routes = set()
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        path = re.sub(r"<(agent_id|string):\w+>", "<id>", rule.rule)
        choice = re.search(r"<any\((.+?)\):\w+>", path)
        words = re.findall(r"[\w-]+", choice[1]) if choice else [""]
        for word in words:
            expanded = path.replace(choice[0], word) if choice else path
            routes |= {(method, expanded) for method in rule.methods - {"HEAD", "OPTIONS"}}
    assert documented == routes


REASON_ARGUMENTS = {
    "Refused": (0, ""),
    "ModeConflict": (0, ""),
    "Conflict": (0, ""),
    "__init__": (1, ""),
    "error_answer": (1, ""),
    "parse_identifier": (1, "invalid_"),
    "parse_instant": (1, "invalid_"),
    "instant_argument": (0, "invalid_"),
    "_whole_number": (0, "invalid_"),
    "required_field": (1, "missing_"),
}
"""By function: the position of the argument that becomes a reason, and the prefix of the reason."""


def reasons_in_the_code() -> set[str]:
    reasons = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                place, prefix = REASON_ARGUMENTS.get(name, (99, ""))
                for argument in node.args[place : place + 1]:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        reasons.add(prefix + argument.value)
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "lengths":
                # The fields of an agent, each with its maximum length.
                assert isinstance(node.value, ast.Dict)
                reasons |= {f"invalid_{ast.literal_eval(key)}" for key in node.value.keys if key}
    return {reason for reason in reasons if re.fullmatch(r"[a-z_]+", reason)}


FROM_FLASK = {"not_found", "method_not_allowed", "request_entity_too_large"}


def test_the_api_page_has_exactly_the_reasons() -> None:
    text = section(API, "## Reasons")
    documented = set(first_cells(text))
    in_process_only = {"unknown_data_type", "connection_in_use", "invalid_csv"}
    assert documented == reasons_in_the_code() - in_process_only | FROM_FLASK
    assert in_process_only <= set(re.findall(r"`(\w+)`", text))


def test_every_reason_of_a_call_is_in_the_table() -> None:
    documented = set(first_cells(section(API, "## Reasons")))
    calls = API.partition("\n## Reasons\n")[0]
    named = re.findall(r"\bReasons?\b[^:.]*: .*?(?=\n\n)", calls, re.DOTALL)
    assert named
    for text in named:
        assert set(re.findall(r"`([a-z_]+)`", text)) <= documented


def test_errors_of_flask_have_the_reasons_and_statuses_of_the_page(app: Any) -> None:
    client = app.test_client()
    answers = {
        "not_found": client.get("/nowhere"),
        "method_not_allowed": client.delete("/healthz"),
        "request_entity_too_large": client.post(
            "/api/pricing/batch", data=b" " * (8 * 1024 * 1024 + 1)
        ),
    }
    table = section(API, "## Reasons")
    for reason, answer in answers.items():
        assert answer.json["reason"] == reason
        assert f"| `{reason}` | {answer.status_code} |" in table
    assert set(answers) == FROM_FLASK


def test_the_api_page_has_exactly_the_actions_flags_and_events() -> None:
    signals = section(API, "### `POST /api/agents/<id>/interruption`")
    actions = signals.partition("| action |")[2]
    assert first_cells(actions) == [action.value for action in Action]
    assert first_cells(section(API, "### Data quality")) == [flag.value for flag in Flag]

    events = set(first_cells(section(API, "### `GET /api/agents/<id>/events`")))
    text = "\n".join(source.read_text() for source in SOURCES)
    literal = set(re.findall(r"Event\(\s*\"(\w+)\"", text))
    derived = {f"replica_{status.value}" for status in ReplicaStatus}
    derived |= {signal_type.value.replace("-", "_") for signal_type in SignalType}
    chosen = {"switchover_completed", "failover_completed", "signal_ignored"}
    assert all(f'"{name}"' in text for name in chosen)
    assert events == literal | derived | chosen


def test_the_api_page_has_exactly_the_public_methods() -> None:
    rows = first_cells(section(API, "## In Python"))
    documented = {re.match(r"\w+", row)[0] for row in rows}  # type: ignore[index]
    public = {name for name in vars(SmartEmergencyFallback) if not name.startswith("_")}
    assert documented == public | {"settings", "SmartEmergencyFallback", "integrate_with_backend"}


# docs/glossary.md


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("### Modes of an agent", Mode),
        ("### Status of a replica", ReplicaStatus),
        ("### Type of a replica", ReplicaType),
        ("### Kind of an incident", IncidentKind),
        ("### Status of an incident", IncidentStatus),
        ("### Goal of an incident", Goal),
        ("### Status of a cutover", CutoverStatus),
        ("### Status of a cutover step", StepStatus),
        ("### Kind of a cutover step", StepKind),
    ],
    ids=lambda value: value.strip("# ") if isinstance(value, str) else "",
)
def test_a_table_of_the_glossary_has_exactly_the_values_of_its_enum(
    heading: str, values: type[StrEnum]
) -> None:
    assert first_cells(section(GLOSSARY, heading)) == [value.value for value in values]


def test_every_table_of_values_in_the_glossary_is_tested() -> None:
    headings = re.findall(r"^### .+$", section(GLOSSARY, "## Status values"), re.MULTILINE)
    [parameters] = [
        mark.args[1]
        for mark in test_a_table_of_the_glossary_has_exactly_the_values_of_its_enum.pytestmark
    ]
    assert headings == [heading for heading, _ in parameters]


# docs/architecture.md


def test_the_architecture_page_has_every_package_and_every_file_at_the_top() -> None:
    named = set(re.findall(r"\bsef/[\w/]+(?:\.py)?", ARCHITECTURE))
    packages = {name_of(path.parent) for path in SOURCES if path.name == "__init__.py"} - {"sef"}
    top = {name_of(path) for path in (ROOT / "sef").glob("*.py")} - {"sef/__init__.py"}
    assert packages | top <= named


def test_the_database_page_has_every_table_and_no_other() -> None:
    assert set(first_cells(section(DATABASE, "## Tables"))) == set(metadata.tables)


def test_the_architecture_page_has_every_status_of_replicas_and_incidents() -> None:
    for heading, statuses in (("A replica", ReplicaStatus), ("An incident", IncidentStatus)):
        assert first_cells(section(ARCHITECTURE, f"### {heading}")) == [s.value for s in statuses]


def state_diagram() -> str:
    """Render the transitions of a replica; `python -m tests.test_documents` prints the diagram."""
    old, new = {old for old, _ in TRANSITIONS}, {new for _, new in TRANSITIONS}
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status}" for status in ReplicaStatus if status not in new]
    lines += [f"    {old} --> {new}: {cause}" for (old, new), cause in TRANSITIONS.items()]
    lines += [f"    {status} --> [*]" for status in ReplicaStatus if status not in old]
    return "\n".join(lines)


def test_the_state_diagram_is_rendered_from_the_transitions() -> None:
    assert f"```mermaid\n{state_diagram()}\n```" in ARCHITECTURE


# README.md


def test_the_readme_lists_exactly_the_permissions_of_the_calls() -> None:
    source = "".join(path.read_text() for path in (ROOT / "sef/cloud").glob("*.py"))
    called = {
        "ec2": r"(?:client|_ec2)\.((?!meta|get_)\w+)\(",
        "elasticloadbalancing": r"\.elbv2\.(\w+)\(",
        "route53": r"\.route53\.(\w+)\(",
    }
    for service, pattern in called.items():
        calls = set(re.findall(pattern, source))
        if service == "ec2":
            calls |= set(re.findall(r"get_paginator\(\"(\w+)\"\)", source)) | {"create_tags"}
        actions = {"".join(word.capitalize() for word in call.split("_")) for call in calls}
        assert set(re.findall(rf"`{service}:(\w+)`", README)) == actions


VARIES = [
    r"i-[0-9a-f]{17}",
    r"(?:replica|incident)-[0-9a-f]{16}",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z",
    r"\"id\":\d+",
    r"\d+\.\d+s",
    r"\"failover_time_ms\":\d+",
    r"127\.0\.0\.1:\d+",
]
"""Patterns of values that differ in every run, in a text without spaces."""


def pattern_of(output: str) -> str:
    """Return the pattern of an output: as shown, apart from spaces, `…` and values that vary."""
    shown_text = re.sub(r"\s", "", output)
    pattern = ""
    for piece in re.split(f"({'|'.join([*VARIES, '…'])})", shown_text):
        kinds = [kind for kind in VARIES if re.fullmatch(kind, piece)]
        pattern += ".*?" if piece == "…" else kinds[0] if kinds else re.escape(piece)
    return pattern


def tour() -> Iterator[tuple[str, str]]:
    """Yield the commands of the README's console blocks, each with the output shown for it."""
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = entry.splitlines(keepends=True)
            command = lines.pop(0)
            while command.count("'") % 2:
                command += lines.pop(0)
            yield command.strip(), "".join(lines)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a running backend, with its port."""
    environment = os.environ | {
        "SEF_VAR": str(tmp_path),
        "SEF_PORT": str(free_port()),
        "SEF_SIMULATOR_PENDING_SECONDS": "5",  # on a slow machine too, it is launching when shown
        "SEF_ENABLE_WAIT_SECONDS": "60",
    }
    command = [sys.executable, "backend.py", "serve", "--port", environment["SEF_PORT"]]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: is_ready(environment["SEF_PORT"]) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield environment
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
        simulation = find_running(tmp_path)
        if simulation is not None:
            simulation.stop()


def is_ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=LIMIT) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_tour_of_the_readme_shows_the_real_output(server: dict[str, str]) -> None:
    commands = list(tour())
    assert len(commands) > 8
    for command, shown_output in commands:
        runnable = command.replace("127.0.0.1:5000", f"127.0.0.1:{server['SEF_PORT']}")
        runnable = runnable.replace(".venv/bin/python", f"'{sys.executable}'")
        runnable = re.sub(r"^curl ", "curl --noproxy '*' -sS ", runnable)
        ran = subprocess.run(
            ["bash", "-c", runnable],
            cwd=ROOT,
            env=server,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
        output = re.sub(r"\s", "", ran.stdout)
        assert re.fullmatch(pattern_of(shown_output), output), f"{command}\n{ran.stdout}"


def example_in(language: str) -> str:
    """Return the example in a language of the section about the simulated EC2 from outside."""
    guide = (ROOT / "docs/integration.md").read_text()
    section = guide.split("## The simulated EC2, from outside")[1].split("\n## ")[0]
    [block] = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[tuple[dict[str, str], str, str]]:
    """Yield the environment of a simulated EC2, its endpoint, and a running instance."""
    simulation = ensure_running(tmp_path, pending_seconds=0)
    try:
        environment = os.environ | {"SEF_VAR": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        client = client_of(simulation.endpoint)
        template = {"LaunchTemplateName": "sef-default"}
        answer = client.run_instances(LaunchTemplate=template, MinCount=1, MaxCount=1)
        yield environment, simulation.endpoint, answer["Instances"][0]["InstanceId"]
    finally:
        simulation.stop()


def output_of(command: list[str], environment: dict[str, str]) -> str:
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.skipif(shutil.which("aws") is None, reason="needs the aws command")
def test_the_aws_command_of_the_guide_reaches_the_simulated_ec2(simulated: Any) -> None:
    environment, _, instance_id = simulated
    commands = example_in("sh").replace(".venv/bin/python", f"'{sys.executable}'")
    output = output_of(["bash", "-ec", commands], environment)
    assert re.fullmatch(rf"{instance_id}\trunning\neipalloc-\w+\n", output)


def test_the_boto3_program_of_the_guide_reaches_the_simulated_ec2(simulated: Any) -> None:
    environment, endpoint, instance_id = simulated
    command = [sys.executable, "backend.py", "simulate", "endpoint"]
    assert output_of(command, environment) == f"{endpoint}\n"
    program = re.sub(r"http://127\.0\.0\.1:\d+", endpoint, example_in("python"))
    assert output_of([sys.executable, "-c", program], environment) == f"{instance_id} running\n"


if __name__ == "__main__":
    print("\n".join(setting_rows()))
    print(f"\n```mermaid\n{state_diagram()}\n```")
