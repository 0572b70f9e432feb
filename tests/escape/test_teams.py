"""Another team's resources, through every endpoint of the control plane.

The list of routes below is compared with the router's: a new route fails `test_every_route_is_tried` until it is here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import HERE, Attempt, judge

import raw
from raw import api

ROUTER = HERE.parent.parent / "crates/api/src/router.rs"
DATA = Path(os.environ.get("CONFORMANCE_DATA_DIR", "."))
UNKNOWN = "i" + "0" * 20
PRIVATE_TEMPLATE = "escape" + "0" * 14
PRIVATE_BUILD = "e5cafe00-0000-4000-8000-000000000001"

# Method, path and body, with the same placeholders. Reading first, what destroys last: the control has to have something left.
ROUTES: list[tuple[str, str, object]] = [
    ("GET", "/health", None),
    ("GET", "/openapi.json", None),
    ("GET", "/sandboxes", None),
    ("GET", "/v2/sandboxes", None),
    ("GET", "/sandboxes/metrics?sandbox_ids={sandboxID}", None),
    ("GET", "/sandboxes/{sandboxID}", None),
    ("GET", "/sandboxes/{sandboxID}/logs", None),
    ("GET", "/v2/sandboxes/{sandboxID}/logs", None),
    ("GET", "/sandboxes/{sandboxID}/metrics", None),
    ("GET", "/sandboxes/{sandboxID}/network/contacts", None),
    ("GET", "/snapshots?sandboxID={sandboxID}", None),
    ("GET", "/templates", None),
    ("GET", "/templates?teamID={teamID}", None),
    ("GET", "/v2/templates", None),
    ("GET", "/v2/templates?teamID={teamID}", None),
    ("GET", "/default-templates", None),
    ("GET", "/template-catalogue?query={templateID}", None),
    ("GET", "/template-catalogue", None),
    ("GET", "/templates/aliases/{templateID}", None),
    ("GET", "/templates/{templateID}", None),
    ("GET", "/templates/{templateID}/files/{hash}", None),
    ("GET", "/templates/{templateID}/builds/{buildID}/status", None),
    ("GET", "/templates/{templateID}/builds/{buildID}/logs", None),
    ("GET", "/templates/{templateID}/diff?from=default&to={buildID}", None),
    ("GET", "/templates/{templateID}/export?build=default", None),
    ("GET", "/templates/{templateID}/tags", None),
    ("GET", "/templates/{templateID}/tags/count", None),
    ("GET", "/templates/{templateID}/tags/exists?tag=default", None),
    ("GET", "/templates/{templateID}/tags/groups", None),
    ("GET", "/templates/{templateID}/tags/{tag}/assignments", None),
    ("GET", "/teams", None),
    ("GET", "/teams/{teamID}/metrics", None),
    ("GET", "/teams/{teamID}/metrics/max?metric=concurrent_sandboxes", None),
    ("GET", "/api-keys", None),
    ("GET", "/secrets", None),
    ("GET", "/secrets/{secretID}", None),
    ("GET", "/volumes", None),
    ("GET", "/volumes/{volumeID}", None),
    ("GET", "/events/sandboxes", None),
    ("GET", "/events/sandboxes/{sandboxID}", None),
    ("GET", "/events/webhooks", None),
    ("GET", "/events/webhooks/{webhookID}", None),
    ("GET", "/events/webhooks/{webhookID}/deliveries", None),
    ("GET", "/nodes", None),
    ("GET", "/nodes/{nodeID}", None),
    ("GET", "/admin/sandboxes/running-counts", None),
    ("GET", "/admin/teams/{teamID}/retention", None),
    ("GET", "/instances", None),
    ("GET", "/instances/{rest}", None),
    ("GET", "/envs", None),
    ("GET", "/envs/{rest}", None),
    ("POST", "/sandboxes", {"templateID": "{templateID}"}),
    ("POST", "/v2/sandboxes", {"templateID": "{templateID}"}),
    ("POST", "/sandboxes/{sandboxID}/timeout", {"timeout": 77}),
    ("POST", "/sandboxes/{sandboxID}/refreshes", {"duration": 77}),
    ("POST", "/sandboxes/{sandboxID}/connect", {"timeout": 77}),
    ("POST", "/v2/sandboxes/{sandboxID}/connect", {"timeout": 77}),
    ("POST", "/sandboxes/{sandboxID}/pause", {}),
    ("POST", "/sandboxes/{sandboxID}/resume", {"timeout": 77}),
    ("POST", "/sandboxes/{sandboxID}/fork", {"memory": False}),
    ("POST", "/sandboxes/{sandboxID}/snapshots", {"memory": False}),
    ("PUT", "/sandboxes/{sandboxID}/network", {}),
    ("POST", "/sandboxes/{sandboxID}/urls", {"port": 8000}),
    ("POST", "/templates", {"dockerfile": "FROM x"}),
    ("POST", "/v2/templates", {"dockerfile": "FROM x"}),
    ("POST", "/v3/templates", {"name": "stolen", "teamID": "{teamID}"}),
    ("POST", "/templates/tags", {"target": "{templateID}:default", "tags": ["stolen"]}),
    ("POST", "/templates/{templateID}", {"dockerfile": "FROM x"}),
    ("POST", "/templates/{templateID}/builds/{buildID}", None),
    ("POST", "/v2/templates/{templateID}/builds/{buildID}", {"fromImage": "x"}),
    ("PATCH", "/templates/{templateID}", {"public": True}),
    ("PATCH", "/v2/templates/{templateID}", {"public": True}),
    ("POST", "/api-keys", {"name": "stolen"}),
    ("PATCH", "/api-keys/{apiKeyID}", {"name": "stolen"}),
    ("POST", "/access-tokens", {"name": "stolen"}),
    ("DELETE", "/access-tokens/{apiKeyID}", None),
    ("POST", "/secrets", {"name": "stolen", "value": "x"}),
    ("POST", "/secrets/{secretID}", {"value": "x"}),
    ("DELETE", "/secrets/{secretID}", None),
    ("POST", "/volumes", {"name": "stolen"}),
    ("DELETE", "/volumes/{volumeID}", None),
    ("POST", "/events/webhooks", {"name": "stolen", "url": "https://hooks.example/", "events": ["sandbox.lifecycle.created"], "signatureSecret": "x", "enabled": False}),
    ("PATCH", "/events/webhooks/{webhookID}", {"name": "stolen"}),
    ("DELETE", "/events/webhooks/{webhookID}", None),
    ("POST", "/nodes/{nodeID}", {"status": "draining"}),
    ("POST", "/admin/gc", {}),
    ("PUT", "/admin/teams/{teamID}/retention", {"pausedDays": 1, "snapshotDays": 1}),
    ("POST", "/admin/teams/{teamID}/api-keys", {"name": "stolen"}),
    ("POST", "/admin/teams/{teamID}/builds/cancel", None),
    ("DELETE", "/admin/teams/{teamID}/api-keys/{apiKeyID}", None),
    ("POST", "/admin/teams/{teamID}/sandboxes/kill", None),
    ("DELETE", "/templates/tags", {"name": "{templateID}", "tags": ["default"]}),
    ("DELETE", "/templates/{templateID}", None),
    ("DELETE", "/api-keys/{apiKeyID}", None),
    ("DELETE", "/sandboxes/{sandboxID}", None),
]
# Answered alike to everybody, about the asker's own team; what they say must not contain anything of the victim's.
ABOUT_ONESELF = {
    "/health", "/openapi.json", "/sandboxes", "/v2/sandboxes", "/sandboxes/metrics", "/snapshots", "/templates", "/v2/templates", "/default-templates", "/template-catalogue",
    "/teams", "/api-keys", "/secrets", "/volumes", "/events/sandboxes", "/events/webhooks",
    # Empty for a sandbox that never was, and for one of another team: `test_unknown_and_foreign_ids_answer_alike`.
    "/sandboxes/{sandboxID}/logs", "/v2/sandboxes/{sandboxID}/logs", "/sandboxes/{sandboxID}/metrics", "/events/sandboxes/{sandboxID}",
}  # fmt: skip


def normal(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path.split("?")[0])


def routes_of_the_router() -> set[tuple[str, str]]:
    text = ROUTER.read_text()
    found = re.findall(r'\.(get|post|put|patch|delete|any)\(\s*"(/[^"]*)"', text)
    assert len(found) > 60, "the router's source is written otherwise now: teach this test to read it"
    return {("GET" if method == "any" else method.upper(), normal(path)) for method, path in found}


def test_every_route_is_tried():
    """A route that nobody has attacked must not come into the product."""
    tried = {(method, normal(path)) for method, path, _ in ROUTES}
    assert routes_of_the_router() - tried == set()
    assert tried - routes_of_the_router() == set()


@dataclass
class Team:
    """What a team has."""

    id: str
    key: str
    ids: dict[str, str]

    def marks(self) -> list[str]:
        """What must not appear in anything that another team reads."""
        return [self.ids["webhookID"], self.ids["sandboxID"], self.ids["apiKeyID"], self.ids["templateID"], self.ids["buildID"], self.id]


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(DATA / "soulbox.db", timeout=20)
    connection.row_factory = sqlite3.Row
    return connection


@pytest.fixture(scope="module")
def rival():
    """The attacker's team. The API makes keys and no teams: the row is written as a second server process would."""
    identity = f"e5cafe00-0000-4000-8000-{secrets.token_hex(6)}"
    with contextlib.closing(database()) as connection, connection:
        connection.execute("INSERT INTO teams (id, name, slug, created_at) VALUES (?, ?, ?, ?)", (identity, "Rivals", f"rivals-{identity[-6:]}", 1))
    admin = {"X-Admin-Token": (DATA / "admin.token").read_text().strip()}
    answer = api("POST", f"/admin/teams/{identity}/api-keys", {"name": "rival"}, key=None, headers=admin)
    assert answer.status == 201, answer
    yield Team(identity, answer.json["key"], {})
    with contextlib.closing(database()) as connection, connection:
        connection.execute("DELETE FROM webhooks WHERE team_id = ?", (identity,))
        connection.execute("DELETE FROM teams WHERE id = ?", (identity,))


