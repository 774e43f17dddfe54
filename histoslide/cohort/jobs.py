"""Which slides are to be scored: files, folders and lists in CSV, in which order, under what name.

Of a list the columns slide, mpp, output, mask and roi are used; paths in it are relative to it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histoslide.cohort.records import output_names
from histoslide.errors import HistoslideError, SlideListError
from histoslide.geometry import Mpp
from histoslide.slide import find_slides, match_names
from histoslide.slide.slide_table import ListedSlide, read_slide_table
from histoslide.storage.location import Location, as_location

if TYPE_CHECKING:  # it imports most of the package, and the list is read before that is needed
    from histoslide.pipeline.options import ScoreOptions, TissueOptions

SlideOrder = Literal["largest", "smallest", "given"]


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """A slide to be scored, or cut into tiles."""

    path: Location
    """Slide file."""
    mpp: Mpp | None = None
    """Resolution that replaces what the slide records."""
    output: str | None = None
    """Name of its heatmap in the folder of outputs; None for one made from the slide's name."""
    mask: Path | None = None
    """Tissue mask of this slide instead of that of the run, PNG or GeoJSON."""
    roi: Path | None = None
    """Region of interest of this slide, likewise."""

    def options(self, run: ScoreOptions) -> ScoreOptions:
        """Those of a run, with the slide's own mask and region."""
        return dataclasses.replace(run, tissue=self.tissue(run.tissue))

    def tissue(self, run: TissueOptions) -> TissueOptions:
        """That of a run, with the slide's own mask and region."""
        return run.with_files(mask=self.mask, roi=self.roi)

    @property
    def heatmap(self) -> str:
        """The name of its heatmap, once ``name_outputs`` has given it one."""
        assert self.output is not None, "named before the run"
        return self.output

    @property
    def size_bytes(self) -> int:
        """Size of the slide on disk, with the folder of a ``.mrxs``; 0 where it cannot be told."""
        try:
            inside = self.path.with_suffix("")
            files = [self.path]
            if self.path.suffix.lower() == ".mrxs" and inside.is_dir():
                files += list(inside.iterdir())
            return sum(file.stat().st_size for file in files)
        except OSError:
            return 0


def collect_jobs(
    slides: Sequence[Location | str | SlideJob],
    *,
    mpp: Mpp | None = None,
    mpp_by_name: Mapping[str, Mpp] | None = None,
    recursive: bool | None = None,
) -> list[SlideJob]:
    """The jobs among ``slides`` and those that paths stand for, each with its output named.

    The arguments and errors are those of ``histoslide.cohort.run.score_slides``.
    """
    jobs = [slide for slide in slides if isinstance(slide, SlideJob)]
    paths = [as_location(it) for it in slides if not isinstance(it, SlideJob)]  # remote ones too
    found = find_jobs(paths, mpp=mpp, mpp_by_name=mpp_by_name, recursive=recursive)
    return name_outputs([*jobs, *found])


def find_jobs(
    paths: Sequence[Location],
    *,
    mpp: Mpp | None = None,
    mpp_by_name: Mapping[str, Mpp] | None = None,
    recursive: bool | None = None,
) -> list[SlideJob]:
    """The slides that files, folders and lists name, each once.

    Args:
        paths: slide files, folders of slides, and lists (``.csv``).
        mpp: resolution of slides that neither a list nor ``mpp_by_name`` gives one.
        mpp_by_name: resolutions by file name, for slides whose list gives none.
        recursive: see ``histoslide.slide.find_slides``.

    Raises:
        HistoslideError: a folder holds no slide, the only path does not exist, a list is wrong, or
            the names in ``mpp_by_name`` are not those of the slides.
    """
    jobs: list[SlideJob] = []
    for path in paths:
        if path.suffix.lower() == ".csv":
            jobs += read_slide_list(path)
        elif len(paths) == 1 or path.is_dir():
            jobs += [SlideJob(path=slide) for slide in find_slides([path], recursive=recursive)]
        else:  # one that is missing among several is a slide that failed
            jobs.append(SlideJob(path=path))
    known = match_names(mpp_by_name or {}, [job.path.name for job in jobs])
    jobs = [
        job if job.mpp else dataclasses.replace(job, mpp=known.get(job.path.name, mpp))
        for job in jobs
    ]
    return list(dict.fromkeys(jobs))


def read_slide_list(path: Location) -> list[SlideJob]:
    """The slides of a table.

    Raises:
        SlideListError: see ``histoslide.slide.slide_table.read_slide_table``; or an output is no
            plain name.
        ResolutionError: a resolution that is no positive number.
    """
    return [_job(listed) for listed in read_slide_table(path)]


def _job(listed: ListedSlide) -> SlideJob:
    output = listed.text("output")
    if output and (Path(output).name != output or output.startswith(".")):
        raise SlideListError(
            f"{listed.where}: the output {output!r} must be a plain name, which is written into "
            "--out"
        )
    name = None
    if output:
        name = output if output.endswith(".zarr") else f"{output}.zarr"
    return SlideJob(
        path=listed.path,
        mpp=listed.mpp,
        output=name,
        mask=listed.file("mask"),
        roi=listed.file("roi"),
    )


def name_outputs(jobs: Sequence[SlideJob]) -> list[SlideJob]:
    """The jobs, each with a name for its heatmap; see ``histoslide.cohort.records.output_names``.

    Raises:
        HistoslideError: two would be written to one name.
    """
    names = output_names([job.path for job in jobs if job.output is None])
    named = [
        job if job.output else dataclasses.replace(job, output=names[job.path]) for job in jobs
    ]
    twice = [name for name, count in Counter(job.output for job in named).items() if count > 1]
    if twice:
        clash = " and ".join(str(job.path) for job in named if job.output == twice[0])
        raise HistoslideError(
            f"{clash} would both be written to {twice[0]}: take them apart, or name outputs in a "
            "CSV with the columns slide,output"
        )
    return named


def order_jobs(jobs: Sequence[SlideJob], order: SlideOrder) -> list[SlideJob]:
    """The jobs by size of file, or as given; those of one size stay in the order given."""
    if order == "given":
        return list(jobs)
    return sorted(jobs, key=lambda job: job.size_bytes, reverse=order == "largest")
