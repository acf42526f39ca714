"""A small ray caster for synthetic scenes: image, instance map, depth and boxes from one geometry, so all are exact.

World: x to the right, y up from the ground, z away from the camera, in metres.
"""
