"""Which landmark is which: MediaPipe's mesh (468 points, 478 with irises), iBUG's 68, the mouth's 20; a mean face."""

from __future__ import annotations

#: mesh point for each of iBUG's 68: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, outer lips 48-59, inner lips 60-67;
#: the subject's right, which is the image's left, comes first
IBUG_68 = (
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
#: the mouth's 20 among the 68, GeneFace's order
MOUTH_20 = tuple(range(48, 68))
#: those of the 68 that the mouth does not move: eye corners, nose bridge, wings and base
RIGID_OF_68 = (36, 39, 42, 45, 27, 28, 29, 31, 33, 35)
#: mesh points around the face, the nose and both lips; the lips from the subject's right corner, lower side first
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
NOSE = (
    168, 417, 465, 412, 399, 437, 355, 371, 358, 327, 326, 2, 97, 98, 129, 142, 126, 217, 174, 188, 245, 193,
)  # fmt: skip
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
#: place of the lips' left corners in the two above
LEFT_CORNER = 10
#: the 68 of a mean face in speech: x to the image's right, y down, z away from the camera, origin between the outer
#: corners of the eyes, whose distance is 1. Mean of 96 training speakers' meshes, made symmetric.
MEAN_FACE_68 = (
    (-0.770, 0.069, 0.537), (-0.762, 0.234, 0.577), (-0.752, 0.400, 0.572), (-0.678, 0.763, 0.460),
    (-0.608, 0.911, 0.345), (-0.529, 1.016, 0.222), (-0.341, 1.173, 0.048), (-0.141, 1.273, -0.084),
    (0.0, 1.288, -0.103), (0.141, 1.273, -0.084), (0.341, 1.173, 0.048), (0.529, 1.016, 0.222),
    (0.608, 0.911, 0.345), (0.678, 0.763, 0.460), (0.752, 0.400, 0.572), (0.762, 0.234, 0.577),
    (0.770, 0.069, 0.537), (-0.626, -0.168, 0.019), (-0.554, -0.237, -0.069), (-0.446, -0.272, -0.141),
    (-0.310, -0.267, -0.206), (-0.157, -0.250, -0.239), (0.157, -0.250, -0.239), (0.310, -0.267, -0.206),
    (0.446, -0.272, -0.141), (0.554, -0.237, -0.069), (0.626, -0.168, 0.019), (0.0, -0.059, -0.237),
    (0.0, 0.102, -0.349), (0.0, 0.248, -0.478), (0.0, 0.342, -0.510), (-0.183, 0.481, -0.237),
    (-0.080, 0.498, -0.308), (0.0, 0.498, -0.326), (0.080, 0.498, -0.308), (0.183, 0.481, -0.237),
    (-0.500, 0.000, 0.000), (-0.421, -0.040, -0.071), (-0.306, -0.047, -0.090), (-0.196, 0.012, -0.059),
    (-0.295, 0.036, -0.082), (-0.408, 0.036, -0.062), (0.196, 0.012, -0.059), (0.306, -0.047, -0.090),
    (0.421, -0.040, -0.071), (0.500, 0.000, 0.000), (0.408, 0.036, -0.062), (0.295, 0.036, -0.082),
    (-0.279, 0.766, -0.122), (-0.168, 0.672, -0.287), (-0.083, 0.646, -0.327), (0.0, 0.657, -0.337),
    (0.083, 0.646, -0.327), (0.168, 0.672, -0.287), (0.279, 0.766, -0.122), (0.160, 0.884, -0.235),
    (0.086, 0.914, -0.263), (0.0, 0.922, -0.269), (-0.086, 0.914, -0.263), (-0.160, 0.884, -0.235),
    (-0.237, 0.759, -0.141), (-0.063, 0.734, -0.272), (0.0, 0.735, -0.281), (0.063, 0.734, -0.272),
    (0.237, 0.759, -0.141), (0.068, 0.801, -0.250), (0.0, 0.805, -0.259), (-0.068, 0.801, -0.250),
)  # fmt: skip

#: mean face: the rigid points of ``faces.RIGID_POINTS`` in units of the outer eye corners' distance, origin between
#: them, y down. Median of the training speakers, made symmetric.
TEMPLATE = (
    (-0.5, 0.0), (-0.197, 0.009), (0.197, 0.009), (0.5, 0.0), (0.0, -0.063), (0.0, 0.025),
    (0.0, 0.102), (0.0, 0.177), (0.0, 0.249), (-0.185, 0.477), (0.185, 0.477), (0.0, 0.494),
)  # fmt: skip
#: mesh points of each number of landmarks that an expert may take
LANDMARKS = {468: range(468), 68: IBUG_68, 20: [IBUG_68[point] for point in MOUTH_20]}


def landmark_layout(features: int) -> tuple[list[int], int]:
    """Mesh points and axes of an expert's landmarks.

    Raises:
        ValueError: for coordinates that cannot be made from video.
    """
    for points, index in LANDMARKS.items():
        for axes in (2, 3):
            if points * axes == features:
                return list(index), axes
    known = ", ".join(map(str, LANDMARKS))
    raise ValueError(f"landmarks: expected {known} points, which are made from video, got {features} coordinates")


MESH_POINTS = 468
#: points of the mesh that the mouth does not move: eye corners, nose bridge, wings and base; in TEMPLATE's order
RIGID_POINTS = (33, 133, 362, 263, 168, 6, 197, 195, 5, 98, 327, 2)
CHIN = (152, 148, 176, 149, 150, 377, 400, 378, 379, 175, 199, 200)
#: 20 + 20 lip points and 12 chin points: what the mouth does
MOUTH_POINTS = OUTER_LIPS + INNER_LIPS + CHIN
#: index in MOUTH_POINTS of each point's mirror image; both lip rings start at a corner and go round
MIRRORED_MOUTH = (
    *((10 - point) % 20 for point in range(20)),
    *(20 + (10 - point) % 20 for point in range(20)),
    *(40, 45, 46, 47, 48, 41, 42, 43, 44, 49, 50, 51),
)

#: mesh points that bound the groups of a parsing map
RINGS = (*FACE_OVAL, *NOSE, *OUTER_LIPS, *INNER_LIPS)
