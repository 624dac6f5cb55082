"""duo_ext.commands.checking: what --check prints, on Duo's side and on SEDD's."""

import pytest

import sedd_ext.remedies
from duo_ext import host
from duo_ext.commands import checking
from duo_ext.hosting import duo, remedies


@pytest.mark.parametrize("after", [duo.AFTER, sedd_ext.remedies.AFTER])
def test_each_remedy_is_told_with_its_cause(capsys, tmp_path, after):
    one, *others = (*after, *remedies.BEFORE)
    tree = host.Host(tmp_path, "duo ch-1", "0123abc", [one])
    checking.report(tree, after)
    first, *told, cpu = capsys.readouterr().out.splitlines()
    assert first == f"host: duo ch-1 in {tmp_path}, commit 0123abc"
    assert f"   applied  {one.name}: {one.cause}" in told
    assert {f"not needed  {remedy.name}: {remedy.cause}" for remedy in others} <= set(told)
    assert cpu.startswith("bf16 on this CPU: ")
