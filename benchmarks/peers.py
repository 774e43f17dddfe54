"""The whole job, slide file in and per-tile result out, with histoslide and with its peers.

    python benchmarks/peers.py setup DIR [--peers wsinfer tiatoolbox lazyslide] [--share-torch]
    python benchmarks/peers.py run DIR [--area small|full] [--strides 96 32] [--rounds 3]
        [--peers …] [--slide FILE [--mpp X]] [--levels pyramid|flat]
        [--histoslide-args="--mode dense"]

``setup`` gives histoslide and every peer a virtual environment of its own in ``DIR``: histoslide as
its users install it, with the extra ``openvino``, a peer from the requirements in
``benchmarks/peers/``. ``run`` has all of them score the same slide with the same network, tiles of
96 px at 1.0 µm/px, on the same cores, one after the other: histoslide, first peer, histoslide,
second peer, and so on, and that ``--rounds`` times. Ratios are of neighbours in that order, so that
the drift of a busy machine cancels; their median over the rounds is printed. What the columns mean
is in ``docs/explanation/speed.md``. ``--histoslide-args="--model light"`` runs the light model,
which is another network than the peers'; ``--histoslide-args=""`` the default, in which the light
model looks first, which only says something of real slides. Without it, every tile goes through the
ResNet50 (``--mode exact``).
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from numpy.typing import NDArray

Made = TypeVar("Made")

HERE = Path(__file__).parent
ROOT = HERE.parent
INPUT_PX = 96
"""Side of a tile at the model's resolution."""

MODEL_MPP = 1.0
"""Micrometres per model pixel."""

SLIDE_MPP = 0.25
"""Micrometres per level-0 pixel of a slide that is made here."""

SIDES_PX = {
    "small": {96: 4992, 32: 2688},
    "full": {96: 20352, 32: 9984},
}
"""Side of the slide at level 0 by area and stride: whole tiles of 384 px, so that no tool meets an
edge, and few enough tiles at stride 32 for the slowest one."""

START_SIDES_PX = {96: 3072, 32: 1024}
"""Side by stride of the slide on which little but the start takes time: histoslide has 64 tiles
there, which fills whole batches, for batches may be padded."""

QUALITY = 80
"""JPEG quality of the slides that are made here."""


OURS = "histoslide"
"""Folder of our own virtual environment."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One way to score a slide."""

    name: str
    """As the tables call it."""
    environment: str = OURS
    """Folder of its virtual environment, and of a peer's files here."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Goes into the job that its script reads."""
    arguments: tuple[str, ...] = ()
    """Added to histoslide's command line."""


PEERS = {
    tool.name: tool
    for tool in (
        Tool(name="wsinfer", environment="wsinfer", options={"speedup": False}),
        Tool(name="wsinfer-speedup", environment="wsinfer", options={"speedup": True}),
        Tool(name="tiatoolbox", environment="tiatoolbox"),
        Tool(name="lazyslide", environment="lazyslide", options={"amp": False}),
        Tool(name="lazyslide-bf16", environment="lazyslide", options={"amp": True}),
    )
}
"""``lazyslide-bf16`` only helps on processors with bfloat16 instructions, so it is not run unless
it is asked for."""

SHARED = ("torch==2.14.1", "torchvision==0.29.1")
"""What ``--share-torch`` installs once for the peers whose requirements hold the same versions."""

DEFAULT_PEERS = ("wsinfer", "wsinfer-speedup", "tiatoolbox", "lazyslide")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process of one tool."""

    tool: str
    """Its name."""
    round: int
    """Counted from 0."""
    after: int
    """Which of the histoslide runs of the round this is or follows, counted from 0."""
    stride_px: int
    """Model pixels between tiles."""
    start_only: bool
    """Whether on the small slide that shows what starting costs."""
    tiles: int
    """Scored."""
    wall_s: float
    """From starting the process to its end."""
    cpu_s: float
    """Processor time of it and the processes that it waited for."""
    peak_mib: float
    """Largest resident memory of one of these processes."""


# --------------------------------------------------------------------------- environments


def set_up(folder: Path, names: Iterable[str], *, share_torch: bool) -> None:
    """Make the virtual environments that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = None
    if share_torch:
        shared = make_environment(folder / "torch", SHARED)
    for name in dict.fromkeys([OURS, *(PEERS[name].environment for name in names)]):
        pins = HERE / "peers" / f"{name}.txt"
        wanted = ["-r", str(pins)]
        if name == OURS:
            pins = ROOT / "constraints.txt"
            wanted = ["-c", str(pins), "-e", f"{ROOT}[openvino]"]
        fits = set(SHARED) <= set(pins.read_text().splitlines())
        make_environment(folder / name, wanted, beside=shared if fits else None)


