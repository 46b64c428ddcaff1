"""What the manifests promise to each other and to the settings: graces, limits, scaling, network, secrets."""

import json
import re
import tomllib
import unittest

from cluster import ROOT
from overlays import all_three, component, name, objects, of_kind

SECOND = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
# What a role has to run besides its replicas.
ROLES = {"gateway", "processor", "notifier", "fetcher"}
NOTIFIER_GRACE_SECONDS = 20  # GRACE of src/roles/notifier.rs


PROCESS_BYTES = 100 << 20  # of a role without work
UPLOAD_BYTES = 15 << 20  # of gateway.uploads_max in tidemill.example.toml
PROGRAM_BYTES = 1 << 30  # what a step `program` may take unless its pipeline says otherwise


def size(text):
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)B?", text).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]


def seconds(text):
    return sum(float(number) * SECOND[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|d)", text))


def matches(selector, labels):
    """Whether a selector of labels takes these."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for wanted in selector.get("matchExpressions", []):
        inside = labels.get(wanted["key"]) in wanted["values"]
        if inside != (wanted["operator"] == "In"):
            return False
    return True


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.found = {overlay: objects(folder) for overlay, folder in all_three().items()}
        cls.settings = tomllib.loads((ROOT / "k8s/base/tidemill.toml").read_text())
        cls.example = tomllib.loads((ROOT / "tidemill.example.toml").read_text())

    def roles(self, overlay="prod"):
        return {component(each): each for each in of_kind(self.found[overlay], "Deployment")}

    def container(self, workload):
        return workload["spec"]["template"]["spec"]["containers"][0]

    def setting(self, section, key):
        return self.settings.get(section, {}).get(key, self.example[section][key])

    def test_every_role_is_a_deployment_that_rolls_without_a_gap(self):
        for overlay in self.found:
            self.assertEqual(set(self.roles(overlay)), ROLES)
            for role in self.roles(overlay).values():
                self.assertEqual(role["spec"]["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
                self.assertEqual(self.container(role)["args"], [component(role)])

    def test_a_pod_is_given_more_time_to_stop_than_its_role_takes(self):
        pause = self.container(self.roles()["gateway"])["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed = {"gateway": pause + seconds(self.setting("gateway", "drain")),
                  "processor": seconds(self.setting("processor", "drain")), "notifier": NOTIFIER_GRACE_SECONDS}
        for role, least in needed.items():
            given = self.roles()[role]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            self.assertGreaterEqual(given, least + 5, role)

    def test_every_container_has_probes_limits_and_a_root_that_is_read_only(self):
        for overlay in self.found:
            for workload in [*self.roles(overlay).values(), *of_kind(self.found[overlay], "Job")]:
                with self.subTest(overlay=overlay, workload=name(workload)):
                    container = self.container(workload)
                    self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                    self.assertIn("memory", container["resources"]["requests"])
                    self.assertLessEqual({"memory", "ephemeral-storage"}, set(container["resources"]["limits"]))
                    if workload["kind"] == "Deployment":
                        self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/healthz")
                        self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/readyz")
                        self.assertIn("startupProbe", container)
                        self.assertIn("topologySpreadConstraints", workload["spec"]["template"]["spec"])

    def test_memory_limits_hold_what_the_settings_allow(self):
        jobs = self.setting("processor", "concurrency")
        processor = size(self.setting("processor", "memory")) + jobs * PROGRAM_BYTES
        uploads = self.setting("gateway", "uploads_max") * UPLOAD_BYTES
        statements = self.setting("query", "statements_max") * size(self.setting("query", "memory"))
        for role, needed in (("processor", processor), ("gateway", uploads + statements)):
            given = size(self.container(self.roles()[role])["resources"]["limits"]["memory"])
            self.assertGreaterEqual(given, needed + PROCESS_BYTES, role)

    def test_probes_ask_where_the_settings_listen(self):
        ports = {role: self.container(each)["ports"][0]["containerPort"] for role, each in self.roles().items()}
        listens = {role: int(self.settings["gateway" if role == "gateway" else "telemetry"]["listen"].rsplit(":")[-1]) for role in ROLES}
        self.assertEqual(ports, listens)

    def test_every_role_gives_up_one_pod_at_a_time(self):
        for overlay in self.found:
            budgets = of_kind(self.found[overlay], "PodDisruptionBudget")
            for role in self.roles(overlay).values():
                labels = role["spec"]["template"]["metadata"]["labels"]
                held = [each for each in budgets if matches(each["spec"]["selector"], labels)]
                self.assertEqual([each["spec"]["maxUnavailable"] for each in held], [1], name(role))

    def test_no_more_processors_are_started_than_there_are_partitions(self):
        partitions = self.setting("broker", "partitions")
        scaled = next(each for each in of_kind(self.found["prod"], "ScaledObject") if "processor" in name(each))
        self.assertEqual(scaled["spec"]["maxReplicaCount"], partitions)
        plain = next(each for each in of_kind(self.found["options"], "HorizontalPodAutoscaler") if "processor" in name(each))
        self.assertEqual(plain["spec"]["maxReplicas"], partitions)

    def test_who_scales_a_role_owns_its_replicas(self):
        for overlay, kind in (("prod", "ScaledObject"), ("options", "HorizontalPodAutoscaler")):
            scaled = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(self.found[overlay], kind)}
            fixed = {role["metadata"]["name"] for role in self.roles(overlay).values() if "replicas" in role["spec"]}
            self.assertEqual(scaled | fixed, {f"tidemill-{role}" for role in ROLES})
            self.assertFalse(scaled & fixed)

    def test_scaling_follows_the_broker_and_the_topics_of_the_settings(self):
        triggers = next(each for each in of_kind(self.found["prod"], "ScaledObject") if "processor" in name(each))["spec"]["triggers"]
        kafka = next(each for each in triggers if each["type"] == "kafka")["metadata"]
        prefix = self.setting("broker", "topic_prefix")
        self.assertEqual(kafka["topic"], f"{prefix}.landed")
        self.assertEqual(kafka["consumerGroup"], f"{prefix}.processor")
        self.assertEqual(kafka["bootstrapServers"], "kafka-1.example.com:9092,kafka-2.example.com:9092")

    def test_metrics_that_scale_and_their_labels_are_metrics_that_there_are(self):
        known = (ROOT / "docs/metrics.md").read_text()
        text = json.dumps(of_kind(self.found["prod"], "ScaledObject"))
        used = set(re.findall(r"\btidemill_[a-z_]+\b", text))
        self.assertTrue(used)
        self.assertEqual({metric for metric in used if f"`{metric}`" not in known}, set())

    def test_the_host_of_the_ingress_is_that_of_the_public_url(self):
        ingress = of_kind(self.found["prod"], "Ingress")[0]["spec"]
        self.assertEqual([ingress["rules"][0]["host"], *ingress["tls"][0]["hosts"]], ["tidemill.example.com"] * 2)

    def test_what_asks_for_no_token_is_not_on_the_ingress(self):
        rules = of_kind(self.found["prod"], "Ingress")[0]["spec"]["rules"]
        paths = {(path["path"], path["pathType"]) for rule in rules for path in rule["http"]["paths"]}
        self.assertEqual(paths, {("/v1", "Prefix"), ("/openapi.json", "Exact")})

    def test_clients_of_postgres_come_to_the_gateway_from_where_they_may(self):
        gateway = self.roles("options")["gateway"]
        labels = gateway["spec"]["template"]["metadata"]["labels"]
        port = next(each for each in self.container(gateway)["ports"] if each["name"] == "postgres")
        variables = {each["name"]: each["value"] for each in self.container(gateway)["env"]}
        self.assertEqual(variables["TIDEMILL_POSTGRES__LISTEN"], f"0.0.0.0:{port['containerPort']}")
        service = next(each for each in of_kind(self.found["options"], "Service") if "postgres" in name(each))["spec"]
        self.assertTrue(matches({"matchLabels": service["selector"]}, labels))
        self.assertEqual([(each["port"], each["targetPort"]) for each in service["ports"]], [(5432, "postgres")])
        self.assertEqual((service["type"], service["sessionAffinity"]), ("LoadBalancer", "ClientIP"))
        rules = [rule for policy in of_kind(self.found["options"], "NetworkPolicy")
                 if matches(policy["spec"]["podSelector"], labels)
                 for rule in policy["spec"].get("ingress", []) if {"port": "postgres"} in rule["ports"]]
        clients = {"namespaceSelector": {"matchLabels": {"tidemill-postgres": "client"}}}
        self.assertEqual([rule["from"] for rule in rules], [[clients, {"ipBlock": {"cidr": "10.20.0.0/16"}}]])
        self.assertNotIn("postgres", json.dumps(of_kind(self.found["prod"], "Service", "Deployment")).lower())

    def test_nothing_is_reachable_that_no_policy_names(self):
        for overlay in self.found:
            policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(self.found[overlay], "NetworkPolicy")}
            self.assertEqual(policies["deny-all"], {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
            for policy in policies.values():
                for rule in policy.get("ingress", []):
                    self.assertTrue(rule["from"] and rule["ports"])
                for rule in policy.get("egress", []):
                    self.assertTrue(rule["to"] and rule["ports"])
                    for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                        wide = block["cidr"] in ("0.0.0.0/0", "::/0")
                        self.assertEqual("except" in block, wide, "link-local addresses are closed")

    def test_every_role_reaches_the_ports_of_the_servers_that_it_is_told_of(self):
        for overlay in ("dev", "prod"):
            place = next(each for each in of_kind(self.found[overlay], "ConfigMap") if "place" in name(each))["data"]
            ports = {"broker": {int(each.rsplit(":")[-1]) for each in place["TIDEMILL_BROKER__SERVERS"].split(",")},
                     "mail": {int(place.get("TIDEMILL_NOTIFIER__SMTP__PORT", 587))}, "database": {3306},
                     "objects": {int(place.get("TIDEMILL_OBJECTS__ENDPOINT", "https:443").rsplit(":")[-1])}}
            uses = {"gateway": ["database", "broker", "objects"], "processor": ["database", "broker", "objects"],
                    "fetcher": ["database", "broker", "objects"], "notifier": ["database", "broker", "objects", "mail"]}
            for role, deployment in self.roles(overlay).items():
                labels = deployment["spec"]["template"]["metadata"]["labels"]
                open_ports = {port["port"] for policy in of_kind(self.found[overlay], "NetworkPolicy")
                              if matches(policy["spec"]["podSelector"], labels)
                              for rule in policy["spec"].get("egress", []) for port in rule["ports"]}
                for server in uses[role]:
                    self.assertLessEqual(ports[server], open_ports, f"{overlay}: {role} to {server}")

    def test_a_role_mounts_only_the_secrets_that_it_needs(self):
        mounted = {}
        for role, deployment in self.roles("options").items():
            text = json.dumps(deployment["spec"]["template"]["spec"])
            mounted[role] = {key for key in re.findall(r'"key": "([a-z.-]+)"', text)}
        objects = {"objects-access-key", "objects-secret-key"}
        self.assertEqual(mounted, {"gateway": {"database-url", "jwt-secret", "query-tables-url", "tls.crt", "tls.key"} | objects,
                                   "processor": {"database-url", "tables-url"} | objects,
                                   "fetcher": {"database-url"} | objects,
                                   "notifier": {"database-url", "mail-user", "mail-password"} | objects})
        for overlay in ("prod", "options"):
            self.assertEqual(of_kind(self.found[overlay], "Secret"), [], "secrets of real data are not in files")
