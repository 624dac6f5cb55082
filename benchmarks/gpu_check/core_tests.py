"""tests/core on the device; the tests read it from IDLM_TEST_DEVICE (tests/core/conftest.py)."""

import os

import pytest

QUICK = ("tests/core/test_schedules.py", "tests/core/test_networks.py")


class Count:
    """A plugin of pytest's that notes passed, failed and the last line of each failure."""

    def __init__(self, report):
        self.report, self.passed, self.failures = report, 0, {}

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failures[report.nodeid] = str(report.longrepr)[-600:]
        if report.failed or self.passed % 20 == 0:
            self.note()

    def note(self):
        self.report.note(
            passed=self.passed, failed=len(self.failures), failures=dict(self.failures)
        )


def run(report, setting):
    os.environ["IDLM_TEST_DEVICE"] = setting.device
    count = Count(report)
    tests = QUICK if setting.dry else ("tests/core",)
    code = pytest.main([*tests, "-q", "-p", "no:cacheprovider", "--tb=short"], plugins=[count])
    count.note()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