def make_environment(folder: Path, wanted: Sequence[str], *, beside: Path | None = None) -> Path:
    """Make an environment unless it is there, and return where its packages lie."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    done = folder / "complete"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        if beside is not None:
            (packages / "shared_torch.pth").write_text(f"{beside}\n")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted]
        print(f"{folder.name}: pip install {' '.join(wanted)}", flush=True)
        subprocess.run(pip, check=True)
        done.touch()
    return packages


# --------------------------------------------------------------------------- slide and network


def make_slide(work: Path, side: int, *, flat: bool) -> Path:
    """Write a slide that is tissue from edge to edge.

    Its tiles are JPEG with chroma at half resolution in a file that passes for Aperio's; it has the
    levels 1, 4 and 16, or when ``flat`` only the first.
    """
    name = f"{side}-{'flat' if flat else 'pyramid'}"
    path = work / name / f"{name}.svs"  # alone in its folder, as WSInfer wants it
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aperio(path, fill(texture(work / "texture.npy"), side), mpp=SLIDE_MPP, flat=flat)
    return path


def with_resolution(work: Path, slide: Path, mpp: float) -> Path:
    """A copy of a slide that records a resolution, which peers cannot be told."""
    import openslide  # noqa: PLC0415

    path = work / f"{slide.stem}-{slide.stat().st_size}-{mpp:g}" / f"{slide.stem}.svs"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with openslide.OpenSlide(slide) as file:
        pixels = np.asarray(file.read_region((0, 0), 0, file.dimensions).convert("RGB"))
    height, width = (side // 16 * 16 for side in pixels.shape[:2])  # halved four times
    write_aperio(path, pixels[:height, :width], mpp=mpp, flat=False)
    return path


def write_aperio(path: Path, level: NDArray[np.uint8], *, mpp: float, flat: bool) -> None:
    """Write pixels as a file that passes for Aperio's."""
    partial = path.with_suffix(".partial")
    # The words by which readers know an Aperio slide and its resolution: TIAToolbox takes none from
    # the resolution tags of a plain TIFF.
    height, width = level.shape[:2]
    description = f"Aperio\r\n{width}x{height} Q={QUALITY}|AppMag = 40|MPP = {mpp}"
    with tifffile.TiffWriter(partial) as tiff:
        for downsample in (1,) if flat else (1, 4, 16):
            if downsample > 1:
                level = halve(halve(level))
            tiff.write(
                level,
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                subsampling=(2, 2),
                subfiletype=0 if downsample == 1 else 1,
                description=description,
                metadata=None,
            )
    partial.replace(path)


def made_elsewhere(work: Path, side: int, *, flat: bool) -> Path:
    """``make_slide`` in a process of its own."""
    return elsewhere(make_slide, work, side, flat=flat)


