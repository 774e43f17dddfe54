"""Gathers what bundles record of their training: OUT.json BUNDLE [BUNDLE ...].

Of weights that were made in several runs, the bundle that ships records the last one. This keeps
the earlier ones, in order, for the model cards.
"""

import json
import sys
from pathlib import Path

from histoslide.model import read_spec
from histoslide.model.bundle import file_sha256

out, *bundles = map(Path, sys.argv[1:])
runs = [{**read_spec(bundle).training, "sha256": file_sha256(bundle)} for bundle in bundles]
out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
