"""Constraints that hold what is installed, and pin the rest as tested.

pip list --format=freeze | python binder/held.py constraints.txt > held.txt
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator


def name(line: str) -> str:
    """A requirement's name, as pip compares names (PEP 503).

    >>> name("Ruamel.yaml_clib==0.2"), name("# a comment")
    ('ruamel-yaml-clib', '')
    """
    found = re.match(r"[A-Za-z0-9._-]+", line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def held(installed: Iterable[str], tested: Iterable[str]) -> Iterator[str]:
    """Each package once: as installed where it is, else as tested.

    >>> list(held(["torch==2.10.0"], ["# pins", "torch==2.13.0", "six==1.17.0"]))
    ['torch==2.10.0', 'six==1.17.0']
    """
    there = {name(line): line.strip() for line in installed if name(line)}
    yield from there.values()
    yield from (line.strip() for line in tested if name(line) and name(line) not in there)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(*held(sys.stdin, file), sep="\n")
