"""duo_ext.commands.line: what all command lines share."""

import sys
import warnings

import pytest

from duo_ext.commands import line

# Libraries' words, as they were printed.
SAID = (
    "`precision=bf16` is supported for historical reasons but its usage is discouraged.",
    "Starting from v1.9.0, `tensorboardX` has been removed as a dependency",
    "`isinstance(treespec, LeafSpec)` is deprecated, use another",
    "CUDA is not available or torch_xla is imported. Disabling autocast.",
    "`torch.cuda.amp.autocast(args...)` is deprecated.",
    "'pin_memory' argument is set as true but no accelerator is found, then",
    "The lr scheduler dict contains the key(s) ['monitor'], but the keys will be ignored.",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


@pytest.mark.parametrize("said", SAID)
def test_a_warning_that_nobody_can_act_on_is_left_out(monkeypatch, said):
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line.hush()
        warnings.warn(said, stacklevel=1)
        warnings.warn("the loss is not what it was", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the loss is not what it was"]


def test_who_asks_for_warnings_gets_all(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line.hush()
        for said in SAID:
            warnings.warn(said, stacklevel=1)
    assert len(caught) == len(SAID)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "x=1"),
        ("a=1 b=2", "a=1 b=2 x=1"),
        ("-m a=1,2", "-m a=1,2 x=1"),
        ("a=1 --cfg job", "a=1 x=1 --cfg job"),
        ("--info", "x=1 --info"),
        ("-cd c=3 ~a", "-cd c=3 ~a x=1"),
    ],
)
def test_overrides_are_put_into_the_one_row_of_a_command_line(words, wanted):
    assert line.with_overrides(words.split(), lambda own: [*own, "x=1"]) == wanted.split()
