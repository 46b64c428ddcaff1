"""The overlays as the tests use them: rendered, filled in where they wait for values, and read as objects."""

import base64
import functools
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from cluster import ROOT, shared

# What an operator writes for each `change-me`.
VALUES = [
    ("ghcr.io/change-me/tidemill", "ghcr.io/example/tidemill"),
    ("newTag: change-me", "newTag: v1.2.3"),
    ("https://change-me", "https://tidemill.example.com"),
    ("SERVERS=change-me", "SERVERS=kafka-1.example.com:9092,kafka-2.example.com:9092"),
    ("s3://change-me", "s3://company/tidemill"),
    ("REGION=change-me", "REGION=eu-central-1"),
    ("HOST=change-me", "HOST=mail.example.com"),
    ("<change-me>", "<tidemill@example.com>"),
]
# And the Secret that the operator makes.
SECRET = {
    "database-url": "mysql://roles:secret@db.example.com:3306/tidemill",
    "tables-url": "mysql://roles:secret@db.example.com:3306/results",
    "query-tables-url": "mysql://reader:secret@db.example.com:3306/results",
    "migrate-database-url": "mysql://owner:secret@db.example.com:3306/tidemill",
    "migrate-tables-url": "mysql://owner:secret@db.example.com:3306/results",
    "jwt-secret": "0123456789abcdef0123456789abcdef",
    "objects-access-key": "AKIAEXAMPLE",
    "objects-secret-key": "secret",
    "mail-user": "tidemill",
    "mail-password": "secret",
}
CERTIFICATE = {"tls.crt": "a certificate", "tls.key": "its key"}  # Secret `tidemill-postgres-tls`


def copy(changes=(), overlay="prod"):
    """A copy of k8s/ with changes (old text, new text) in the files of the overlay; gives the overlay's folder."""
    place = Path(tempfile.mkdtemp(dir=shared().folder))
    shutil.copytree(ROOT / "k8s", place / "k8s")
    folder = place / "k8s" / "overlays" / overlay
    for old, new in changes:
        found = False
        for path in folder.iterdir():
            text = path.read_text()
            found |= old in text
            path.write_text(text.replace(old, new))
        if not found:
            raise AssertionError(f"the overlay {overlay} has no `{old}` to change")
    return folder


def filled(namespace="tidemill", changes=()):
    """The overlay prod as an operator fills it in."""
    own = [] if namespace == "tidemill" else [("namespace: tidemill\n", f"namespace: {namespace}\n"),
                                              ("name: tidemill\n  labels:", f"name: {namespace}\n  labels:")]
    return copy([*VALUES, *own, *changes])


def with_options(namespace):
    """The overlay prod with the other choice of every option, and with what the docs tell to add to it."""
    folder = filled(namespace, [
        ("../../components/keda # or hpa", "../../components/hpa"),
        ("# - ../../components/object-keys", "- ../../components/object-keys"),
        ("# - ../../components/mail-login", "- ../../components/mail-login"),
        ("# - ../../components/postgres", "- ../../components/postgres"),
    ])
    added = re.search(r"```yaml\n(patches:\n.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)[1]
    with open(folder / "kustomization.yaml", "a") as kustomization:
        kustomization.write(added)
    return folder


@functools.cache
def all_three():
    """Name and folder of every overlay that is tested."""
    return {"dev": ROOT / "k8s/overlays/dev", "prod": filled(), "options": with_options("tidemill-options")}


@functools.cache
def render(folder):
    """The manifests of an overlay, as text."""
    # The script beside the overlay, which may be a copy: dashboards and rules are taken from there.
    deploy = folder.parents[1] / "deploy"
    answer = subprocess.run([deploy, folder, "--render"], text=True, capture_output=True, env=shared().environment)
    if answer.returncode != 0:
        raise AssertionError(answer.stderr)
    return answer.stdout


def objects(folder):
    """The manifests of an overlay, as objects."""
    text = shared().kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", text=render(folder))
    return parse(text)


def parse(text):
    """The JSON objects that kubectl prints one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found += value["items"] if value["kind"] == "List" else [value]
        text = text[end:]
    return found


def of_kind(found, *kinds):
    return [each for each in found if each["kind"] in kinds]


def name(each):
    return f"{each['kind']} {each['metadata']['name']}"


def component(each):
    return each["metadata"].get("labels", {}).get("app.kubernetes.io/component")


def secret_data(found):
    """The Secret that the overlay brings, or the operator's, and the operator's certificate."""
    for each in of_kind(found, "Secret"):
        return {key: base64.b64decode(value).decode() for key, value in each["data"].items()} | CERTIFICATE
    return SECRET | CERTIFICATE


def pod_of(workload):
    """A pod as the workload's controller makes it."""
    template = workload["spec"]["template"]
    spec = json.loads(json.dumps(template["spec"]))
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        volume = {"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-0"}}
        spec.setdefault("volumes", []).append(volume)
    metadata = {"name": f"{workload['metadata']['name']}-0", "namespace": workload["metadata"]["namespace"],
                "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def server_objects(namespace):
    """What controllers would make in a new namespace and pods cannot be without."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}
