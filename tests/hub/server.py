"""A small Hub: as much of its HTTP API as huggingface_hub uses to make a repository, push to it and download."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LARGE = (".safetensors", ".bin", ".png", ".pt")
"""Files that go the way of large files, in a request of their own."""


class Hub:
    """What the server holds: files by repository, large objects by hash, and the commits' first lines."""

    def __init__(self):
        self.repositories, self.objects, self.commits, self.unknown = {}, {}, [], []
        self.lock = threading.Lock()

    def commit(self, repository, lines):
        files = self.repositories[repository]
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                self.commits.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
            else:
                raise AssertionError(line)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content=b"", status=200, **headers):
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json"} | headers
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def root(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def handle_any(self):
        path, body = unquote(urlparse(self.path).path).strip("/"), self.body()
        with self.hub.lock:
            for route in (self.account, self.large, self.repository, self.files):
                if route(path, body):
                    return
            self.hub.unknown.append(f"{self.command} {self.path}")
            self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def account(self, path, body):
        if path == "api/whoami-v2":
            self.answer({"name": "user", "type": "user", "orgs": [], "auth": {"type": "access_token"}})
        elif path == "api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "api/agent-harnesses":
            self.answer({})
        elif path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name'].rpartition('/')[2]}"
            there = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {})
            self.answer({"url": f"{self.root}/{name}", "name": name, "id": name}, 409 if there else 200)
        else:
            return False
        return True

    def large(self, path, body):
        if path.endswith(".git/info/lfs/objects/batch"):
            found = [
                {"oid": one["oid"], "size": one["size"]}
                | {"actions": {"upload": {"href": f"{self.root}/objects/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": found}, Content_Type="application/vnd.git-lfs+json")
        elif path.startswith("objects/") and self.command == "PUT":
            oid = path.split("/")[1]
            assert hashlib.sha256(body).hexdigest() == oid
            self.hub.objects[oid] = body
            self.answer()
        else:
            return False
        return True

    def repository(self, path, body):
        parts = path.split("/")
        name = "/".join(parts[2:4])
        if parts[:2] != ["api", "models"] or name not in self.hub.repositories:
            return False
        files = self.hub.repositories[name]
        match parts[4:]:
            case ["preupload", _]:
                modes = [
                    {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular"}
                    | {"shouldIgnore": False, "oid": None}
                    for one in json.loads(body)["files"]
                ]
                self.answer({"files": modes})
            case ["commit", _]:
                self.hub.commit(name, [json.loads(line) for line in body.splitlines()])
                oid = self.head()
                self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.root}/{name}/commit/{oid}"})
            case [] | ["revision", _]:
                siblings = [{"rfilename": file} for file in files]
                self.answer({"id": name, "sha": self.head(), "siblings": siblings, "private": False, "tags": []})
            case ["tree", *_]:
                tree = [{"type": "file", "path": file, "size": len(held), "oid": "0"} for file, held in files.items()]
                self.answer(tree)
            case ["branch", _]:
                self.answer({})
            case _:
                return False
        return True

    def head(self):
        return hashlib.sha1(str(len(self.hub.commits)).encode()).hexdigest()

    def files(self, path, body):
        parts = path.split("/")
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        if len(parts) < 5 or parts[2] != "resolve" or name not in self.hub.repositories:
            return False
        if file not in self.hub.repositories[name]:
            self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.head())
            return True
        held = self.hub.repositories[name][file]
        headers = {"ETag": f'"{hashlib.sha1(held).hexdigest()}"', "X_Repo_Commit": self.head()}
        self.answer(held, **headers)
        return True


@contextmanager
def running_hub():
    """Run a Hub; yield it, with its address as `hub.address`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
