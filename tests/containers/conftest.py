"""The Compose project of deploy/compose.yaml, with two replicas of the service."""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.support.postgres import can_run
from tests.support.service import ROOT
from tests.support.waiting import free_port

COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
[BASE_IMAGE] = re.findall("^ARG BASE_IMAGE=(.+)", DOCKERFILE.read_text(), re.M)

# The configuration of pip on this machine, if any.
BUILD_SECRETS = {
    "pip_conf": Path("/etc/pip.conf"),
    "ca_certificates": Path("/etc/ssl/certs/ca-certificates.crt"),
}


@dataclass
class Project:
    """The running project."""

    compose: list[str]
    environment: dict[str, str]
    port: int
    prometheus_port: int
    grafana_port: int
    engine: docker.DockerClient

    def run(self, *arguments: str) -> str:
        """Run a command of Compose and return its output."""
        return run([*self.compose, *arguments], self.environment)

    def flask(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Run an operator command as the owner of the database."""
        return self.run("run", "--rm", "-T", *options, "schema", "flask", *arguments)

    def require_image(self, service: str) -> None:
        """Skip the test if the image of ``service`` is not available."""
        config = self.run("--profile", "monitoring", "config")
        [image] = re.findall(
            rf"^  {service}:\n(?:    .*\n)*?    image: (.+)", config, re.M
        )
        if not can_run(image):
            pytest.skip(f"{service} in a container. To test it: docker pull {image}")

    def start(self, service: str) -> None:
        """Start a service of the profile ``monitoring``, or skip the test."""
        self.require_image(service)
        self.run("--profile", "monitoring", "up", "--detach", "--no-deps", service)

    @property
    def replicas(self) -> list[Container]:
        """The containers of the service."""
        labels = [
            f"com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}",
            "com.docker.compose.service=service",
        ]
        return self.engine.containers.list(all=True, filters={"label": labels})


def run(command: list[str], environment: dict[str, str]) -> str:
    process = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, f"{command}\n{process.stdout}{process.stderr}"
    return process.stdout


def find(candidates: list[list[str]], arguments: list[str], text: str) -> list[str]:
    """Return the first command that prints ``text``, or skip the test."""
    for command in candidates:
        if shutil.which(command[0]):
            process = subprocess.run(
                [*command, *arguments],
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
                capture_output=True,
                text=True,
            )
            if process.returncode == 0 and text in process.stdout:
                return command
    pytest.skip("the service in containers. To test it: .ci/run as root")


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """Build the image of the service and start all containers except monitoring."""
    # Another client may precede the one of Debian on PATH, without BuildKit.
    client = find([["docker"], ["/usr/bin/docker"]], ["build", "--help"], "--secret")
    compose = find([["docker", "compose"], ["docker-compose"]], ["version"], "")
    find([client], ["ps"], "")
    base = os.environ.get("BASE_IMAGE", BASE_IMAGE)
    if not can_run(base):
        pytest.skip(f"the service in containers. To test it: docker pull {base}")

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
        # With characters that have a meaning in a URL, a shell and SQL.
        "POSTGRES_PASSWORD": f"'@:/?#$ %{secrets.token_hex()}",
        "SERVICE_PASSWORD": f"'@:/?#$ %{secrets.token_hex()}",
    }
    build_secrets = [
        f"--secret=id={secret},src={path}"
        for secret, path in BUILD_SECRETS.items()
        if path.exists()
    ]
    with closing(docker.from_env()) as engine:
        project = Project(
            compose, environment, port, prometheus_port, grafana_port, engine
        )
        for service in ("postgres", "nginx"):
            project.require_image(service)
        run(
            [*client, "build", "--network=host", *build_secrets,
             f"--file={DOCKERFILE}", f"--build-arg=BASE_IMAGE={base}",
             f"--tag={name}", str(ROOT)],
            {"DOCKER_BUILDKIT": "1"},
        )  # fmt: skip
        try:
            project.run("up", "--detach", "--no-build", "--scale", "service=2")
            yield project
        finally:
            project.run("--profile", "monitoring", "down", "--volumes")
            engine.images.remove(name, force=True)
