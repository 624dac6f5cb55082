"""A teacher and its student, made by python -m sedd_ext in the standalone tree."""

import pytest


@pytest.fixture(scope="session")
def run(sedd_program):
    return sedd_program()


@pytest.fixture(scope="session")
def teacher(run, tmp_path_factory):
    """The folder of a run of algo=sedd."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    run(folder)
    return folder


@pytest.fixture(scope="session")
def idlm(teacher):
    """The overrides of a distillation."""
    return "algo=idlm", f"teacher={teacher}", "algo.fake_warmup=1"


@pytest.fixture(scope="session")
def student(run, teacher, idlm):
    """The folder of a run of algo=idlm."""
    folder = teacher.with_name("student")
    run(folder, *idlm)
    return folder
