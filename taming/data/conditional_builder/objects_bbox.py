"""Scene layouts as token sequences: for each object what it is and the corners of its box."""

from PIL.ImageDraw import ImageDraw

from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder
from taming.data.conditional_builder.utils import pixel_corners
from taming.data.helper_types import BoundingBox


class ObjectsBoundingBoxConditionalBuilder(ObjectsCenterPointsConditionalBuilder):
    """As `ObjectsCenterPointsConditionalBuilder`, but an object's place is the two corners of its box."""

    @property
    def object_descriptor_length(self) -> int:
        return 3

    def _place_tokens(self, bbox: BoundingBox) -> tuple[int, ...]:
        return self.token_pair_from_bbox(bbox)

    def _place(self, *tokens: int) -> tuple[float, ...]:
        return self.bbox_from_token_pair(*tokens)

    def _draw_object(
        self,
        draw: ImageDraw,
        place: tuple[float, ...],
        color: tuple[int, int, int],
        figure_size: tuple[int, int],
        line_width: int,
    ) -> tuple[tuple[float, float], str]:
        corners = pixel_corners(place, figure_size)
        draw.rectangle(corners, outline=color, width=line_width)
        return (corners[0] + line_width, corners[1] + line_width), "la"
