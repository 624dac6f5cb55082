"""report.page: one file that needs no other, with what it is given in it."""

import json
import re

from duo_ext.report import page


def test_the_page_holds_its_data_and_nothing_from_elsewhere():
    column = {"title": "</script> & co", "frames": [[0, 1], [2, 1]], "pieces": {0: "░", 1: "a"}}
    found = page.html([column])
    [data] = re.findall(r"^const columns = (.*);$", found, re.MULTILINE)
    assert json.loads(data) == json.loads(json.dumps([column]))
    assert found.count("</script>") == 1
    assert not re.search(r"""\b(src|href)\s*=|https?://|@import|url\(""", found)
