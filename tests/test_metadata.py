"""What pyproject.toml says of dependencies agrees with what is tested."""

from pathlib import Path

import pytest
from lowest_versions import PROJECT, lowest_versions
from packaging.utils import canonicalize_name
from packaging.version import Version


def test_each_dependency_is_pinned_at_or_above_its_lower_bound() -> None:
    lines = (PROJECT.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    bounds = {canonicalize_name(name): Version(bound) for name, bound in lowest_versions()}
    assert len(bounds) > 50
    assert not {name: bound for name, bound in bounds.items() if pinned[name] < bound}


@pytest.mark.parametrize("requirement", ["numpy", "numpy==2.0", "numpy<3"])
def test_a_dependency_without_a_lower_bound_is_refused(tmp_path: Path, requirement: str) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        f'[project]\nname = "x"\ndependencies = ["{requirement}"]\n'
        '[project.optional-dependencies]\nall = ["x[some]"]\nsome = ["scipy[test]>=1.2"]\n'
    )
    with pytest.raises(ValueError, match=f"{requirement} is no name>=version"):
        list(lowest_versions(project))
    project.write_text(project.read_text().replace(requirement, "numpy>=2"))
    assert list(lowest_versions(project)) == [("numpy", "2"), ("scipy", "1.2")]
