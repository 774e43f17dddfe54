"""One table of slides serves every command; what it says is understood in one way."""

from pathlib import Path

import pytest

from histoslide.cohort.jobs import SlideJob, read_slide_list
from histoslide.errors import DataError, SlideListError
from histoslide.evaluation.slides.stages import NodeClass, Stage
from histoslide.geometry import Mpp
from histoslide.judging.reference import ReferenceSlide
from histoslide.judging.reference import read_reference as read_judged
from histoslide.mining.reference import read_reference as read_mined
from histoslide.review import ReviewedSlide
from histoslide.slide.slide_table import COLUMNS, by_slide, read_slide_table, slide_key
from histoslide.tiling.labelled.slide_list import LabelledSlide, read_labelled_list

XML = '<ASAP_Annotations><Annotations><Annotation Name="a" PartOfGroup="Tumor"><Coordinates>'


def whole_table(folder: Path) -> Path:
    """A list with every column there is, of a slide with tumour and one without."""
    points = "".join(f'<Coordinate X="{x}" Y="{y}"/>' for x, y in ((10, 10), (90, 10), (90, 90)))
    drawn = f"{XML}{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    (folder / "a.xml").write_text(drawn)
    (folder / "b_mask.png").write_bytes(b"a tissue mask, which nobody may take for tumour")
    path = folder / "cohort.csv"
    path.write_text(
        f"{','.join(COLUMNS)}\n"
        "s/a.tif,0.25,left,am.png,ar.geojson,p,north,x,a.xml,no,tumour,macro,pN1,train\n"
        "s/b.tif,,,b_mask.png,,q,south,y,,,normal,,,valid\n"
    )
    return path


def test_one_table_serves_every_command(tmp_path: Path) -> None:
    path = whole_table(tmp_path)
    a, b = tmp_path / "s" / "a.tif", tmp_path / "s" / "b.tif"
    mpp, mask = Mpp(value=0.25, source="cohort.csv"), tmp_path / "am.png"
    roi, other = tmp_path / "ar.geojson", tmp_path / "b_mask.png"
    assert read_slide_list(path) == [
        SlideJob(path=a, mpp=mpp, output="left.zarr", mask=mask, roi=roi),
        SlideJob(path=b, mask=other),
    ]
    assert read_labelled_list(path) == [
        LabelledSlide(
            path=a, mpp=mpp, patient="p", centre="north", mask=mask, roi=roi, tumour=True,
            annotations=tmp_path / "a.xml", exhaustive=False, part="train",
        ),
        LabelledSlide(
            path=b, patient="q", centre="south", mask=other, tumour=False, part="valid"
        ),
    ]  # fmt: skip
    judged = read_judged(path)
    assert judged.of("A.TIF") == ReferenceSlide(
        name="a.tif", tumour=True, patient="p", centre="north", scanner="x", exhaustive=False,
        annotation=tmp_path / "a.xml", node=NodeClass.MACRO, for_training=True,
    )  # fmt: skip
    assert judged.of("b.tif") == ReferenceSlide(
        name="b.tif", tumour=False, patient="q", centre="south", scanner="y"
    )
    assert judged.stages == {"p": Stage.N1}
    mined = read_mined(path)
    assert mined.refusal("a.tif") is None
    assert mined.refusal("b.tif") == "cohort.csv marks it as valid"  # listed with its folder
    known = mined.find(ReviewedSlide(name="a.tif", quickhash="a", size_l0=(100, 100)))
    assert known is not None
    assert (known.kind, known.exhaustive, known.file) == ("annotations", False, tmp_path / "a.xml")
    free = mined.find(ReviewedSlide(name="b.tif", quickhash="b", size_l0=(100, 100)))
    assert free is not None
    assert (free.kind, free.exhaustive, free.file) == ("negative", True, None)
    told = read_mined(path, negative=["a"])
    with pytest.raises(
        DataError, match=r"a\.tif is said to be negative, but is listed with tumour"
    ):
        told.find(ReviewedSlide(name="a.tif", quickhash="a", size_l0=(100, 100)))


def test_columns_have_other_names_and_any_case(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Image, Center,annotation,SET,class\n C:\\x\\a.svs , c,,test,Tumor\n")
    (slide,) = read_slide_table(path)
    assert slide.name == "a.svs"
    assert [slide.text(name) for name in ("centre", "part")] == ["c", "test"]
    assert (slide.tumour, slide.annotations, slide.exhaustive, slide.mpp) == (
        True,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "slide,patinet\na,p\n",
            "has the columns slide,patinet: need slide, and may have mpp, out",
        ),
        ("slide,part,split\na,test,train\n", r"has the columns slide,part,split: .* each once"),
        ("slide,Slide\na,b\n", "each once"),
        ("mpp\n1\n", "need slide"),
        ("slide\n", "lists no slide"),
        ("slide,mpp\nfolder/,1\n/,1\n", "line 3: names no slide"),
        ("slide,label\na,x\0\n", "line 2: has a NUL byte"),
        ("slide\na.tif\nx/A.svs\n", "line 3: A.svs is listed twice"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(SlideListError, match=rf"t\.csv.*{said}"):
        by_slide(read_slide_table(path))


@pytest.mark.parametrize(
    ("cells", "tumour"),
    [
        (",,", None), ("1,,", True), ("normal,,", False), (",macro,", True), (",Negative,", False),
        (",,none", False), ("0,negative,None", False), (",,a.xml", None), ("no,,a.xml", False),
    ],
)  # fmt: skip
def test_tumour_is_told_in_three_ways(tmp_path: Path, cells: str, tumour: bool | None) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"slide,label,node,annotations\na.tif,{cells}\n")
    assert read_slide_table(path)[0].tumour is tumour


def test_names_that_can_be_meant_by_each_other() -> None:
    assert len({slide_key(name) for name in ("a.tif", "x/A", "C:\\y\\A.svs")}) == 1
    assert slide_key("node.1") != slide_key("node.2")  # no ending, but a number
