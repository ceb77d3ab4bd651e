"""The HTML of images: what it says of them, with every text escaped."""

from pathlib import Path

import pytest
from PIL import Image

from ediffi.studio.gallery import Gallery
from ediffi.studio.views import ACTIONS, data_url, file_url, gallery_grid, image_actions, image_details, image_panel

SETTINGS = {
    "model": "toybox",
    "prompt": 'a "red" <circle>',
    "seed": 3,
    "stages": {"base": {"sampler": "euler", "num_inference_steps": 4, "guidance_scale": 3.0}},
}
IMAGE = Image.new("RGB", (8, 8), "red")


def test_the_grid_lists_the_images(gallery: Gallery) -> None:
    assert "<p>" in gallery_grid(gallery, [], "")
    names = gallery.add([IMAGE, IMAGE], SETTINGS)
    page = gallery_grid(gallery, gallery.images(), names[1])
    assert page.count("data-name=") == 2
    assert f'data-name="{names[1]}" class="card chosen"' in page
    assert "<circle>" not in page
    assert "&lt;circle&gt;" in page


def test_the_details_say_how_an_image_was_made(gallery: Gallery) -> None:
    assert image_details(gallery, None) == '<div class="details"></div>'
    order = {"layout": {"brushes": [{"phrase": "red", "colour": "#e5484d"}]}, "paint_weight": 2.0}
    extra = {"negative_prompt": "blue", "order": order, "style": {"scale": 0.5}, "first_index": 2}
    (name,) = gallery.add([IMAGE], {**SETTINGS, **extra})
    page = image_details(gallery, gallery.image(name), ["ignored: <b>"])
    for text in ("3, image 3", "base 4, by euler", "red (weight 2)", "scale 0.5", "<dd>blue</dd>", "d: &lt;b&gt;"):
        assert text in page
    assert "data-action" not in image_actions(gallery, None)
    actions = image_actions(gallery, gallery.image(name))
    assert f'href="{file_url(gallery, name)}" download="{name}"' in actions
    assert actions.count("data-action") == len(ACTIONS)


@pytest.mark.parametrize("wrong", [{"stages": 3}, {"stages": {"base": {}}}, {"order": {"layout": []}}, {"seed": None}])
def test_settings_of_another_version_do_not_break_the_page(gallery: Gallery, wrong: dict[str, object]) -> None:
    (name,) = gallery.add([IMAGE], {**SETTINGS, **wrong})
    assert "another version" in image_details(gallery, gallery.image(name)) or wrong == {"seed": None}


def test_the_address_of_a_file_is_quoted(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "a folder #1")
    assert file_url(gallery, "a #1.png").startswith("/gallery/a%20%231.png")


def test_small_previews_are_sent_exactly_and_large_ones_small() -> None:
    assert data_url(Image.new("RGB", (16, 16))).startswith("data:image/png;base64,")
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    assert data_url(noise).startswith("data:image/jpeg;base64,")
    assert len(data_url(noise)) < 100_000


def test_the_panel_shows_images_progress_and_messages() -> None:
    assert "appears here" in image_panel([], "")
    page = image_panel(["a", "b"], "base: step 1", detail="2 s left", share=0.25, error="<no>", notices=["ignored: x"])
    assert page.count("<img") == 2
    assert 'class="panel n2"' in page
    assert "width:25.0%" in page
    assert '<div class="alert" role="alert">&lt;no&gt;</div>' in page
    assert ">ignored: x</div>" in page
