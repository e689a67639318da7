"""Tables inside a hand-written page, between marks that name the experiment and the panel.

<!-- table factorial: modsum -->
<!-- end of table -->
"""

from __future__ import annotations

import re

from gateloop.table.content import Table
from gateloop.table.markdown import panel_table
from gateloop.table.words import legend

_MARKED = re.compile(
    r"(<!-- table (?P<name>\w+)(?:: (?P<panel>[^>]+?))? -->\n)"
    r"(?:(?!<!-- table ).)*?(<!-- end of table -->)",
    re.DOTALL,
)


def filled(page: str, table: Table) -> str:
    """``page`` with what stands between marks of this table's experiment written anew.

    A mark whose panel the experiment does not have is left as it is, and so is one without its end:
    what follows it may be hand-written.
    """

    def write(found: re.Match[str]) -> str:
        if found["name"] != table.experiment.name:
            return found[0]
        parts = [part for part in table.parts if part.label == (found["panel"] or "")]
        if not parts:
            return found[0]
        return f"{found[1]}{panel_table(table, parts[0])}\n\n{legend(table)}\n{found[4]}"

    return _MARKED.sub(write, page)
