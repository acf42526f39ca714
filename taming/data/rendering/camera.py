"""The camera: above the ground, looking along +z without tilt."""

from dataclasses import dataclass

import numpy as np

FOCAL_LENGTH = 1.1
"""In widths of the image."""
NEAR = 0.05
"""Metres; what reaches closer may be anywhere in the image."""


@dataclass(frozen=True)
class Camera:
    """width, height in pixels; elevation above the ground in metres; horizon: its row as a share of the height."""

    width: int
    height: int
    elevation: float = 1.5
    horizon: float = 0.45

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return FOCAL_LENGTH * self.width

    @property
    def origin(self) -> np.ndarray:
        """Where the camera is (3,)."""
        return np.array([0.0, self.elevation, 0.0])

    @property
    def nearest(self) -> float:
        """Depth of the ground at the lower edge of the image."""
        return self.elevation * self.focal / ((1 - self.horizon) * self.height)

    def rays(self, samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Directions (x, y, 1) of `samples` x `samples` rays in each pixel: all x (width * samples,), all y (height *
        samples,). A ray's parameter is then its depth z. With odd `samples` the middle one is the pixel's centre."""
        columns = (np.arange(self.width * samples) + 0.5) / samples
        rows = (np.arange(self.height * samples) + 0.5) / samples
        x = (columns - self.width / 2) / self.focal
        y = (self.horizon * self.height - rows) / self.focal
        return x.astype(np.float32), y.astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (..., 3) in front of the camera -> their columns and rows (...), in pixels."""
        z = points[..., 2]
        columns = self.width / 2 + self.focal * points[..., 0] / z
        rows = self.horizon * self.height - self.focal * (points[..., 1] - self.elevation) / z
        return columns, rows

    def windows(self, corners: np.ndarray) -> np.ndarray:
        """The part of the image that the hull of each group of corners (n, k, 3) can cover.

        -> int (n, 4): first column, first row, last column, last row, the last ones exclusive, cut to the image.
        """
        z = corners[..., 2:].clip(NEAR)
        columns, rows = self.project(np.concatenate([corners[..., :2], z], axis=-1))
        edges = np.stack([columns.min(-1), rows.min(-1), columns.max(-1), rows.max(-1)], axis=-1)
        edges[(corners[..., 2] < NEAR).any(-1)] = [0, 0, self.width, self.height]
        edges[(corners[..., 2] < NEAR).all(-1)] = 0
        limits = [self.width, self.height, self.width, self.height]
        outwards = np.concatenate([np.floor(edges[:, :2]), np.ceil(edges[:, 2:])], axis=1)
        return outwards.clip(0, limits).astype(int)
