"""Mask R-CNN (He et al. 2017) with a feature pyramid (Lin et al. 2017), in parts.

Boxes are `(x0, y0, x1, y1)` float32 in pixel edges, half open: a mask of columns 3 to 7 has x0 = 3 and x1 = 8. x runs
along the last axis of an image.
"""