@pytest.fixture(scope="module")
def victim_team():
    """The default team, with a sandbox, a key and a private template."""
    admin = {"X-Admin-Token": (DATA / "admin.token").read_text().strip()}
    with contextlib.closing(database()) as connection, connection:
        base = connection.execute("SELECT * FROM builds LIMIT 1").fetchone()
        team = connection.execute("SELECT team_id FROM templates WHERE id = ?", (base["template_id"],)).fetchone()["team_id"]
        connection.execute(
            "INSERT INTO templates (id, team_id, public, is_default, created_at, updated_at, spawn_count) VALUES (?, ?, 0, 0, 1, 1, 0)", (PRIVATE_TEMPLATE, team)
        )
        columns = [name for name in base.keys() if name not in ("id", "template_id")]
        connection.execute(
            f"INSERT INTO builds (id, template_id, {', '.join(columns)}) VALUES (?, ?, {', '.join('?' * len(columns))})",
            (PRIVATE_BUILD, PRIVATE_TEMPLATE, *(base[name] for name in columns)),
        )
        connection.execute("INSERT INTO template_tags (id, template_id, tag, build_id, created_at) VALUES (?, ?, 'default', ?, 1)", (PRIVATE_BUILD, PRIVATE_TEMPLATE, PRIVATE_BUILD))
    key = api("POST", "/api-keys", {"name": "victim"}, key=None, headers=admin)
    assert key.status == 201, key
    sandbox = api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 600}).json
    nodes = api("GET", "/nodes", key=None, headers=admin).json
    webhook = api("POST", "/events/webhooks", {"name": "victim", "url": "https://hooks.example/", "events": ["sandbox.lifecycle.killed"], "signatureSecret": "hidden", "enabled": False})
    assert webhook.status == 201, webhook
    secret = api("POST", "/secrets", {"name": "victim", "value": "hidden"})
    assert secret.status == 201, secret
    ids = {
        "sandboxID": sandbox["sandboxID"], "templateID": PRIVATE_TEMPLATE, "buildID": PRIVATE_BUILD, "teamID": team, "apiKeyID": key.json["id"],
        "hash": "0" * 64, "tag": "default", "nodeID": nodes[0]["id"] if nodes else "node", "secretID": secret.json["secretID"], "volumeID": PRIVATE_BUILD, "rest": sandbox["sandboxID"],
        "webhookID": webhook.json["id"],
    }  # fmt: skip
    yield Team(team, os.environ["E2B_API_KEY"], ids)
    api("DELETE", f"/sandboxes/{sandbox['sandboxID']}")
    api("DELETE", f"/events/webhooks/{ids['webhookID']}")
    api("DELETE", f"/secrets/{ids['secretID']}")
    with contextlib.closing(database()) as connection, connection:
        connection.execute("DELETE FROM templates WHERE id = ?", (PRIVATE_TEMPLATE,))


