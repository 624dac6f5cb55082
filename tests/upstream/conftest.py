"""The real checkouts: DUO_ROOT names one of branch ch-1, DUO_MAIN_ROOT one of branch main."""

import pytest

from duo_ext import host


@pytest.fixture(scope="session", params=["duo ch-1", "duo main"])
def checkout(request, checkouts):
    """A real checkout as a ``Host``, each in turn."""
    variable, root = checkouts[request.param]
    if not root:
        pytest.skip(f"{variable} names no checkout of {request.param}")
    tree = host.find(root)
    assert tree.name == request.param, f"{variable} is a checkout of {tree.name}"
    return tree
