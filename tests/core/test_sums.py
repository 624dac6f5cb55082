"""core.sums: products give the sums that torch's own give."""

import pytest
import torch

from duo_ext.core import sums


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1000, 70000])
def test_products_give_the_cumulated_sums(n):
    values = torch.rand(2, n, dtype=torch.float64)
    torch.testing.assert_close(sums.by_products(values), values.cumsum(-1), rtol=1e-12, atol=1e-12)
    assert torch.equal(sums.cumulated(values), values.cumsum(-1))  # on a CPU
