"""A Kubernetes cluster for tests: the one that KUBECONFIG names, or one that `$K8S_CLUSTER up` starts.

K8S_CLUSTER is a program with `up`, `kubeconfig` (prints its path) and `load IMAGE [NODE]` (copies an image from the local engine to the nodes),
for a machine without a cluster or a registry. Kubelets that share a machine each need a /var/log/pods of their own: every minute one deletes the folders
of pods it does not know, and with them the lines that a task's log is made of. Their bridges each need a MAC address of their own: else
a bridge takes that of a pod, and when the pod ends, others cannot reach this machine for up to a minute. With neither, `make test-cluster` says so and ends.

FLYWHEEL_TEST_HOST is this machine's address as pods see it: what a test serves there, they can reach.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

DELETED_SECONDS = 180


@dataclass
class Cluster:
    """kubectl, and what tests do with it again and again."""

    kubeconfig: str
    program: str = ""  # K8S_CLUSTER
    loaded: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def at_hand(cls) -> Cluster | None:
        """The one that is meant; started when it has to be. None when there is none."""
        program = os.environ.get("K8S_CLUSTER", "")
        if not os.environ.get("KUBECONFIG") and not program:
            return None
        if os.environ.get("KUBECONFIG"):
            found = cls(os.environ["KUBECONFIG"], program)
        else:
            subprocess.run([program, "up"], check=True, stdout=subprocess.DEVNULL, close_fds=True)
            found = cls(subprocess.run([program, "kubeconfig"], check=True, capture_output=True, text=True).stdout.strip(), program)
        until(lambda: found.kubectl("get", "--raw", "/readyz", check=False) == "ok", 60, f"the API server of {found.kubeconfig}")
        return found

    @property
    def host(self) -> str:
        """This machine's address as pods see it."""
        return os.environ.get("FLYWHEEL_TEST_HOST") or ("172.30.0.1" if self.program else "127.0.0.1")

    @property
    def version(self) -> tuple[int, int]:
        """Of the API server, e.g. (1, 20)."""
        found = json.loads(self.kubectl("get", "--raw", "/version"))
        return int(found["major"]), int(found["minor"].rstrip("+"))

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, seconds: float = 120) -> str:
        """kubectl's output. Raises AssertionError with its words when it fails; with `check=False` those words are the output."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def get(self, kind: str, *arguments: str, namespace: str = "") -> list[dict[str, Any]]:
        """Objects of a kind; arguments are a name or e.g. `-l app=x`."""
        found = json.loads(self.kubectl("get", kind, *arguments, *(["-n", namespace] if namespace else []), "-o", "json", "--ignore-not-found") or "{}")
        return found.get("items", [found] if found else [])

    def apply(self, *objects: dict[str, Any] | str, namespace: str = "") -> None:
        """Objects, or YAML of some."""
        text = "\n---\n".join(each if isinstance(each, str) else yaml.safe_dump(each) for each in objects)
        self.kubectl("apply", *(["-n", namespace] if namespace else []), "-f", "-", stdin=text)

    def load(self, *images: str, node: str = "") -> None:
        """Bring images of the local engine to the nodes, or to one, once; where nodes pull from a registry there is nothing to do."""
        for image in images:
            if self.program and (image, node) not in self.loaded:
                subprocess.run([self.program, "load", image, *([node] if node else [])], check=True, stdout=subprocess.DEVNULL)
                self.loaded.add((image, node))

    @contextmanager
    def namespace(self, name: str, labels: dict[str, str] | None = None) -> Iterator[str]:
        """A namespace, empty at first and gone in the end."""
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout", f"{DELETED_SECONDS}s", seconds=DELETED_SECONDS + 10)
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--timeout", f"{DELETED_SECONDS}s", seconds=DELETED_SECONDS + 10)

    def token(self, account: str, namespace: str) -> str:
        """A bearer token of a service account. Clusters before 1.24 made one by themselves."""
        if self.version >= (1, 24):
            return self.kubectl("create", "token", account, "-n", namespace, "--duration", "2h").strip()
        encoded: list[str] = []

        def made() -> bool:
            found = [
                s for s in self.get("secret", namespace=namespace) if s["metadata"].get("annotations", {}).get("kubernetes.io/service-account.name") == account
            ]
            encoded[:] = [s["data"]["token"] for s in found if "token" in s.get("data", {})]
            return bool(encoded)

        until(made, 30, f"a token of {account}")
        return subprocess.run(["base64", "-d"], input=encoded[0], capture_output=True, text=True, check=True).stdout

    def as_account(self, account: str, namespace: str, path: Path) -> Cluster:
        """The same cluster with the rights of a service account and no others; its kubeconfig is written to `path`."""
        known = yaml.safe_load(Path(self.kubeconfig).read_text())
        known["users"] = [{"name": account, "user": {"token": self.token(account, namespace)}}]
        known["contexts"] = [{"name": "test", "context": {"cluster": known["clusters"][0]["name"], "user": account, "namespace": namespace}}]
        known["current-context"] = "test"
        path.write_text(yaml.safe_dump(known))
        return Cluster(str(path))


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait. Raises AssertionError saying what did not come true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


@dataclass
class Seen:
    """All that was ever known of one pod."""

    name: str
    labels: dict[str, str]
    node: str = ""
    phases: list[tuple[float, str]] = field(default_factory=list)
    gone: float = 0.0  # when it was deleted
    last: dict[str, Any] = field(default_factory=dict)  # the whole object, as it was last

    @property
    def ended(self) -> dict[str, Any]:
        """How its first container ended: exitCode, reason, finishedAt; empty when it did not."""
        statuses = self.last.get("status", {}).get("containerStatuses") or [{}]
        return dict(statuses[0].get("state", {}).get("terminated") or {})


class Watch:
    """Every pod of a namespace, from now on, however short it lives: `pods` by name."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.pods: dict[str, Seen] = {}
        command = ["kubectl", "--kubeconfig", cluster.kubeconfig, "get", "pods", "-n", namespace, "--watch", "--output-watch-events", "-o", "json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        assert self.process.stdout
        while piece := self.process.stdout.readline():
            text += piece
            with suppress(json.JSONDecodeError):
                event, end = decoder.raw_decode(text.lstrip())
                text = text.lstrip()[end:]
                self._note(event["type"], event["object"])

    def _note(self, kind: str, pod: dict[str, Any]) -> None:
        seen = self.pods.setdefault(pod["metadata"]["name"], Seen(pod["metadata"]["name"], pod["metadata"].get("labels", {})))
        seen.node, seen.last = pod["spec"].get("nodeName", ""), pod
        phase = pod["status"].get("phase", "")
        if not seen.phases or seen.phases[-1][1] != phase:
            seen.phases.append((time.time(), phase))
        if kind == "DELETED":
            seen.gone = time.time()

    def of(self, **labels: str) -> list[Seen]:
        """Pods with these labels, in the order in which they came."""
        return [pod for pod in list(self.pods.values()) if all(pod.labels.get(key) == value for key, value in labels.items())]

    def stop(self) -> None:
        """End the watch."""
        self.process.terminate()
        self.process.wait()


@contextmanager
def reachable(ports: list[int], host: str) -> Iterator[None]:
    """Make ports of 127.0.0.1 answer at another address of this machine, too: that of the nodes' bridge."""
    if host == "127.0.0.1":
        yield
        return
    ready, over = threading.Event(), threading.Event()

    async def pass_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            near_reader, near_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while piece := await source.read(1 << 16):
                    target.write(piece)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, near_writer), copy(near_reader, writer))

    async def listen() -> None:
        for port in ports:
            await asyncio.start_server(lambda r, w, port=port: pass_on(port, r, w), host, port)
        ready.set()
        await asyncio.to_thread(over.wait)  # what still passes is cancelled then

    thread = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
    thread.start()
    assert ready.wait(10), f"cannot listen on {host}"
    try:
        yield
    finally:
        over.set()
        thread.join(5)
