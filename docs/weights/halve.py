"""Divides a validation folder in two by the hashes of the file names: FOLDER OUT.

OUT/choose/{0,1} is for choosing epochs and the temperature, OUT/report/{0,1} for the figures that
are reported.
"""

import hashlib
import os
import sys
from pathlib import Path

source, out = Path(sys.argv[1]), Path(sys.argv[2])
for patch in sorted(source.glob("[01]/*")):
    name_hash = hashlib.sha1(patch.name.encode(), usedforsecurity=False)
    digest = int(name_hash.hexdigest(), 16)
    target = out / ("report" if digest % 2 else "choose") / patch.parent.name / patch.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(patch, target)
