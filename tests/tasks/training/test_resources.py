"""What a process and those below it take of the machine."""

import subprocess
import sys
import time

from tasks.training.resources import Resources, family, parse_gpus

BUSY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(100 << 20)\\nwhile True: pass'])"


def test_a_busy_grandchild_is_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as child:
        resources = Resources(child.pid)
        found: dict[str, float] = {}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            found.get("system/system_memory_usage_megabytes", 0.0) > 110
            and found.get("system/cpu_utilization_percentage", 0.0) > 0
        ):
            time.sleep(0.2)
            found = resources.sample()
        for process in reversed(family(child.pid)):
            process.kill()
    assert found["system/system_memory_usage_megabytes"] > 110
    assert 0 < found["system/cpu_utilization_percentage"] <= 100
    assert resources.sample() == {}


def test_what_the_driver_says_of_gpus_gets_the_names_that_mlflow_shows() -> None:
    assert parse_gpus("0, 87, 1024, 251.30\n1, 0, 10, [N/A]\n") == {
        "system/gpu_0_utilization_percentage": 87.0,
        "system/gpu_0_memory_usage_megabytes": 1073.7,
        "system/gpu_0_power_usage_watts": 251.3,
        "system/gpu_1_utilization_percentage": 0.0,
        "system/gpu_1_memory_usage_megabytes": 10.5,
    }
