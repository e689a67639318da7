"""A W&B server of the few calls that ``wandb sweep``, an agent and its runs make.

It speaks HTTP on the loopback, as the installed client does, and hands out the trials it is given.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4
PROJECT = {"id": "project", "name": "tuning", "entity": {"id": "entity", "name": "tester"}}
VIEWER = {
    "id": "user",
    "username": "tester",
    "entity": "tester",
    "email": "",
    "flags": "{}",
    "admin": False,
    "teams": {"edges": []},
}


class Server:
    """``trials``: the settings that agents are given, each once. ``calls``: what was asked, by
    operation; ``history`` and ``summary``: what file_stream took, by W&B's run id."""

    def __init__(self, trials: list[dict[str, Any]]) -> None:
        self.trials = list(enumerate(trials, start=1))
        self.calls: dict[str, list[dict[str, Any]]] = {}
        self.unknown: list[str] = []
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.summary: dict[str, dict[str, Any]] = {}
        self.config = ""
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with server.lock:
                    content = json.dumps(server.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/graphql":
            asked = json.loads(body)
            return {"data": self.operation(asked["query"], asked.get("variables") or {})}
        if path.endswith("/file_stream"):
            self.take(path.split("/")[-2], json.loads(body))
        return {}

    def take(self, run: str, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.history.setdefault(run, []).append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary[run] = json.loads(line)

    def operation(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = named[1] if named else query
        self.calls.setdefault(name, []).append(variables)
        bucket = {
            "id": "bucket",
            "name": variables.get("name"),
            "displayName": variables.get("name"),
            "config": "{}",
            "sweepName": "sweep123",
            "project": PROJECT,
            "historyLineCount": 0,
        }
        if name == "UpsertSweep":
            self.config = variables["config"]
            sweep = {"name": "sweep123", "project": PROJECT}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if name == "SweepWithRuns":
            sweep = {"id": "sweep", "name": "sweep123", "state": "RUNNING", "config": self.config}
            return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}
        if name == "Heartbeat":
            return {
                "agentHeartbeat": {"agent": {"id": "agent"}, "commands": self.commands(variables)}
            }
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/upload"} for f in variables["files"]]
            return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}
        known: dict[str, dict[str, Any]] = {
            "Viewer": {"viewer": VIEWER},
            "CreateAgent": {"createAgent": {"agent": {"id": "agent"}}},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "RunResumeStatus": {"model": None},  # no run of that id yet
            "OrganizationCoreWeaveOrganizationID": {"entity": None},
        }
        if name not in known:
            self.unknown.append(name)
        return known.get(name, {})

    def commands(self, variables: dict[str, Any]) -> str:
        """A trial for an agent that has none; an end where there is none left."""
        if json.loads(variables.get("runState") or "{}"):
            return "[]"
        if not self.trials:
            return json.dumps([{"type": "exit"}])
        number, setting = self.trials.pop(0)
        arguments = {key: {"value": value} for key, value in setting.items()}
        command = {"type": "run", "run_id": f"trial{number}", "program": None, "args": arguments}
        return json.dumps([command])
