"""The Dockerfile and compose.yaml by the parsers of Docker and Compose themselves, and the workflows by actionlint."""

import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from cluster import ROOT, TOOLS


def containers(kind, text):
    """What Docker's or Compose's own parser says of a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return subprocess.run([TOOLS / "containers", kind, file.name], text=True, capture_output=True)


def ignored(folder, names):
    """What .dockerignore leaves out of a folder."""
    place = Path(folder).relative_to(ROOT)
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    return [name for name in names if str(place / name) in patterns or f"**/{name}" in patterns]


class Containers(unittest.TestCase):
    dockerfile = (ROOT / "Dockerfile").read_text()
    compose = (ROOT / "compose.yaml").read_text()

    def test_docker_takes_the_dockerfile_without_a_warning(self):
        answer = containers("dockerfile", self.dockerfile)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))

    def test_a_dockerfile_that_is_wrong_is_refused(self):
        self.assertIn("unknown instruction", containers("dockerfile", self.dockerfile.replace("ENTRYPOINT", "ENTRIPOINT")).stderr)
        self.assertIn("FromAsCasing", containers("dockerfile", self.dockerfile.replace(" AS build", " as build")).stderr)

    def test_the_workspace_is_whole_in_what_docker_is_sent(self):
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder) / "context"
            shutil.copytree(ROOT, context, ignore=ignored)
            for gone in ("target", ".git", "docs"):
                self.assertFalse((context / gone).exists(), gone)
            answer = subprocess.run(["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"],
                                    cwd=context, text=True, capture_output=True)
            self.assertEqual(answer.returncode, 0, answer.stderr)
            for source in context.rglob("src/**/*.rs"):
                for file in re.findall(r'include_(?:str|bytes)!\("(.*?)"\)', source.read_text()):
                    self.assertTrue((source.parent / file).exists(), f"{source} includes {file}")
            self.assertTrue(list((context / "pipelines").glob("*.yaml")))

    def test_the_image_is_built_with_the_compiler_that_the_workspace_needs(self):
        needed = re.search(r'rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text())[1]
        self.assertIn(f"FROM rust:{needed}-", self.dockerfile)

    def test_the_user_of_the_image_is_the_one_that_the_pods_run_as(self):
        user = re.search(r"^USER (\d+):(\d+)$", self.dockerfile, re.M)
        pod = (ROOT / "k8s/base/pod.yaml").read_text()
        self.assertIn(f"runAsUser: {user[1]}", pod)
        self.assertIn(f"runAsGroup: {user[2]}", pod)

    def test_compose_takes_its_file(self):
        answer = containers("compose", self.compose)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        for role in ("gateway", "processor", "notifier", "fetcher", "migrate"):
            self.assertIn(f"service {role}: tidemill:dev", answer.stdout)

    def test_a_compose_file_that_is_wrong_is_refused(self):
        for old, new in (("restart: unless-stopped", "restarts: sometimes"), ("kafka: { condition", "kafkas: { condition")):
            self.assertEqual(containers("compose", self.compose.replace(old, new)).returncode, 1, new)

    def test_compose_and_the_overlay_dev_run_the_same_servers(self):
        overlay = "\n".join(path.read_text() for path in (ROOT / "k8s/overlays/dev").glob("*.yaml"))
        images = {image for image in re.findall(r"^ +image: (\S+)$", self.compose, re.M) if not image.startswith("tidemill")}
        self.assertEqual({image for image in images if image not in overlay and "prom" not in image and "grafana" not in image}, set())

    def test_workflows_are_ones_that_github_takes(self):
        workflows = list((ROOT / ".github/workflows").glob("*.yml"))
        self.assertEqual({each.name for each in workflows}, {"test.yml", "image.yml", "release.yml"})
        answer = subprocess.run([TOOLS / "actionlint", "-shellcheck=", "-pyflakes=", *workflows], text=True, capture_output=True, cwd=ROOT)
        self.assertEqual(answer.returncode, 0, answer.stdout)

    def test_a_workflow_that_is_wrong_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / "test.yml"
            broken.write_text((ROOT / ".github/workflows/test.yml").read_text().replace("runs-on:", "run-on:"))
            answer = subprocess.run([TOOLS / "actionlint", "-shellcheck=", broken], text=True, capture_output=True)
            self.assertIn('unexpected key "run-on"', answer.stdout)
