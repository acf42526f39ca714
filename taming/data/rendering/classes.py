"""The classes of things and backgrounds that scenes show, and what other data sets call them."""

from dataclasses import dataclass

UNLABELLED = 255
"""The COCO id, as COCO-Stuff's pixel maps store it, of what COCO has no class for."""


@dataclass(frozen=True)
class SceneClass:
    """Ids in COCO(-Stuff) and ADE20K (None: it has none there), and in Open Images (None: not an object there)."""

    coco: int | None
    ade: int | None
    open_images: str | None = None


CLASSES = {
    "sky": SceneClass(157, 3),
    "clouds": SceneClass(106, 3),
    "grass": SceneClass(124, 10),
    "tree": SceneClass(169, 5, "/m/07j7r"),
    "bush": SceneClass(97, 18, "/m/05s2s"),
    "mountain": SceneClass(135, 17),
    "hill": SceneClass(127, 69),
    "sea": SceneClass(155, 27),
    "river": SceneClass(148, 61),
    "sand": SceneClass(154, 47),
    "snow": SceneClass(159, None),
    "road": SceneClass(149, 7),
    "house": SceneClass(128, 26, "/m/03jm5"),
    "building": SceneClass(96, 2, "/m/0cgh4"),
    "wall": SceneClass(173, 1),
    "floor": SceneClass(118, 4),
    "ceiling": SceneClass(102, 6),
    "person": SceneClass(1, 13, "/m/01g317"),
    "car": SceneClass(3, 21, "/m/0k4j"),
    "boat": SceneClass(9, 77, "/m/019jd"),
    "bird": SceneClass(16, 127, "/m/015p6"),
    "cat": SceneClass(17, 127, "/m/01yrx"),
    "dog": SceneClass(18, 127, "/m/0bt9lr"),
    "sheep": SceneClass(20, 127, "/m/07bgp"),
    "ball": SceneClass(37, 120, "/m/018xm"),
    "chair": SceneClass(62, 20, "/m/01mzpv"),
    "couch": SceneClass(63, 24, "/m/02crq1"),
    "bed": SceneClass(65, 8, "/m/03ssj5"),
    "table": SceneClass(67, 16, "/m/04bcr3"),
    "plant": SceneClass(64, 18, "/m/03fp41"),
    "picture": SceneClass(None, 23, "/m/06z37_"),
    "lamp": SceneClass(None, 37, "/m/0dtln"),
    "window": SceneClass(181, 9, "/m/0d4v4"),
    "flower": SceneClass(119, 67, "/m/0c9ph5"),
}
"""Name -> ids. Its order numbers the labels of `taming.data.scenes`' rich world."""

VARIANTS = {"man": ("person", "/m/04yx4"), "woman": ("person", "/m/03bt1vf"), "football": ("ball", "/m/01226z")}
"""What Open Images has a class of its own for: name -> the class here, its id there."""


def class_of(kind: str) -> str:
    """The class of an instance's kind, which may be a variant."""
    return VARIANTS[kind][0] if kind in VARIANTS else kind


def open_images_id(kind: str) -> str | None:
    """Open Images' id of an instance's kind, None for background."""
    return VARIANTS[kind][1] if kind in VARIANTS else CLASSES[kind].open_images
