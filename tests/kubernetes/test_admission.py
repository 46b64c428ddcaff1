"""A real kube-apiserver takes every object of every overlay and every pod they lead to, and refuses what is wrong."""

import copy
import json
import unittest

from cluster import shared
from overlays import all_three, filled, name, objects, of_kind, parse, pod_of, render, server_objects

RULES = """groups:
  - name: late
    rules:
      - alert: Late
        expr: max(tidemill_queue_oldest_age_seconds) > 600
        for: 5m
"""
DASHBOARD = '{"title": "Queue", "panels": []}'
WORKLOADS = ("Deployment", "StatefulSet", "Job")


def refused(manifest, *arguments):
    """What the server says against an object."""
    answer = shared().ask("apply", "--server-side", "--dry-run=server", *arguments, "-f", "-", text=json.dumps(manifest))
    if answer.returncode == 0:
        raise AssertionError(f"{name(manifest)} was accepted")
    return answer.stderr


class Admission(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """Every test of the class stands on overlays that are applied."""
        cls.found = {}
        for overlay, folder in all_three().items():
            answer = shared().ask("apply", "--server-side", "--validate=strict", "-f", "-", text=render(folder))
            if answer.returncode != 0 or "Warning" in answer.stderr:
                raise AssertionError(f"overlay {overlay}: {answer.stderr}")
            cls.found[overlay] = objects(folder)
            namespace = of_kind(cls.found[overlay], "Namespace")[0]["metadata"]["name"]
            shared().kubectl("apply", "--server-side", "-f", "-", text=json.dumps(server_objects(namespace)))

    def test_every_object_of_every_overlay_is_accepted_and_kept(self):
        for overlay, folder in all_three().items():
            kept = parse(shared().kubectl("get", "-f", "-", "-o", "json", text=render(folder)))
            self.assertEqual(sorted(map(name, kept)), sorted(map(name, self.found[overlay])), overlay)
            self.assertGreater(len(kept), 20, overlay)

    def test_the_same_again_changes_nothing(self):
        for overlay, folder in all_three().items():
            versions = lambda: {name(each): each["metadata"]["resourceVersion"] for each in parse(
                shared().kubectl("get", "-f", "-", "-o", "json", text=render(folder)))}
            before = versions()
            shared().kubectl("apply", "--server-side", "-f", "-", text=render(folder))
            self.assertEqual(versions(), before, overlay)

    def test_every_pod_is_admitted_under_the_strictest_standard(self):
        for overlay, found in self.found.items():
            labels = of_kind(found, "Namespace")[0]["metadata"]["labels"]
            self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted", overlay)
            for workload in of_kind(found, *WORKLOADS):
                with self.subTest(overlay=overlay, workload=name(workload)):
                    answer = shared().ask("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(pod_of(workload)))
                    self.assertEqual((answer.returncode, answer.stderr), (0, ""))
                    # No token is mounted: what admission added would be a volume.
                    self.assertNotIn("kube-api-access", answer.stdout)

    def test_a_pod_with_more_rights_is_refused(self):
        gateway = self.workload("tidemill-gateway")
        for change in ({"runAsNonRoot": None, "runAsUser": 0}, {"seccompProfile": None}):
            pod = pod_of(gateway)
            pod["spec"]["securityContext"].update(change)
            self.assertIn("violates PodSecurity", refused(pod))
        pod = pod_of(gateway)
        pod["spec"]["containers"][0]["securityContext"]["privileged"] = True
        refused(pod)
        pod = pod_of(gateway)
        pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
        self.assertIn("hostPath", refused(pod))

    def test_manifests_that_are_wrong_are_refused_with_the_field(self):
        deployment = self.workload("tidemill-processor")
        for path, value, said in [
            (("spec", "replica"), 3, "field not declared in schema"),
            (("spec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "2 gigabytes", "quantities must match"),
            (("spec", "template", "metadata", "labels", "app.kubernetes.io/component"), "other", "`selector` does not match"),
            (("spec", "template", "spec", "containers", 0, "volumeMounts", 0, "name"), "nothing", "Not found"),
            (("spec", "template", "spec", "containers", 0, "readinessProbe", "httpGet", "port"), "no such port!", "port"),
        ]:
            broken = copy.deepcopy(deployment)
            part = broken
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value
            with self.subTest(path=path):
                self.assertIn(said, refused(broken))

    def test_objects_of_other_projects_are_held_to_their_own_schemas(self):
        scaled = copy.deepcopy(self.object("prod", "ScaledObject tidemill-processor"))
        scaled["spec"]["maxReplicaCount"] = "many"
        self.assertIn("maxReplicaCount", refused(scaled))
        monitor = copy.deepcopy(self.object("prod", "PodMonitor tidemill"))
        monitor["spec"]["podMetricsEndpoints"][0]["interval"] = "often"
        self.assertIn("interval", refused(monitor))

    def test_rules_and_dashboards_become_objects(self):
        folder = filled("tidemill-watched")
        for place, file, text in (("alerts", "late.rules.yaml", RULES), ("dashboards", "queue.json", DASHBOARD)):
            (folder.parents[1] / place).mkdir(exist_ok=True)
            (folder.parents[1] / place / file).write_text(text)
        found = {name(each): each for each in objects(folder)}
        rule, dashboard = found["PrometheusRule late"], found["ConfigMap tidemill-dashboard-queue"]
        self.assertEqual(rule["spec"]["groups"][0]["rules"][0]["alert"], "Late")
        self.assertEqual(dashboard["data"]["queue.json"], DASHBOARD)
        self.assertEqual(dashboard["metadata"]["labels"], {"grafana_dashboard": "1"})
        shared().kubectl("create", "namespace", "tidemill-watched")
        for each in (rule, dashboard):
            shared().kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=json.dumps(each))
        rule["spec"]["groups"][0]["rules"][0]["for"] = "a while"
        self.assertIn("spec.groups", refused(rule))

    def workload(self, wanted):
        return self.object("prod", f"Deployment {wanted}")

    def object(self, overlay, wanted):
        return next(each for each in self.found[overlay] if name(each) == wanted)
