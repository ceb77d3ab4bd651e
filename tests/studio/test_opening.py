"""Files that are opened: images of ours restore all, layouts and masks are those of the command line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.diffusion.layout import Region, layout_json, read_layout
from ediffi.io import png
from ediffi.pipeline.cascade import Cascade
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import PALETTE, CanvasLayout, mask_at
from ediffi.studio.gallery import Gallery
from ediffi.studio.jobs import Finished
from ediffi.studio.opening import Layout, Painting, Source, open_files, open_mask
from ediffi.studio.request import GenerationRequest
from ediffi.studio.restoring import restored

Draw = Callable[..., CanvasLayout]


def test_an_image_restores_its_request_in_another_gallery(
    backend: Backend, cascade: Cascade, wanted: GenerationRequest, drawn: Draw, tmp_path: Path
) -> None:
    style = backend.gallery.add_style(Image.new("RGB", (32, 20), "green"))
    source = backend.gallery.add_source(Image.new("RGB", (256, 256), "pink"))
    layout = drawn({"red circle": (0, 0, 30, 30)})
    request = dataclasses.replace(wanted, style=style, source=source, task="edit", layout=layout, mask=layout.image)
    *_, last = backend.generate("a", request)
    assert isinstance(last, Finished)
    taken = tmp_path / "holiday.png"
    (backend.gallery.folder / last.result[0]).rename(taken)

    other = Backend(cascade, Gallery(tmp_path / "other"))
    opened = open_files(other.gallery, [taken])
    assert isinstance(opened, Painting)
    settings = other.gallery.image(opened.name).settings
    assert restored(settings, cascade, other.gallery).request == request
    *_, again = other.generate("a", request)
    assert isinstance(again, Finished)
    assert (other.gallery.folder / again.result[0]).read_bytes() == taken.read_bytes()
    assert open_files(other.gallery, [other.gallery.folder / opened.name]) == opened  # it is not stored twice


def test_an_image_that_holds_another_file_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    path, content = tmp_path / "odd.png", tmp_path / "inner.png"
    Image.new("RGB", (8, 8)).save(content)
    png.save(Image.new("RGB", (8, 8)), path, {"prompt": "a"}, {"../../secret.png": content.read_bytes()})
    with pytest.raises(ValueError, match=r"odd\.png is broken: it holds '\.\./\.\./secret\.png'"):
        open_files(gallery, [path])
    png.save(Image.new("RGB", (8, 8)), path, {"prompt": "a"}, {"styles/x.png": b"no image"})
    with pytest.raises(ValueError, match=r"styles/x\.png in odd\.png is not an image"):
        open_files(gallery, [path])


@pytest.mark.parametrize("field", ["mask", "image"])
def test_a_drawing_is_no_address(wanted: GenerationRequest, field: str) -> None:
    content = wanted.to_json()
    address = "https://example.com/track.png"
    changed = {"layout": {"brushes": [], "image": address}} if field == "image" else {"mask": address}
    with pytest.raises(ValueError, match="is broken: it must begin with 'data:image/png;base64,'"):
        GenerationRequest.from_json({**content, **changed})


def test_a_layout_goes_to_the_command_line_and_back(drawn: Draw, gallery: Gallery, tmp_path: Path) -> None:
    layout = drawn({"red circle": (0, 0, 30, 30), "blue square": (40, 0, 63, 63)}, side=512)
    path = tmp_path / "layout.json"
    path.write_text(layout_json(layout.regions), "utf-8")
    read = read_layout(path)
    for one, other in zip(read, layout.regions, strict=True):
        assert (one.phrase, one.weight, one.occurrence) == (other.phrase, other.weight, other.occurrence)
        assert torch.equal(one.mask, other.mask)
    assert open_files(gallery, [path]) == Layout(layout)


def test_a_layout_comes_with_its_masks(gallery: Gallery, tmp_path: Path) -> None:
    mask, path = Image.new("L", (64, 64)), tmp_path / "layout.json"
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "left.png")
    triangle = [[0, 0], [1, 0], [0, 1]]
    regions = [{"phrase": "a", "mask": "left.png", "weight": 2}, {"phrase": "b", "mask": triangle, "occurrence": 2}]
    path.write_text(json.dumps(regions))
    opened = open_files(gallery, [tmp_path / "left.png", path])
    assert isinstance(opened, Layout)
    assert [(b.phrase, b.weight, b.occurrence) for b in opened.layout.brushes] == [("a", 2, None), ("b", 1, 2)]
    with pytest.raises(ValueError, match=r"^no image left\.png; open it together with the layout"):
        open_files(gallery, [path])
    regions[0]["mask"] = "data:image/png;base64,no"
    path.write_text(json.dumps(regions))
    with pytest.raises(ValueError, match="region 1: the mask is broken"):
        open_files(gallery, [path])
    path.write_text("{")
    with pytest.raises(ValueError, match=r"^layout\.json is not JSON"):
        open_files(gallery, [path])


def test_soft_masks_stay_soft(gallery: Gallery, tmp_path: Path) -> None:
    left, right = torch.zeros(64, 64), torch.zeros(64, 64)
    left[:, :32] = torch.linspace(1, 0.1, 32)
    right[:, 32:] = torch.linspace(0.1, 0.9, 32)
    path = tmp_path / "layout.json"
    path.write_text(layout_json([Region("a", left), Region("b", right, 0.5)]))
    opened = open_files(gallery, [path])
    assert isinstance(opened, Layout)
    assert opened.notices == ()
    for one, other in zip(opened.layout.regions, read_layout(path), strict=True):
        assert (one.phrase, one.weight) == (other.phrase, other.weight)
        assert torch.equal(one.mask, other.mask)


def test_what_a_canvas_cannot_show_is_told(gallery: Gallery, tmp_path: Path) -> None:
    soft, whole = torch.linspace(0, 1, 64).repeat(64, 1), torch.ones(64, 64)
    path = tmp_path / "layout.json"
    path.write_text(layout_json([Region("a", whole), Region("b", soft)]))
    opened = open_files(gallery, [path])
    assert isinstance(opened, Layout)
    stronger = "each pixel is shown and used as the stronger one's"
    assert opened.notices == (f"regions overlap on 97% of the canvas: {stronger}",)
    path.write_text(layout_json([Region(f"phrase {k}", whole) for k in range(len(PALETTE) + 1)]))
    with pytest.raises(ValueError, match="the layout has 9 regions; the page has 8 brushes"):
        open_files(gallery, [path])


def test_a_mask_file_marks_what_is_white(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    levels = np.zeros((256, 256), np.uint8)
    levels[:, :100] = 255
    Image.fromarray(levels).save(path)
    mask = mask_at(open_mask(path).url, 256)
    assert mask is not None
    assert np.array_equal(np.asarray(mask), levels)
    for wrong, message in (
        (Image.new("L", (8, 9), 255), "8x9; a mask must be square"),
        (Image.new("L", (8, 8)), "black"),
    ):
        wrong.save(path)
        with pytest.raises(ValueError, match=message):
            open_mask(path)


def test_other_images_become_a_source(gallery: Gallery, tmp_path: Path) -> None:
    wide = Image.new("RGB", (1600, 1200), "blue")
    wide.paste("red", (200, 0, 1400, 1200))
    wide.save(tmp_path / "wide.jpg")
    opened = open_files(gallery, [tmp_path / "wide.jpg"])
    assert isinstance(opened, Source)
    assert opened.notices == ("wide.jpg is 1600x1200: its centre square is used",)
    source = gallery.source(opened.name)
    assert source.size == (1024, 1024)
    assert np.asarray(source).reshape(-1, 3).mean(0) == pytest.approx([254, 0, 0], abs=3)
    (tmp_path / "notes.png").write_text("not an image")
    for paths, message in (([tmp_path / "notes.png"], r"^notes\.png is not an image"), ([], "0 files were opened")):
        with pytest.raises(ValueError, match=message):
            open_files(gallery, paths)