def fill(value: object, ids: dict[str, str]) -> object:
    return json.loads(re.sub(r"\{(\w+)\}", lambda match: ids.get(match[1], match[0]), json.dumps(value)))


def state_of(team: Team) -> str:
    """Everything that the database holds about the victim, without what reading changes."""
    with contextlib.closing(database()) as connection:
        rows = {}
        for table, where in (
            ("sandboxes", "id = :sandboxID"),
            ("api_keys", "team_id = :teamID"),
            ("templates", "id = :templateID"),
            ("builds", "template_id = :templateID"),
            ("template_tags", "template_id = :templateID"),
            ("template_aliases", "template_id = :templateID"),
            ("teams", "id = :teamID"),
            ("webhooks", "team_id = :teamID"),
            ("secrets", "team_id = :teamID"),
        ):
            found = connection.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY 1", team.ids).fetchall()
            rows[table] = [{name: row[name] for name in row.keys() if name != "last_used"} for row in found]
    return json.dumps(rows, sort_keys=True, default=str)


def call(method: str, path: str, body: object, ids: dict[str, str], key: str) -> raw.Answer:
    return api(method, str(fill(path, ids)), fill(body, ids) if body is not None else None, key=key)


@pytest.mark.seconds(240)
def test_another_teams_resources(rival, victim_team):
    """The attacker has a key of his own team, and every id of the victim's. Whatever he calls must tell and change nothing."""
    found: dict[str, Attempt] = {}
    for method, path, body in ROUTES:
        before = state_of(victim_team)
        answer = call(method, path, body, victim_team.ids, rival.key)
        told = [mark for mark in victim_team.marks() if mark in answer.text and mark not in str(fill(path, victim_team.ids)) and mark not in json.dumps(fill(body, victim_team.ids))]
        changed = state_of(victim_team) != before
        own = path.split("?")[0] in ABOUT_ONESELF
        refused = answer.status in (400, 401, 403, 404, 405, 410, 501) or (own and not told)
        if not own and not path.startswith(("/instances", "/envs", "/templates", "/v2/templates", "/v3", "/access-tokens", "/volumes")):
            refused = answer.status in (401, 403, 404)
        found[f"{method} {path}"] = Attempt(changed or bool(told) or not refused, f"{answer.status} {answer.text[:120]} told {told} changed {changed}")
    assert api("GET", f"/sandboxes/{victim_team.ids['sandboxID']}").json["state"] == "running"

    control, reasons = {}, {}
    admin = (DATA / "admin.token").read_text().strip()
    for method, path, body in ROUTES:
        name = f"{method} {path}"
        # Endpoints of the operator's are shown by the operator; nothing of the whole team's is killed for a control.
        if path.startswith(("/admin/gc", "/admin/teams/{teamID}/sandboxes", "/admin/teams/{teamID}/builds", "/admin/teams/{teamID}/retention")) and method != "GET" or (method, path) == ("POST", "/nodes/{nodeID}"):
            reasons[name] = "it would touch what other suites use"
            continue
        if "/export?" in path:
            reasons[name] = "it would pack the whole template; test_template_versions.py shows that owners get it"
            continue
        for headers in ({"X-API-Key": victim_team.key}, {"X-Admin-Token": admin, "X-Team-Id": victim_team.id}):
            answer = api(method, str(fill(path, victim_team.ids)), fill(body, victim_team.ids) if body is not None else None, key=None, headers=headers)
            if answer.status < 300:
                break
        control[name] = Attempt(answer.status < 300, f"{answer.status} {answer.text[:100]}")
        if answer.status >= 300:
            reasons[name] = f"it does nothing for the owner either ({answer.status})"
        elif name in ("POST /sandboxes", "POST /v2/sandboxes"):
            api("DELETE", f"/sandboxes/{answer.json['sandboxID']}")
        elif name.endswith("/fork"):
            for entry in answer.json:
                api("DELETE", f"/sandboxes/{entry['sandbox']['sandboxID']}")
        elif name.endswith("/snapshots"):
            api("DELETE", f"/templates/{answer.json['snapshotID'].split(':')[0]}")
        elif name == "POST /secrets":
            api("DELETE", f"/secrets/{answer.json['secretID']}")
        elif name == "POST /events/webhooks":
            api("DELETE", f"/events/webhooks/{answer.json['id']}")
        elif name.endswith("api-keys") and method == "POST":
            api("DELETE", f"/api-keys/{answer.json['id']}", key=None, headers={"X-Admin-Token": admin})
    judge("another team", found, control, reasons)


def test_unknown_and_foreign_ids_answer_alike(rival, victim_team):
    """The attacker wants to know which ids exist: an answer about another team's must be the one about no id at all."""
    found = {}
    unknown = victim_team.ids | {
        "sandboxID": UNKNOWN, "templateID": "nothing0000000000000", "buildID": "e5cafe00-0000-4000-8000-0000000000ff", "apiKeyID": "e5cafe00-0000-4000-8000-0000000000ff",
        "teamID": "e5cafe00-0000-4000-8000-0000000000ff",
    }  # fmt: skip
    for method, path, body in ROUTES:
        if "{sandboxID}" not in path and "{apiKeyID}" not in path:
            continue
        answers = []
        for ids in (victim_team.ids, unknown):
            answer = call(method, path, body, ids, rival.key)
            text = answer.text
            for key in ("sandboxID", "apiKeyID", "teamID"):
                text = text.replace(ids[key], key)
            headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-e2b-trace-id", "content-length")}
            answers.append((answer.status, text, headers))
        found[f"{method} {path}"] = Attempt(answers[0] != answers[1], f"{answers}")
    judge("ids", found, "the control is the owner's answer about the same id, which test_another_teams_resources shows to differ")
