"""k8s/deploy: tells every missing value before it changes anything, migrates before it rolls, and stops when that fails."""

import base64
import json
import subprocess
import threading
import unittest

from cluster import ROOT, shared
from overlays import CERTIFICATE, SECRET, VALUES, filled, of_kind, parse

OPTIONAL = {"objects-access-key", "objects-secret-key", "mail-user", "mail-password"}
NOW = "2026-01-01T00:00:00Z"


def deploy(folder, *arguments):
    environment = {**shared().environment, "MIGRATION_SECONDS": "120", "ROLLOUT_SECONDS": "120"}
    return subprocess.run([ROOT / "k8s/deploy", folder, *arguments], text=True, capture_output=True, env=environment)


def make_secret(namespace, keys, secret="tidemill"):
    """A Secret of an operator, in a namespace that is made for it."""
    data = {key: base64.b64encode((SECRET | CERTIFICATE)[key].encode()).decode() for key in keys}
    for each in ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
                 {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": namespace}, "data": data}):
        shared().kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=json.dumps(each))


class StandIn(threading.Thread):
    """Stands in for controllers and kubelets, which this control plane does not have: ends Jobs, says that roles are up."""

    def __init__(self, namespace, ends_as):
        super().__init__(daemon=True)
        self.namespace, self.ends_as = namespace, ends_as
        self.over = threading.Event()
        self.roles_at_migration = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.3):
            found = shared().ask("get", "job,deployment", "-n", self.namespace, "-o", "json")
            for each in parse(found.stdout) if found.returncode == 0 else []:
                {"Job": self.end, "Deployment": self.raise_up}[each["kind"]](each)

    def end(self, job):
        if job["status"].get("conditions"):
            return
        roles = shared().kubectl("get", "deployment", "-n", self.namespace, "-o", "json")
        self.roles_at_migration = {each["metadata"]["name"] for each in parse(roles)}
        before = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[self.ends_as]
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": NOW} for kind in (before, self.ends_as)]
        status = {"startTime": NOW, "conditions": conditions}
        if self.ends_as == "Complete":
            status |= {"completionTime": NOW, "succeeded": 1}
        self.patch("job", job, status)

    def raise_up(self, deployment):
        if deployment["metadata"].get("deletionTimestamp"):
            # The pods are gone, says the garbage collector.
            shared().ask("patch", "deployment", deployment["metadata"]["name"], "-n", self.namespace, "--type=merge",
                         "-p", '{"metadata":{"finalizers":null}}')
            return
        count = deployment["spec"]["replicas"]
        self.patch("deployment", deployment, {"observedGeneration": deployment["metadata"]["generation"], "replicas": count,
                                              "updatedReplicas": count, "readyReplicas": count, "availableReplicas": count})

    def patch(self, kind, each, status):
        shared().ask("patch", kind, each["metadata"]["name"], "-n", self.namespace, "--subresource=status", "--type=merge",
                     "-p", json.dumps({"status": status}))


