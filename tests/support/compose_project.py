"""The project of deploy/compose.yaml, built from this tree and run as it is shipped.

Its images are those that compose.yaml and the Dockerfile name, or BASE_IMAGE,
POSTGRES_IMAGE, NGINX_IMAGE, PROMETHEUS_IMAGE and GRAFANA_IMAGE.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import docker
import pytest
from docker.models.containers import Container

from tests.support.postgres import can_run
from tests.support.service import ROOT
from tests.support.waiting import free_port

COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"

# What pip needs to know of this machine's network, where there is such a thing.
BUILD_SECRETS = {
    "pip_conf": Path("/etc/pip.conf"),
    "ca_certificates": Path("/etc/ssl/certs/ca-certificates.crt"),
}


@dataclass
class Project:
    """The project, under a name and at ports of its own."""

    name: str
    compose: list[str]
    environment: dict[str, str]
    port: int
    prometheus_port: int
    grafana_port: int
    engine: docker.DockerClient

    def run(self, *arguments: str) -> str:
        """Run a command of compose's and return what it writes."""
        return run([*self.compose, *arguments], self.environment)

    def flask(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Run one of the service's commands, as the database's owner."""
        return self.run("run", "--rm", "-T", *options, "schema", "flask", *arguments)

    def need(self, service: str) -> None:
        """Skip the test if the image of ``service`` is not to be had."""
        config = self.run("--profile", "monitoring", "config")
        [image] = re.findall(
            rf"^  {service}:\n(?:    .*\n)*?    image: (.+)", config, re.M
        )
        if not can_run(image):
            pytest.skip(f"the Docker engine has no image {image} and cannot pull it")

    def watch(self, service: str) -> None:
        """Start one of those that watch the service, or skip the test."""
        self.need(service)
        self.run("--profile", "monitoring", "up", "--detach", "--no-deps", service)

    @property
    def replicas(self) -> list[Container]:
        """The containers of the service."""
        labels = [
            f"com.docker.compose.project={self.name}",
            "com.docker.compose.service=service",
        ]
        return self.engine.containers.list(all=True, filters={"label": labels})


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def health(container: Container) -> Any:
    container.reload()
    return container.attrs["State"]["Health"]["Status"]


def requests(container: Container) -> list[dict[str, Any]]:
    """Return the container's log of requests so far."""
    lines = container.logs(stdout=True, stderr=False).decode().splitlines()
    return [json.loads(line) for line in lines]


def get(url: str) -> Any:
    """Return the JSON at ``url``, or None as long as there is none."""
    try:
        with urlopen(url, timeout=10) as answer:  # noqa: S310  # it is our own
            return json.load(answer)
    except OSError:
        return None


def find(candidates: list[list[str]], *arguments: str, says: str = "") -> list[str]:
    """Return the first command that works with the arguments and says this, or none."""
    for command in candidates:
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, *arguments],
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
                capture_output=True,
                text=True,
            )
            if done.returncode == 0 and says in done.stdout:
                return command
    return []


def base_image() -> str:
    """Return the image that the service's is built on."""
    [image] = re.findall("^ARG BASE_IMAGE=(.+)", DOCKERFILE.read_text(), re.M)
    return str(image)


@contextmanager
def project(replicas: int) -> Iterator[Project]:
    """Build the service's image and start the project, all but what watches it."""
    # Another client may stand before Debian's, and come without what it builds with.
    client = find([["docker"], ["/usr/bin/docker"]], "build", "--help", says="--secret")
    if not client:
        pytest.skip("there is no docker client that can build with BuildKit")
    compose = find([["docker", "compose"], ["docker-compose"]], "version")
    if not compose:
        pytest.skip("there is neither docker compose nor docker-compose")
    if not find([client], "ps"):
        pytest.skip("no Docker engine answers")
    base = os.environ.get("BASE_IMAGE", base_image())
    if not can_run(base):
        pytest.skip(f"the Docker engine has no image {base} and cannot pull it")

    name = f"bulk-metadata-test-{os.getpid()}"
    port, prometheus_port, grafana_port = free_port(), free_port(), free_port()
    environment = {
        "COMPOSE_FILE": str(COMPOSE_FILE),
        "COMPOSE_PROJECT_NAME": name,
        "SERVICE_IMAGE": name,
        "BASE_IMAGE": base,
        "LISTEN": f"127.0.0.1:{port}",
        "PROMETHEUS_LISTEN": f"127.0.0.1:{prometheus_port}",
        "GRAFANA_LISTEN": f"127.0.0.1:{grafana_port}",
        # Characters that an URL, a shell or SQL would take for something else.
        "POSTGRES_PASSWORD": f"'@:/?#$ %{secrets.token_hex()}",
        "SERVICE_PASSWORD": f"'@:/?#$ %{secrets.token_hex()}",
    }
    with closing(docker.from_env()) as engine:
        started = Project(
            name, compose, environment, port, prometheus_port, grafana_port, engine
        )
        for service in ("postgres", "nginx"):
            started.need(service)
        build(client, base, name)
        try:
            started.run(
                "up", "--detach", "--no-build", "--scale", f"service={replicas}"
            )
            yield started
        finally:
            started.run("--profile", "monitoring", "down", "--volumes")
            engine.images.remove(name, force=True)


def build(client: list[str], base: str, tag: str) -> None:
    build_secrets = [
        f"--secret=id={name},src={path}"
        for name, path in BUILD_SECRETS.items()
        if path.exists()
    ]
    run(
        [*client, "build", "--network=host", *build_secrets, f"--file={DOCKERFILE}",
         f"--build-arg=BASE_IMAGE={base}", f"--tag={tag}", str(ROOT)],
        {"DOCKER_BUILDKIT": "1"},
    )  # fmt: skip