def elsewhere(function: Callable[..., Made], *args: Any, **kwargs: Any) -> Made:
    """What a function makes in a process of its own.

    The system counts the memory that it takes here to every process that is started from here.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()


def texture(cache: Path) -> NDArray[np.uint8]:
    """The middle of a drawn lymph node, where there is no glass; shape (1024, 1024, 3)."""
    if not cache.exists():
        from histoslide.synthetic import scene  # noqa: PLC0415

        np.save(cache, scene(2048, 2048, mpp=SLIDE_MPP, seed=3).pixels[512:1536, 512:1536])
    return np.asarray(np.load(cache))


def fill(pattern: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Repeat a pattern, mirrored so that no seam shows, to (side, side, 3)."""
    period = np.concatenate([pattern, pattern[::-1]])
    period = np.concatenate([period, period[:, ::-1]], axis=1)
    times = -(-side // len(period))
    return np.tile(period, (times, times, 1))[:side, :side]


def halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 by 2 pixels."""
    total = pixels[::2, ::2].astype(np.uint16)
    for rows, columns in ((0, 1), (1, 0), (1, 1)):
        total += pixels[rows::2, columns::2]
    return ((total + 2) // 4).astype(np.uint8)


def make_model(folder: Path) -> dict[str, Any]:
    """Write the shipped weights for all tools: a bundle, and TorchScript with its configuration.

    Returns:
        What the peers' scripts need to know of the model.
    """
    import torch  # noqa: PLC0415

    from histoslide.model.architectures import load_network  # noqa: PLC0415
    from histoslide.model.wsinfer import wsinfer_config  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    light = folder / "light.safetensors"
    copy_bundle("light", light)
    spec, state = copy_bundle("default", folder / "bundle.safetensors", light=light)
    (folder / "config.json").write_text(json.dumps(wsinfer_config(spec)))
    network = calibrated(load_network(spec.architecture, len(spec.classes), state), spec)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        example = torch.zeros(1, 3, INPUT_PX, INPUT_PX)
        torch.jit.save(torch.jit.trace(network, example), folder / "network.pt")
    return {
        "model": str(folder),
        "input_px": INPUT_PX,
        "mpp": MODEL_MPP,
        "mean": spec.mean,
        "std": spec.std,
        "classes": spec.classes,
        "tumour_index": spec.tumour_index,
    }


def calibrated(network: Any, spec: Any) -> Any:
    """A network with its temperature, of which the peers know nothing."""
    import torch  # noqa: PLC0415

    class Divided(torch.nn.Module):
        def forward(self, logits: Any) -> Any:
            return logits / spec.temperature

    return torch.nn.Sequential(network, Divided()).eval()


def copy_bundle(name: str, copy: Path, *, light: Path | None = None) -> tuple[Any, dict[str, Any]]:
    """Write a shipped bundle for the resolution of this benchmark, with its record of fast paths.

    Args:
        name: of the bundle.
        copy: file to write.
        light: the copy of the bundle that looks first.

    Returns:
        Its spec and weights.
    """
    from histoslide.model import load_bundle, save_bundle, shipped_bundle  # noqa: PLC0415
    from histoslide.model.bundle import file_sha256  # noqa: PLC0415
    from histoslide.model.fast_paths import (  # noqa: PLC0415
        read_fast_paths,
        write_fast_paths,
    )
    from histoslide.storage.records import Absent  # noqa: PLC0415

    shipped = shipped_bundle(name)
    spec, state = load_bundle(shipped)
    spec = dataclasses.replace(spec, mpp=MODEL_MPP, input_px=INPUT_PX, network_px=INPUT_PX)
    save_bundle(copy, spec, state, overwrite=True)
    if paths := read_fast_paths(shipped, sha256=file_sha256(shipped)):
        gate = paths.first_look
        if not isinstance(gate, Absent):
            assert light is not None
            sha256 = file_sha256(light)
            gate = dataclasses.replace(gate, file=light.name, weights_sha256=sha256)
        paths = dataclasses.replace(paths, weights_sha256=file_sha256(copy), first_look=gate)
        write_fast_paths(copy, paths)
    return spec, state


# --------------------------------------------------------------------------- running


class ToolFailedError(Exception):
    """A tool's process ended with another status than 0."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how the tools run."""

    folder: Path
    """Of the environments."""
    job: dict[str, Any]
    """What is the same for all runs."""
    cores: Sequence[int]
    """The processors that every process is kept on."""

    def measure(
        self, tool: Tool, slide: Path, stride_px: int, **where: Any
    ) -> tuple[Run, dict[tuple[int, int], float]]:
        """Score a slide in a new process; also gives the probability of each tile by its corner."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            out = Path(scratch)
            job = out / "job.json"
            settings = {"slide": str(slide), "out": str(out), "stride_px": stride_px}
            job.write_text(json.dumps(self.job | settings | tool.options))
            log = out / "log.txt"
            wall_s, cpu_s, peak_mib = self.spend(self.command(tool, "score", job), out, log)
            if tool.environment == OURS:
                tiles = self.read_heatmap(out / "heat.zarr", stride_px)
            else:
                self.spend(self.command(tool, "read", job), out, log)
                tiles = read_tiles(out / "tiles.npz")
        run = Run(
            tool=tool.name,
            stride_px=stride_px,
            tiles=len(tiles),
            wall_s=wall_s,
            cpu_s=cpu_s,
            peak_mib=peak_mib,
            **where,
        )
        return run, tiles

    def command(self, tool: Tool, action: str, job: Path) -> list[str]:
        """What to run."""
        python = str(self.folder / tool.environment / "bin" / "python")
        if tool.environment != OURS:
            return [python, str(HERE / "peers" / f"run_{tool.environment}.py"), action, str(job)]
        given = json.loads(job.read_text())
        code = "from histoslide_cli.main import run_command; run_command()"
        return [
            *(python, "-c", code, "score", given["slide"]),
            *("--out", str(job.parent / "heat.zarr")),
            *("--model", str(Path(given["model"]) / "bundle.safetensors")),
            *("--stride", str(given["stride_px"]), "--tissue", "none", "--device", "cpu"),
            # The shipped one sees 0.972 µm/px, where all of this is at 1.0.
            *(
                f"{given['model']}/light.safetensors" if it == "light" else it
                for it in tool.arguments
            ),
        ]

    def spend(self, command: Sequence[str], home: Path, log: Path) -> tuple[float, float, float]:
        """Run a command; returns wall seconds, processor seconds and peak memory in MiB."""
        threads = str(len(self.cores))
        kept = self.folder / "home"  # what tools keep for their next run, as a user's home does
        kept.mkdir(exist_ok=True)
        environment = os.environ | {
            "HOME": str(kept),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "PYTHONPATH": "",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        with log.open("a") as file:
            start = time.perf_counter()
            process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, self.cores)), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                cwd=home,
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            tail = "\n".join(log.read_text().splitlines()[-15:])
            raise ToolFailedError(f"status {process.returncode}:\n{tail}")
        return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024

    def read_heatmap(self, path: Path, stride_px: int) -> dict[tuple[int, int], float]:
        """The scored tiles of a heatmap."""
        import zarr  # noqa: PLC0415

        heat = np.asarray(zarr.open_group(path, mode="r")["0"])
        scale = MODEL_MPP / self.job["slide_mpp"]
        margin = (INPUT_PX - stride_px) / 2
        rows, columns = np.nonzero(np.isfinite(heat))
        return {
            (round((c * stride_px - margin) * scale), round((r * stride_px - margin) * scale)): p
            for r, c, p in zip(rows, columns, heat[rows, columns], strict=True)
        }


def read_tiles(path: Path) -> dict[tuple[int, int], float]:
    """What a peer's script has gathered."""
    with np.load(path) as file:
        triples = zip(file["x"], file["y"], file["p"], strict=True)
        return {(round(float(x)), round(float(y))): float(p) for x, y, p in triples}


def compare(
    bench: Bench,
    ours: Sequence[Tool],
    peers: Sequence[Tool],
    slides: tuple[Path, Path],
    *,
    stride_px: int,
    rounds: int,
) -> list[Run]:
    """Run everything in turn at one stride; says on stderr what fails and how far results agree."""
    slide, start_slide = slides
    runs: list[Run] = []
    reference: dict[tuple[int, int], float] = {}
    for number in range(rounds):
        for position, peer in enumerate(peers):
            for tool in (*ours, peer):
                where = {"round": number, "after": position}
                try:
                    if position == 0 or tool is peer:
                        if number == 0:  # fills the system's caches of files, and the tool's own
                            bench.measure(tool, start_slide, stride_px, start_only=True, **where)
                        start, _ = bench.measure(
                            tool, start_slide, stride_px, start_only=True, **where
                        )
                        runs.append(start)
                    run, tiles = bench.measure(tool, slide, stride_px, start_only=False, **where)
                except ToolFailedError as error:
                    say(f"{tool.name} failed, {error}")
                    continue
                runs.append(run)
                reference = reference or tiles
                agrees = agreement(reference, tiles)
                say(f"{run.tool}: {run.tiles} tiles, {run.wall_s:.1f} s{agrees}")
    return runs


def agreement(reference: dict[tuple[int, int], float], tiles: dict[tuple[int, int], float]) -> str:
    """How many tiles lie at places of the reference, and the difference there."""
    shared = reference.keys() & tiles.keys()
    if not shared:
        return ", none where histoslide has one"
    differences = [abs(reference[place] - tiles[place]) for place in shared]
    return (
        f", {len(shared)} where histoslide has one; probabilities differ by "
        f"{statistics.median(differences):.4f} in the median, {max(differences):.4f} at most"
    )


def say(text: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------- tables


def table(runs: Sequence[Run], stride_px: int) -> str:
    """Markdown: what each tool did, medians over its runs."""
    lines = [
        "| tool | tiles | wall s | start s | tiles/s | tiles/s after start | tiles/CPU-s | MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(run.tool for run in runs if run.stride_px == stride_px):
        whole = pick(runs, name, stride_px, start_only=False)
        start = pick(runs, name, stride_px, start_only=True)
        if not whole or not start:
            continue
        wall, begun = median(whole, "wall_s"), median(start, "wall_s")
        tiles, few = whole[0].tiles, start[0].tiles
        rate = steady(tiles, wall, few, begun)
        lines.append(
            f"| {name} | {tiles:,} | {wall:.1f} | {begun - few / rate:.1f} | {tiles / wall:.1f} | "
            f"{rate:.1f} | {tiles / median(whole, 'cpu_s'):.1f} | "
            f"{median(whole, 'peak_mib'):,.0f} |"
        )
    return "\n".join(lines)


def ratios(runs: Sequence[Run], ours: Sequence[Tool], stride_px: int) -> str:
    """Markdown: how many times a peer's tiles/s each histoslide does, whole and after its start."""
    chosen = [run for run in runs if run.stride_px == stride_px]
    names = {tool.name for tool in ours}
    peers = [name for name in dict.fromkeys(run.tool for run in chosen) if name not in names]
    lines = [f"| | {' | '.join(peers)} |", "|---|" + "---:|" * len(peers)]
    for tool in ours:
        cells = []
        for peer in peers:
            pairs = [
                (mine, theirs)
                for theirs in pick(chosen, peer, stride_px, start_only=False)
                for mine in pick(chosen, tool.name, stride_px, start_only=False)
                if (mine.round, mine.after) == (theirs.round, theirs.after)
            ]
            cells.append(ratio_cell(chosen, pairs))
        lines.append(f"| {tool.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_cell(runs: Sequence[Run], pairs: Sequence[tuple[Run, Run]]) -> str:
    """Median of the ratios of neighbouring runs: whole (after the start)."""
    if not pairs:
        return "–"
    whole = [mine.tiles / mine.wall_s * theirs.wall_s / theirs.tiles for mine, theirs in pairs]
    after = [steady_rate(runs, mine) / steady_rate(runs, theirs) for mine, theirs in pairs]
    if not all(map(math.isfinite, after)):  # the machine was too busy, or the slide too small
        return f"{statistics.median(whole):.2f}"
    return f"{statistics.median(whole):.2f} ({statistics.median(after):.2f})"


def steady_rate(runs: Sequence[Run], run: Run) -> float:
    """Tiles a second of a run once it has started."""
    start = pick(runs, run.tool, run.stride_px, start_only=True)
    return steady(run.tiles, run.wall_s, start[0].tiles, median(start, "wall_s"))


def steady(tiles: int, wall_s: float, few: int, start_s: float) -> float:
    """The rate between a short and a long run, in which what happens once cancels."""
    return (tiles - few) / (wall_s - start_s) if wall_s > start_s else float("nan")


def pick(runs: Sequence[Run], tool: str, stride_px: int, *, start_only: bool) -> list[Run]:
    """A tool's runs of one kind."""
    wanted = (tool, stride_px, start_only)
    return [run for run in runs if (run.tool, run.stride_px, run.start_only) == wanted]


def median(runs: Sequence[Run], field: str) -> float:
    """Of one field."""
    return statistics.median(getattr(run, field) for run in runs)


# --------------------------------------------------------------------------- command line


def main() -> None:
    """Set up or run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    setup = actions.add_parser("setup", help="make the peers' virtual environments")
    run = actions.add_parser("run", help="measure")
    for action in (setup, run):
        action.add_argument("folder", type=Path, metavar="DIR")
        action.add_argument("--peers", nargs="+", choices=PEERS, default=list(DEFAULT_PEERS))
    setup.add_argument("--share-torch", action="store_true", help="one torch on disk for all")
    run.add_argument("--area", choices=SIDES_PX, default="small")
    run.add_argument("--strides", type=int, nargs="+", default=[96, 32], choices=(96, 32))
    run.add_argument("--levels", choices=("pyramid", "flat"), default="pyramid")
    run.add_argument("--slide", type=Path, help="score this one instead of making one")
    run.add_argument("--mpp", type=float, help="its resolution, where it records none")
    run.add_argument("--rounds", type=int, default=1)
    run.add_argument("--batch", type=int, default=64, help="tiles in a batch of the peers")
    run.add_argument("--workers", type=int, help="reading processes of the peers (default: cores)")
    run.add_argument("--cores", type=int, help="processors to use (default: all)")
    run.add_argument("--histoslide-args", action="append", metavar="ARGS", help="may be repeated")
    run.add_argument("--json", type=Path, metavar="FILE", help="also write every run there")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.action == "run" and arguments.mpp and not arguments.slide:
        parser.error("--mpp is of --slide")
    if arguments.action == "setup":
        set_up(folder, arguments.peers, share_torch=arguments.share_torch)
    else:
        run_all(folder, arguments)


def run_all(folder: Path, arguments: argparse.Namespace) -> None:
    """Measure at every stride, printing tables as they come."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    given = arguments.histoslide_args or ["--mode exact"]
    ours = [
        Tool(name=f"histoslide {text}".strip(), arguments=tuple(shlex.split(text)))
        for text in given
    ]
    workers = len(cores) if arguments.workers is None else arguments.workers
    flat = arguments.levels == "flat"
    job = elsewhere(make_model, work / "model") | {"batch": arguments.batch, "workers": workers}
    runs: list[Run] = []
    for stride_px in arguments.strides:
        start_slide = made_elsewhere(work, START_SIDES_PX[stride_px], flat=flat)
        if arguments.slide and arguments.mpp:
            slide = elsewhere(with_resolution, work, arguments.slide.resolve(), arguments.mpp)
        elif arguments.slide:
            slide = alone(work, arguments.slide)
        else:
            slide = made_elsewhere(work, SIDES_PX[arguments.area][stride_px], flat=flat)
        bench = Bench(
            folder=folder,
            job=job | {"slide_mpp": slide_mpp(slide)},
            cores=cores,
        )
        peers = [PEERS[name] for name in arguments.peers]
        runs += compare(
            bench,
            ours,
            peers,
            (slide, start_slide),
            stride_px=stride_px,
            rounds=arguments.rounds,
        )
        print(f"\n{slide.name}, stride {stride_px}, {len(cores)} cores, {arguments.rounds} rounds:")
        print(f"\n{table(runs, stride_px)}")
        print("\nhistoslide's tiles/s over the peer's, whole run (after start):")
        print(f"\n{ratios(runs, ours, stride_px)}", flush=True)
        if arguments.json:
            rows = [dataclasses.asdict(run) for run in runs]
            arguments.json.write_text(json.dumps(rows, indent=1))


def alone(work: Path, slide: Path) -> Path:
    """A link to a slide in a folder that holds nothing else."""
    folder = work / "given"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    link = folder / slide.name
    link.symlink_to(slide.resolve())
    return link


def slide_mpp(slide: Path) -> float:
    """Micrometres per level-0 pixel, as OpenSlide has it."""
    import openslide  # noqa: PLC0415

    with openslide.OpenSlide(slide) as file:
        return float(file.properties[openslide.PROPERTY_NAME_MPP_X])


if __name__ == "__main__":
    main()