class Deploy(unittest.TestCase):
    def refusal(self, folder, *arguments):
        answer = deploy(folder, *arguments)
        self.assertEqual(answer.returncode, 1, answer.stdout + answer.stderr)
        return answer.stderr

    def test_every_value_that_is_missing_is_told_with_its_place_and_its_meaning(self):
        said = self.refusal(ROOT / "k8s/overlays/prod", "--check")
        for old, _ in VALUES:
            self.assertIn(old, said)
        self.assertRegex(said, r"overlays/prod/place.env:6: `TIDEMILL_BROKER__SERVERS=change-me` has no value yet: Kafka's")
        self.assertRegex(said, r"overlays/prod/kustomization.yaml:\d+: `newTag: change-me` has no value yet: its version")

    def test_a_value_that_was_emptied_is_missing(self):
        folder = filled("tidemill-empty", [("HOST=mail.example.com", "HOST=")])
        make_secret("tidemill-empty", SECRET)
        self.assertIn("`TIDEMILL_NOTIFIER__SMTP__HOST=` has no value yet: The mail server.", self.refusal(folder, "--check"))

    def test_an_image_whose_version_moves_or_is_missing_is_refused(self):
        make_secret("tidemill-image", SECRET)
        latest = self.refusal(filled("tidemill-image", [("newTag: v1.2.3", "newTag: latest")]), "--check")
        self.assertIn("image `ghcr.io/example/tidemill:latest` moves", latest)
        none = self.refusal(filled("tidemill-image", [("newTag: v1.2.3", "")]), "--check")
        self.assertIn("image `ghcr.io/example/tidemill` has no tag", none)

    def test_a_secret_that_is_missing_is_told(self):
        said = self.refusal(filled("tidemill-nothing"), "--check")
        self.assertIn("Secret `tidemill` of namespace `tidemill-nothing` can't be read", said)
        self.assertIn("not found", said)

    def test_keys_that_the_secret_lacks_are_told_all_at_once(self):
        make_secret("tidemill-keys", set(SECRET) - OPTIONAL - {"jwt-secret", "tables-url"})
        said = self.refusal(filled("tidemill-keys"))
        self.assertIn("Secret `tidemill` of namespace `tidemill-keys` has no key `jwt-secret`", said)
        self.assertIn("has no key `tables-url`", said)
        self.assertIn("2 problems, nothing was changed", said)
        self.assertEqual(parse(shared().kubectl("get", "deployment,job", "-n", "tidemill-keys", "-o", "json")), [])

    def test_optional_keys_are_needed_once_their_component_is_chosen(self):
        make_secret("tidemill-optional", set(SECRET) - OPTIONAL)
        folder = filled("tidemill-optional", [("# - ../../components/mail-login", "- ../../components/mail-login")])
        self.assertIn("has no key `mail-password`", self.refusal(folder, "--check"))

    def test_the_certificate_for_clients_of_postgres_is_needed_once_they_are_let_in(self):
        make_secret("tidemill-sql", SECRET)
        folder = filled("tidemill-sql", [("# - ../../components/postgres", "- ../../components/postgres")])
        said = self.refusal(folder, "--check")
        self.assertIn("Secret `tidemill-postgres-tls` of namespace `tidemill-sql` can't be read", said)
        self.assertIn("1 problems", said)
        make_secret("tidemill-sql", ["tls.crt"], "tidemill-postgres-tls")
        self.assertIn("Secret `tidemill-postgres-tls` of namespace `tidemill-sql` has no key `tls.key`", self.refusal(folder, "--check"))
        make_secret("tidemill-sql", CERTIFICATE, "tidemill-postgres-tls")
        self.assertEqual(deploy(folder, "--check").returncode, 0)

    def test_a_folder_that_is_no_overlay_is_refused(self):
        self.assertIn("is no overlay", self.refusal(ROOT / "k8s"))
        self.assertEqual(deploy(ROOT / "k8s/overlays/dev", "--chek").returncode, 2)

    def test_roles_roll_only_after_the_migration_has_ended_well(self):
        make_secret("tidemill-order", set(SECRET) - OPTIONAL)
        folder = filled("tidemill-order")
        with StandIn("tidemill-order", "Complete") as cluster:
            answer = deploy(folder)
            self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
            self.assertEqual(cluster.roles_at_migration, set())
            self.assertEqual(len(self.roles("tidemill-order")), 4)
            # The next version: a Job can't be changed, so it is replaced.
            kustomization = folder / "kustomization.yaml"
            kustomization.write_text(kustomization.read_text().replace("v1.2.3", "v1.2.4"))
            answer = deploy(folder)
            self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
            self.assertEqual(self.images("tidemill-order"), {"ghcr.io/example/tidemill:v1.2.4"})
            self.assertEqual(len(cluster.roles_at_migration), 4, "uploads are taken meanwhile")
            answer = deploy(folder, "--stop-first")
            self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
            self.assertEqual(cluster.roles_at_migration, set(), "nothing runs beside the migration")
        self.assertEqual(len(self.roles("tidemill-order")), 4)

    def test_a_migration_that_fails_leaves_the_roles_as_they_were(self):
        make_secret("tidemill-fails", set(SECRET) - OPTIONAL)
        with StandIn("tidemill-fails", "Failed"):
            self.assertIn("the migration failed; the roles are as before", self.refusal(filled("tidemill-fails")))
        self.assertEqual(self.roles("tidemill-fails"), [])

    def test_the_overlay_dev_needs_nothing_but_a_cluster(self):
        self.assertEqual(deploy(ROOT / "k8s/overlays/dev", "--check").returncode, 0)

    def roles(self, namespace):
        return of_kind(parse(shared().kubectl("get", "deployment", "-n", namespace, "-o", "json")), "Deployment")

    def images(self, namespace):
        return {each["spec"]["template"]["spec"]["containers"][0]["image"] for each in self.roles(namespace)}
