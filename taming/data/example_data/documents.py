"""Text files of the example data: where it comes from, and the provenance lists of S-FLCKR."""

from pathlib import Path

from taming.data.example_data.layout import save_list, save_text

FLICKR_TAGS = """
alaska_lakes alaska_mountains antarctica_landscape australia black_forest british_columbia_landscape canada carribean
cliff_ocean desert dramatic_landscape geysir glacier_national_park glacier_sunset glacier_waterton_national_park
gobi_landscape greenland_landscape iceland_landscape ireland jungle kamchatka_landscape lakes meadow mongolia
mountain_inversion mountains_autumn mountain_sunset newzealand_np norway prairie_landscape rondane_national_park
scotland sunset swiss_landscape swiss_mountains taiga_landscape tibet_landscape tundra_landscape utah_landscape volcano
"""
SUBREDDITS = """
AutumnPorn BeachPorn DesertPorn EarthPorn LakePorn LavaPorn MushroomPorn SkyPorn SpacePorn SpringPorn WeatherPorn
WinterPorn
"""
NAMES = ("README.md", "flickr_tags.txt", "subreddits.txt")

README = """# Example data

Small data in the formats of the real data sets, so that every demo runs without a download. Everything here but this
page's facts is made by one command, which gives the same bytes with the same versions of NumPy and Pillow:

    python scripts/make_example_data.py --force
    python scripts/make_example_data.py --check

| files | format | read by |
|---|---|---|
| `ade20k_*` | ADE20K: images and label maps, 0 is other, 1 to 150 | `taming.data.ade20k.Examples` |
| `coco_examples.txt`, `coco_images`, `coco_segmentations` | COCO-Stuff: id - 1, 255 is unlabelled | \
`taming.data.coco.Examples` |
| `sflckr_*` | S-FLCKR: landscapes, ids as in COCO-Stuff less 1 | `taming.data.sflckr.Examples` |
| `drin_*` | images and depth maps: an RGBA PNG holds one float32 per pixel | `taming.data.imagenet.DRINExamples` |
| `coco_annotations_100` | COCO 2017: boxes of things and stuff | `taming.data.annotated_objects_coco` |
| `open_images_annotations_100` | Open Images V6: boxes | `taming.data.annotated_objects_open_images` |
| `custom_examples` | images and lists of them | `taming.data.custom` |
| `flickr_tags.txt`, `subreddits.txt` | where the images of S-FLCKR came from | nothing |

The two folders named `..._100` keep the names that configs know; they hold 24 images for training and 12 for
validation.

## Licences

The scenes, their maps and annotations are rendered by `taming/data/rendering` and dedicated to the public domain:
[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/).

Class ids and names are those of [COCO](https://cocodataset.org) and
[COCO-Stuff](https://github.com/nightrome/cocostuff) (annotations CC BY 4.0),
[Open Images](https://storage.googleapis.com/openimages/web/index.html) (Google LLC, annotations CC BY 4.0) and
[ADE20K](https://groups.csail.mit.edu/vision/datasets/ADE20K/).

The photographs in `custom_examples` come inside scikit-image, scaled down:

| file | by | licence |
|---|---|---|
| `astronaut.jpg` | NASA | public domain |
| `chelsea.jpg` | Stefan van der Walt | CC0 |
| `coffee.jpg` | Rachel Michetti | CC0 |
| `rocket.jpg` | SpaceX | public domain |
| `hubble.jpg` | NASA, ESA | public domain |
| `brick.jpg` | CC0 Textures | CC0 |
| `grass.jpg` | linolafett | CC0 |
| `gravel.jpg` | CC0 Textures | CC0 |
"""


def write(folder: Path) -> None:
    save_text(folder / "README.md", README)
    save_list(folder / "flickr_tags.txt", FLICKR_TAGS.split())
    save_list(folder / "subreddits.txt", SUBREDDITS.split())
