"""The binary reads what its pods would read: files mounted and variables set as a kubelet does, checked by `tidemill check`."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from cluster import BINARY, ROOT
from overlays import all_three, component, filled, objects, of_kind, secret_data


def settle(workload, found, root, secret):
    """Lays out the volumes of a pod below a folder; gives its variables, with paths that lead there."""
    spec = workload["spec"]["template"]["spec"]
    container = spec["containers"][0]
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(found, "ConfigMap")}
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounts = []
    for mount in container["volumeMounts"]:
        volume, folder = volumes[mount["name"]], Path(f"{root}{mount['mountPath']}")
        folder.mkdir(parents=True)
        mounts.append(mount["mountPath"])
        if "configMap" in volume:
            for file, text in maps[volume["configMap"]["name"]].items():
                (folder / file).write_text(text)
        for item in volume.get("secret", {}).get("items", []):
            (folder / item["path"]).write_text(secret[item["key"]])
    variables = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            variables |= maps[source["configMapRef"]["name"]]
        else:
            assert source["secretRef"]["optional"], "a Secret that nobody was told to make"
    for variable in container["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        value = secret[reference["key"]] if reference else variable["value"]
        inside = any(value.startswith(f"{mount}/") for mount in mounts)
        variables[variable["name"]] = f"{root}{value}" if inside else value
    return variables


def check(workload, found):
    """What `tidemill check` says in the pod of a role, or of the migration."""
    with tempfile.TemporaryDirectory() as root:
        variables = settle(workload, found, root, secret_data(found))
        role = [] if component(workload) == "migrate" else ["--role", component(workload)]
        return subprocess.run([BINARY, "check", *role, "--pipelines", ROOT / "pipelines"], env=variables, cwd=root,
                              text=True, capture_output=True)


class Settings(unittest.TestCase):
    def test_every_role_of_every_overlay_has_settings_that_it_can_start_with(self):
        for overlay, folder in all_three().items():
            found = objects(folder)
            for workload in of_kind(found, "Deployment", "Job"):
                with self.subTest(overlay=overlay, role=component(workload)):
                    answer = check(workload, found)
                    self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)

    def test_every_role_of_the_binary_runs_in_the_cluster(self):
        answer = subprocess.run([BINARY, "check", "--role", "?"], text=True, capture_output=True)
        roles = set(re.search(r"possible values: (.*)\]", answer.stderr)[1].split(", "))
        self.assertEqual({component(each) for each in of_kind(objects(filled()), "Deployment")}, roles)

    def test_every_container_runs_a_command_that_there_is(self):
        for folder in all_three().values():
            for workload in of_kind(objects(folder), "Deployment", "Job"):
                for container in workload["spec"]["template"]["spec"]["containers"]:
                    answer = subprocess.run([BINARY, *container["args"], "--help"], text=True, capture_output=True)
                    self.assertEqual(answer.returncode, 0, answer.stderr)

    def test_a_setting_that_is_none_is_refused_by_name(self):
        said = self.refusal("gateway", ("TIDEMILL_OBJECTS__URL", "TIDEMILL_OBJECTS__URLS"))
        self.assertIn("TIDEMILL_OBJECTS__URLS", said)
        self.assertIn("`objects.url` is missing", said)

    def test_a_wrong_value_is_refused_by_name(self):
        said = self.refusal("processor", ("s3://company/tidemill", "company/tidemill"))
        self.assertIn("objects.url", said)

    def refusal(self, role, change):
        found = objects(filled(changes=[change]))
        workload = next(each for each in of_kind(found, "Deployment") if component(each) == role)
        answer = check(workload, found)
        self.assertEqual(answer.returncode, 1, answer.stdout)
        return answer.stdout + answer.stderr
