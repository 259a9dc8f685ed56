from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_of_the_table_of_faults_names_a_test_that_exists() -> None:
    lines = (ROOT / "docs/faults.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert len(rows) > 20
    for row in rows:
        found = re.fullmatch(r"\|[^|]+\|[^|]+\| `(tests/[\w/]+\.py)::(test_\w+)` \|", row)
        assert found, f"no test is named in: {row}"
        assert f"\ndef {found[2]}(" in (ROOT / found[1]).read_text(encoding="utf-8"), row
